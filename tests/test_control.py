"Entry 08: what guides do to a sampler at their ends, what judges say, and what is refused"
import math
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.control import check
from textdiffusion.corpora import load_corpus
from textdiffusion.guiding import (anew, by_score, by_steps, clean_words, kept, noised_words, on_guess, summed,
                                   with_given)
from textdiffusion.noisy_readers import Reader, check_table, kinds_of, wish_loss
from textdiffusion.recipes import NOISE, RECIPES
from textdiffusion.sampling import sample
from textdiffusion.steering import CountedGradients, ends_wish, known_words, texts_of, wishes
from textdiffusion.targets import (JUDGES, asked, base_rates, by_rejection, draw_targets, outcomes, target,
                                   together)

CORPUS = load_corpus('restaurants')
LANGUAGE, L = CORPUS.grammar, CORPUS.seq_len

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    made = RECIPES['continuous'].model(CORPUS, d_model=32, n_layers=1, n_heads=2)
    with torch.no_grad():
        for p in made.parameters(): p.add_(.1*torch.randn_like(p))
    return made

@pytest.fixture(scope='module')
def reader(model): return Reader(model.emb, kinds_of(LANGUAGE), 16, 1, 2, 8)

def written(model, **how):
    return sample(model, (4, L, 16), NOISE, 6, generator=torch.Generator().manual_seed(5), decode=lambda x, logits: x,
                  **how)[0]

@pytest.mark.parametrize('task', [t for t in JUDGES if t != 'infilling'])
def test_a_guide_without_force_changes_no_bit(model, reader, task):
    targets = draw_targets(LANGUAGE, task, 4)
    loss = ends_wish(model, reader, CORPUS, targets) if task == 'length' else wish_loss(reader, targets, L)
    free = written(model)
    for guide in (by_steps(loss, anew, lr=0.), by_steps(loss, kept, lr=0.), by_score(loss, 0.)):
        assert torch.equal(written(model, guide=guide), free)
    assert not torch.equal(written(model, guide=by_steps(loss, rest=0.)), free)

def test_much_fluency_forgets_the_wish_and_takes_the_noise_away(model, reader):
    "What is said to give the unguided sampler back gives the means of its steps, to within a step"
    losses = [wish_loss(reader, draw_targets(LANGUAGE, 'tags', 4, seed), L) for seed in (0, 1)]
    x, mean, t = torch.randn(4, L, 16), torch.zeros(4, L, 16), torch.full((4,), .5)
    one, other = (by_steps(loss, steps=80, lam=1e9)(x, t, mean, .5) for loss in losses)
    assert torch.allclose(one, other, atol=1e-5) and one.abs().max() <= .1 + 1e-5

@pytest.mark.parametrize('size', [1e-6, 1., 1e6])
def test_a_new_adagrad_takes_steps_of_one_size(size):
    x, t = torch.randn(2, 3, 4), torch.full((2,), .5)
    moved = by_steps(lambda x, t: size*x.sum((1, 2)), anew, 3, lr=.05, lam=0.)(x, t, torch.zeros_like(x), 1.)
    assert torch.allclose(x - moved, torch.full_like(x, .15), atol=1e-5 if size > 1e-3 else .01)

def test_a_row_does_not_depend_on_the_others(model, reader):
    parts = wishes(LANGUAGE, 'content + tags', 4, 0)
    x, t, mean = torch.randn(4, L, 16), torch.full((4,), .5), torch.zeros(4, L, 16)
    def loss(rows): return summed([wish_loss(reader, part[rows], L) for part in parts])
    whole = by_steps(loss(slice(4)), kept)(x, t, mean, .3)
    alone = by_steps(loss(slice(1, 2)), kept)(x[1:2], t[:1], mean[:1], .3)
    assert torch.allclose(whole[1:2], alone, atol=1e-4)

@pytest.mark.parametrize('noised', [False, True])
def test_infilling_of_all_is_the_input_and_of_nothing_is_free(model, noised):
    ids, every = CORPUS.test[:4], torch.ones(4, L, dtype=torch.bool)
    def project(given):
        g = torch.Generator().manual_seed(1)
        return noised_words(model.emb, ids, given, NOISE, g) if noised else clean_words(model.emb, ids, given)
    free, _ = sample(model, (4, L, 16), NOISE, 6, generator=torch.Generator().manual_seed(5))
    def filled(given):
        return sample(model, (4, L, 16), NOISE, 6, generator=torch.Generator().manual_seed(5), project=project(given),
                      decode=with_given(ids, given))[0]
    assert torch.equal(filled(every), ids) and torch.equal(filled(~every), free)
    assert torch.equal(written(model, project=project(every)), model.emb[ids])

def test_known_words_stand_where_they_are_asked():
    targets = draw_targets(LANGUAGE, 'infilling', 8, 4)
    ids, given = known_words(CORPUS, targets)
    for row, there, t in zip(ids, given, targets):
        said = CORPUS.tokenizer.convert_ids_to_tokens(row[1:].tolist())
        assert [w if g else None for w, g in zip(said, there[1:])][:len(t.asked)] == list(t.asked)
        assert there.sum() == 1 + sum(w is not None for w in t.asked) and row[0] == CORPUS.bos_id

def test_a_sum_of_wishes_has_the_sum_of_their_gradients(reader):
    parts = wishes(LANGUAGE, 'content + tree', 3, 2)
    losses = [wish_loss(reader, part, L) for part in parts]
    x, t = torch.randn(3, L, 16, requires_grad=True), torch.rand(3)
    def grad(loss): return torch.autograd.grad(loss(x, t).sum(), x)[0]
    assert torch.allclose(grad(summed(losses)), sum(map(grad, losses)), atol=1e-5)

def test_two_wishes_are_met_by_the_sentence_they_are_read_off():
    for task in ('content + tags', 'content + tree'):
        targets, whence = together(wishes(LANGUAGE, task, 20, 3)), LANGUAGE.sample(20, 1003)
        assert all(t.met(words) for t, words in zip(targets, whence)) and all(asked(t) for t in targets)
        assert sum(t.met(words) for t, words in zip(targets, whence[1:])) < 5

def test_rejection_is_what_independent_drafts_reach():
    texts, targets = LANGUAGE.sample(3000, 8), draw_targets(LANGUAGE, 'content', 20, 5)
    expected = by_rejection(base_rates(LANGUAGE, targets, texts), 3)
    drafts = [LANGUAGE.sample(400, 100 + i) for i in range(3)]
    met = sum(any(t.met(d[k]) for d in drafts) for t in targets for k in range(400))/8000
    assert abs(met - expected) < 4*math.sqrt(expected*(1 - expected)/8000) + .02

def test_a_text_without_end_is_no_sentence():
    ids = CORPUS.test[:2].clone()
    ids[0, (ids[0] == CORPUS.eos_id).nonzero()[0]] = CORPUS.pad_id
    cut, whole = texts_of(CORPUS, ids)
    assert not LANGUAGE.contains(cut) and LANGUAGE.contains(whole)
    assert outcomes(LANGUAGE, draw_targets(LANGUAGE, 'length', 2), [cut, whole])[0]['both'] == 0

def test_gradients_are_counted(model, reader):
    loss = CountedGradients(on_guess(model, wish_loss(reader, draw_targets(LANGUAGE, 'spans', 4), L)), 2)
    written(model, guide=by_steps(loss, rest=0.))
    assert loss.passes == 2*2*3*5                                 # three steps after each of six calls but the last

def test_what_cannot_be_asked_is_refused_in_one_sentence(reader):
    wrong = [lambda: target(LANGUAGE, 'tags', ['FOO']), lambda: target(LANGUAGE, 'spans', ('NP', 0, 1)),
             lambda: target(LANGUAGE, 'spans', ('name', 40, 41)), lambda: target(LANGUAGE, 'length', 99),
             lambda: wish_loss(reader, [], L), lambda: check_table(reader, torch.randn(3, 16)),
             lambda: wish_loss(reader, draw_targets(LANGUAGE, 'tags', 4), 6)]
    for f in wrong:
        with pytest.raises(ValueError) as e: f()
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='no exact judges'): check(None, SimpleNamespace(name='e2e', grammar=None))

def test_a_run_without_wishes_ends_at_once():
    refused_at_once(['targets'], 'run', '08_control', '-p', 'targets', '0')
