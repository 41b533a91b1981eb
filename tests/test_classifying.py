"Classifiers that write: estimators against what is known exactly, decisions, calibration, and the traps of entry 09"
import math
from dataclasses import replace
from itertools import combinations, permutations
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.classifying import (EveryPlace, Given, auroc, brier, calibration_error, chosen, count_draws,
    even_sequence, fifteen, fit_temperature, label_logp, mask_exactly, mcnemar, naive_bayes, per_word, posterior,
    predicted_wrong, sequential, sometimes, time_draws)
from textdiffusion.corpora import load_corpus
from textdiffusion.denoising import masked_nelbo
from textdiffusion.generative_classifier import (BELIEFS, CHOICES, LOSSES, PRESETS, SIDES, TASKS, facts, sides_task,
                                                 trained)
from textdiffusion.labelled import Task, in_turn, once, two_by_two
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import masked_bound, masked_nll
from textdiffusion.optimizers import muon_adamw
from textdiffusion.oracles import masked_oracle
from textdiffusion.records import Run, headline
from textdiffusion.shared_information import listed_denoiser
from textdiffusion.training import fit

V = 5
def seeded(seed=0): return torch.Generator().manual_seed(seed)
def clueless(z, share): return torch.zeros(*z.shape, V)
TEXT = torch.randint(V, (30, 6), generator=seeded())

def network(seed):
    "An untrained network with opinions"
    torch.manual_seed(seed)
    model = MaskedDenoiser(MaskedConfig(vocab_size=V, d_model=16, n_layers=1, n_heads=2))
    model.out.weight.data.normal_()
    return model.eval()

def language(seed, n=40, L=4):
    "A list of texts, all equally likely"
    return torch.randint(3, (n, L), generator=seeded(seed))

def exact_bound(denoiser, ids, mask_id):
    "The bound by enumeration of all masks"
    L, total = ids.shape[1], torch.zeros(len(ids), dtype=torch.float64)
    for k in range(1, L+1):
        for hidden in combinations(range(L), k):
            z = ids.index_fill(1, torch.tensor(hidden), mask_id)
            nll = masked_nll(denoiser(z, torch.full((len(ids),), k/L)), ids, z, mask_id).double().sum(1)
            total += nll*(L/k)/L/math.comb(L, k)
    return total

# estimators -----------------------------------------------------------------------------------------------------------

def test_a_uniform_guess_costs_the_same_in_every_draw_and_ties_are_a_coin():
    draws = count_draws([clueless]*2, TEXT, V, 8)
    assert torch.allclose(draws, torch.full_like(draws, 6*math.log(V)), rtol=1e-6)
    many = chosen(torch.zeros(1, 10_000, 2))
    for labels in (torch.arange(10_000) % 2, torch.arange(10_000) // 5_000):         # in turn, sorted
        assert abs((many == labels).double().mean() - .5) < .015

def test_classes_that_are_alike_never_differ_if_they_share_their_masks():
    model = network(0)
    draws = count_draws([model, model], TEXT, V, 16)
    assert torch.equal(draws[..., 0], draws[..., 1]) and draws.std(0).mean() > .1
    apart = time_draws([model, model], TEXT, V, 16, sometimes)
    assert (apart[..., 0] - apart[..., 1]).abs().mean() > .5

def test_the_first_draws_are_those_of_a_smaller_K_and_its_counts_are_spread():
    model = network(0)
    assert torch.equal(count_draws([model], TEXT, V, 16)[:4], count_draws([model], TEXT, V, 4))
    for n in (2, 4, 8, 64): assert (even_sequence(n)*n).sort().values.tolist() == list(range(n))

@pytest.mark.parametrize('seed', [0, 1])
def test_the_mean_over_masks_is_the_mean_over_orders_exactly(seed):
    model, ids = network(seed), TEXT[:5, :4]
    chains = []
    for order in permutations(range(4)):
        cost = torch.zeros(5, dtype=torch.float64)
        for i, place in enumerate(order):
            z = ids.index_fill(1, torch.tensor(order[i:]), V)
            cost += masked_nll(model(z, torch.ones(5)), ids, z, V).double()[:, place]
        chains.append(cost)
    with torch.no_grad(): assert torch.allclose(torch.stack(chains).mean(0), exact_bound(model, ids, V), atol=1e-5)

def test_draws_are_unbiased_for_the_enumeration():
    model, ids = network(2), TEXT[:2, :5].repeat(2000, 1)
    with torch.no_grad(): want = exact_bound(model, TEXT[:2, :5], V)
    for draws in (count_draws([model], ids, V, 4), time_draws([model], ids, V, 16)):
        got = draws[..., 0].mean(0).view(2000, 2)
        assert (abs(got.mean(0) - want) < 4*got.std(0)/2000**.5 + 1e-3).all()

def test_with_perfect_probabilities_the_bound_is_the_price_and_all_hidden_is_words_alone():
    texts = language(0)
    perfect = listed_denoiser(texts, 3)
    price = torch.tensor([-math.log((texts == t).all(1).double().mean()) for t in texts], dtype=torch.float64)
    assert torch.allclose(exact_bound(perfect, texts, 3), price, atol=1e-6)
    z = torch.full_like(texts, 3)
    alone = masked_nll(perfect(z, torch.ones(len(z))), texts, z, 3).sum(1)
    odds = torch.stack([(texts[:, None] == texts[None]).double().mean(1)[:, i] for i in range(4)], 1)
    assert torch.allclose(alone, -odds.log().sum(1), atol=1e-9)

def test_on_the_language_perfect_models_decide_as_the_exact_rule():
    run = SimpleNamespace(corpus=load_corpus('restaurants'), device='cpu', cfg=SimpleNamespace(held=24, spare=4))
    task, sides = sides_task(run, 0), []
    for rules in SIDES: sides.append(masked_oracle(replace(run.corpus, grammar=run.corpus.grammar.sub_language(
        rules=rules))))
    text = task.test[:, 1:]
    got, exact = -count_draws(sides, text, task.mask_id, 64, task.keep).mean(0), task.exact(text)
    assert ((got - exact).diff(dim=1).abs() < 1.5).double().mean() > .9        # the length is given to one of them
    sure = exact.diff(dim=1).abs()[:, 0] > 2
    assert sure.any() and torch.equal(got.argmax(1)[sure], exact.argmax(1)[sure])

def test_sharing_masks_makes_differences_smaller():
    models = [network(0), network(0)]
    models[1].out.weight.data += .05*torch.randn(models[1].out.weight.shape, generator=seeded())
    spread = lambda d: (d[..., 0] - d[..., 1]).var(0).mean().item()
    assert spread(count_draws(models, TEXT, V, 32)) < spread(time_draws(models, TEXT, V, 32, sometimes))/10

def test_draws_agree_with_the_bound_of_the_library():
    model = network(1)
    a, b = count_draws([model], TEXT, V, 64)[..., 0].mean(0), masked_nelbo(model, TEXT, V, 64)
    assert abs((a - b).mean()) < .2

def test_a_text_without_free_places_and_an_empty_list_are_refused():
    with pytest.raises(ValueError, match='row 0 has no position'):
        count_draws([clueless], TEXT, V, keep=torch.tensor(True))
    with pytest.raises(ValueError, match='a denoiser for each class'): time_draws([], TEXT, V)

def test_what_is_hidden_at_fifteen_percent():
    assert fifteen(3).tolist() == pytest.approx([.15]*3) and sometimes(1000, seeded()).min() >= 1e-3
    assert per_word(torch.tensor([6., 0.]), torch.tensor([3, 0]), None).tolist() == [2, 0]
    z, level = mask_exactly(TEXT, torch.full((30,), 3), torch.ones(30, 6, dtype=torch.bool), V, seeded())
    assert ((z == V).sum(1) == 3).all() and len(level) == 30

# decisions ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('k, wrong', [(1, .4013), (4, .3085), (16, .1587), (64, .0228)])
def test_how_often_a_gap_of_half_a_nat_is_missed(k, wrong):
    fake = .5 + 2*torch.randn(64, 20_000, generator=seeded(), dtype=torch.float64)
    assert abs((fake[:k].mean(0) < 0).double().mean() - wrong) < .01
    one = torch.tensor([-1., 1.], dtype=torch.float64).repeat(500)[:, None]*2 + .5
    assert predicted_wrong(one, k).item() == pytest.approx(wrong, abs=.002)

def test_a_prior_moves_the_threshold_by_its_log_odds_and_a_constant_moves_nothing():
    draws = torch.randn(3, 200, 2, generator=seeded(), dtype=torch.float64)
    assert torch.equal(chosen(draws), chosen(draws + 7))
    gap = draws.mean(0)[:, 0] - draws.mean(0)[:, 1]
    assert torch.equal(chosen(draws, torch.tensor([.3, -.2])) == 1, gap > .5)

def test_a_sequential_test_stops_early_on_easy_texts():
    easy, hard = 3 + torch.randn(64, 300, generator=seeded()), .02 + torch.randn(64, 300, generator=seeded(1))
    (right, few), (_, many) = sequential(easy), sequential(hard)
    assert right.all() and few.double().mean() < 8 and many.double().mean() > 35 and many.max() == 64
    with pytest.raises(ValueError, match='least must be from 2'): sequential(easy, least=1)

# probabilities --------------------------------------------------------------------------------------------------------

def test_a_temperature_changes_neither_decisions_nor_order():
    score = 9*torch.randn(3000, 2, generator=seeded(), dtype=torch.float64)
    labels = (torch.rand(3000, generator=seeded(1)) < posterior(score, 6)[:, 1]).long()
    T = fit_temperature(score, labels)
    assert T == pytest.approx(6, rel=.15)
    hot, cool = posterior(score), posterior(score, T)
    assert torch.equal(hot.argmax(1), cool.argmax(1))
    assert calibration_error(cool, labels) < calibration_error(hot, labels)
    assert auroc(score[:, 1] - score[:, 0], labels) == auroc((score[:, 1] - score[:, 0])/T, labels)
    assert brier(torch.eye(2)[labels], labels) == 0 and brier(torch.eye(2)[1-labels], labels) == 2

def test_areas_and_p_values_of_small_cases():
    assert auroc(torch.tensor([1., 2, 3, 4]), torch.tensor([0, 1, 0, 1])) == .75
    yes = torch.ones(10, dtype=torch.bool)
    assert mcnemar(yes, yes) == 1 and mcnemar(yes, ~yes) == 2/2**10
    mixed = torch.arange(60) % 2 == 0
    assert mcnemar(mixed, ~mixed) == 1                                                # 30 against 30
    lead = torch.arange(60) < 45                                                      # 45 against 15
    assert mcnemar(lead, ~lead) == pytest.approx(math.erfc(math.sqrt(29**2/60/2)))

def test_words_alone():
    rows, y = torch.tensor([[1, 2], [1, 3], [4, 2], [4, 3]]), torch.tensor([0, 0, 1, 1])
    assert naive_bayes(rows, y, 5)(rows).argmax(1).tolist() == [0, 0, 1, 1]

# the class reaches the network ----------------------------------------------------------------------------------------

def toy(step, n, seed=0, classes=(0, 1)):
    "Four words, of which the class decides the third"
    words = torch.randint(2, 5, (n, 4), generator=seeded(step))
    rows = in_turn([words[:n//2], words[n//2:]], 7)
    rows[:, 3] = rows[:, 0] - 7
    return rows

def test_a_class_at_every_place_is_learned_and_the_wrong_label_costs_more():
    torch.manual_seed(0)
    body = MaskedDenoiser(MaskedConfig(vocab_size=9, d_model=16, n_layers=1, n_heads=2))
    model = EveryPlace(body, body.table, 7, 2)
    before = model.vector.weight.detach().clone()
    run = fit(model, masked_bound(6, keep=lambda ids: ids >= 7), lambda step: toy(step, 32), 150,
              optimizer=lambda m: muon_adamw(m, lr=1e-2))
    assert (model.vector.weight - before).norm() > .1 and before.norm() > 1       # a gradient, and no zero start
    rows = toy(999, 64)
    task = Task(rows, rows, toy, 6, 7, torch.tensor([8]), torch.arange(9))
    cost = two_by_two(task, count_draws([Given(run.ema, 7 + c) for c in (0, 1)], rows[:, 1:], 6, 16))
    assert cost['cost_00'] < cost['cost_01'] - 1 and cost['cost_11'] < cost['cost_10'] - 1

def test_shuffled_labels_teach_nothing():
    torch.manual_seed(0)
    body = MaskedDenoiser(MaskedConfig(vocab_size=9, d_model=16, n_layers=1, n_heads=2))
    def batches(step):
        rows = toy(step, 32)
        rows[:, 0] = rows[torch.randperm(32, generator=seeded(step)), 0]
        return rows
    run = fit(EveryPlace(body, body.table, 7, 2), masked_bound(6, keep=lambda ids: ids >= 7), batches, 150,
              optimizer=lambda m: muon_adamw(m, lr=1e-2))
    rows = toy(999, 64)
    task = Task(rows, rows, toy, 6, 7, torch.tensor([8]), torch.arange(9))
    c = two_by_two(task, count_draws([Given(run.ema, 7 + c) for c in (0, 1)], rows[:, 1:], 6, 16))
    assert abs(c['cost_01'] + c['cost_10'] - c['cost_00'] - c['cost_11'])/2 < .3

def test_reading_the_class_of_a_fresh_network_is_a_coin():
    model = MaskedDenoiser(MaskedConfig(vocab_size=9, d_model=16, n_layers=1, n_heads=2)).eval()
    assert torch.allclose(label_logp(model, TEXT, 6, 7, 2).exp(), torch.tensor(.5, dtype=torch.float64))

# entry 09 -------------------------------------------------------------------------------------------------------------

RUN = Run(cfg=SimpleNamespace(corpus='restaurants', base_model='', held=40, spare=20, d_model=16, n_layers=1, n_heads=2,
                              lr=.01, muon_lr=.02, steps=2, batch_size=8))

def test_rows_carry_their_class_and_every_slice_has_both():
    RUN.__dict__.update(corpus=load_corpus('restaurants'), device=torch.device('cpu'))
    task = sides_task(RUN, 0)
    for rows in (task.test[:4], task.valid[-6:], task.batch(3, 8, 0)):
        assert task.labels(rows).double().mean() == .5 and not (rows[:, 1:] >= task.first).any()
    assert torch.equal(task.batch(3, 8, 0), task.batch(3, 8, 0))
    likely = task.exact(task.test[:, 1:]).argmax(1) == task.labels(task.test)
    assert likely.double().mean() > .7                                             # labels and texts belong together
    assert not torch.equal(sides_task(RUN, 1).test, task.test)

@pytest.mark.parametrize('of', LOSSES)
def test_the_label_is_hidden_where_it_is_asked_for_and_nowhere_else(of):
    task = sides_task(RUN, 0)
    seen = []
    class Spy(MaskedDenoiser):
        def forward(self, z, share):
            seen.append(z)
            return super().forward(z, share)
    model = Spy(MaskedConfig(vocab_size=task.first + 2, d_model=16, n_layers=1, n_heads=2))
    rows = task.batch(0, 64, 0)
    LOSSES[of](task)(model, rows)
    label, words = (seen[0] == task.mask_id)[:, 0], (seen[0] == task.mask_id)[:, 1:]
    assert dict(body=0, everywhere=0).get(of, label.sum()) == label.sum()
    assert label.all() and not words.any() if of == 'head' else words.any()
    assert not (seen[0][:, 1:] == task.mask_id)[task.keep(rows[:, 1:])].any()

def test_texts_that_occur_twice_are_dropped():
    rows = torch.tensor([[7, 1, 2], [8, 1, 2], [7, 3, 4], [7, 5, 5]])
    assert once(rows, torch.tensor([[8, 3, 4]])).tolist() == [[7, 1, 2], [7, 5, 5]]

def test_both_classes_of_one_network_from_the_entry():
    task = sides_task(RUN, 0)
    model = trained(RUN, task, 'x', 0, 'everywhere').ema
    assert count_draws([Given(model, task.first + c) for c in (0, 1)], task.test[:4, 1:], task.mask_id, 2,
                       task.keep).shape == (2, 4, 2)

def test_no_classifier_of_the_record_beats_the_exact_rule():
    record = headline('09_generative_classifier')
    n = record['parameters']['held']*len(record['seeds'])
    best = sum(r['accuracy'] for r in record['rows'] if r['way'] == 'Bayes')/len(record['seeds'])
    arms = {(r['arm'], r['way'], r.get('k')) for r in record['rows']}
    for arm, way, k in arms:
        mine = [r['accuracy'] for r in record['rows'] if (r['arm'], r['way'], r.get('k')) == (arm, way, k)]
        assert sum(mine)/len(mine) < best + 3*(best*(1-best)/n)**.5

def test_beliefs_have_facts_and_presets_grow():
    f = facts(headline('09_generative_classifier'))
    assert all(b.fact in f for b in BELIEFS) and len(BELIEFS) <= 5
    size = {k: p['seeds']*p['steps']*p['held'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu'] and set(CHOICES['corpus']) == set(TASKS)

def test_a_pretrained_network_for_the_language_and_another_corpus_are_refused():
    refused_at_once(['base_model', 'rotten_tomatoes'], 'run', '09_generative_classifier', '-p',
                    'base_model', 'roberta-base')
    refused_at_once(['e2e', 'restaurants'], 'run', '09_generative_classifier', '--corpus', 'e2e')
