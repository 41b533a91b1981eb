"Entry 10g: a look-up in the scores, and noise levels from a law that is learned"
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.lengths import lengths_of
from textdiffusion.levers import (ARMS, LOOKS, NOISE, PRESETS, SHORT, asked, beside, loss_of, network, reading, spoiled,
                                  written)
from textdiffusion.lookup import look_up_scores
from textdiffusion.metrics import exact_nll
from textdiffusion.noise_levels import GumbelLaw, cost_miss, learned_t, quantile_times, times_of
from textdiffusion.objectives import draw, stratified_t, token_ce
from textdiffusion.oracles import lookup_denoiser
from textdiffusion.recipe import ARMS as OF_10D, network as network_of_10d, sizes_of
from textdiffusion.records import Run
from textdiffusion.schedules import log_snr

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(**PRESETS['smoke']))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))

def fresh(name, seed=0):
    torch.manual_seed(seed)
    return network(RUN, ARMS[name])

def test_all_arms_begin_as_10ds_network():
    torch.manual_seed(0)
    base = network_of_10d(RUN, OF_10D['sorted']).state_dict()
    for name in ARMS:
        mine = {k: v for k, v in fresh(name).state_dict().items() if not k.startswith('law')}
        assert mine.keys() == base.keys() and all(torch.equal(mine[k], base[k]) for k in base), name

@pytest.mark.parametrize('name', ['look-up', 'stopped'])
def test_an_untrained_network_with_frequencies_is_bayes_word_by_word(name):
    model, often = fresh(name), (CORPUS.train.flatten().bincount(minlength=CORPUS.vocab_size) + .5).log()
    with torch.no_grad(): model.head.out.bias.copy_(often)
    x, t = torch.randn(6, 4, 16), torch.tensor([1e-4, .01, .1, .3, .6, 1.])
    exact = lookup_denoiser(model.emb, CORPUS.train, NOISE)(x, t)
    said = model(x, t)
    assert (said[0] - exact[0]).abs().max() < 2e-3
    assert (said[1].softmax(-1) - exact[1].softmax(-1)).abs().max() < 2e-3

def test_half_and_bounded_say_less():
    x, t = torch.randn(4, 3, 16), torch.tensor([.001, .05, .3, .9])
    scores = {name: fresh(name)(x, t)[1].detach() for name in ARMS}
    def spread(name): return scores[name] - scores[name].mean(-1, keepdim=True)
    assert (scores['sorted'] == 0).all() and (spread('half') - spread('look-up')/2).abs().max() < 1e-2
    most = (math.log(CORPUS.vocab_size)/(16*log_snr(t.double(), NOISE).exp())).clamp(max=1).float()[:, None, None]
    assert most[0] < .1 < 1 == most[-1] and (spread('bounded') - most*spread('look-up')).abs().max() < 1e-3
    assert (spread('half-bounded') - spread('bounded')/2).abs().max() < 1e-4

def test_a_bounded_look_up_leads_by_as_much_as_it_may():
    emb = 4*torch.eye(9)
    ids = torch.randint(9, (4000, 1), generator=torch.Generator().manual_seed(0))
    for t, most in ((.001, 2.), (.9, 2.)):
        times = torch.full((4000,), t)
        ab = NOISE(times)[:, None, None]
        x = ab.sqrt()*emb[ids] + (1-ab).sqrt()*torch.randn(4000, 1, 9, generator=torch.Generator().manual_seed(1))
        scores = look_up_scores(x, times, emb, NOISE, most)
        right = scores.gather(-1, ids[..., None])
        lead = (right.sum() - (scores.sum() - right.sum())/8)/4000
        assert lead.item() == pytest.approx(min(most, 16*(ab/(1-ab))[0].item()), rel=.06)

def test_only_stopped_keeps_the_look_up_from_the_table():
    ids = CORPUS.train[:8]
    for name, moves in {'sorted': False, 'stopped': False, 'look-up': True, 'bounded': True, 'half': True}.items():
        model = fresh(name)                                           # its last layer is zero: the rest is mute
        token_ce(model, draw(model, ids, NOISE, stratified_t)).mean().backward()
        assert bool(model.table.weight.grad is not None and model.table.weight.grad.abs().max() > 1e-6) == moves, name

def test_what_predictions_cost_moves_the_law_alone():
    model, ids = fresh('learned-levels'), CORPUS.train[:16]
    d = draw(model, ids, NOISE, learned_t(model.law, stratified_t))
    cost_miss(model, d).mean().backward()
    assert [k for k, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0] == ['law.moved']
    out = loss_of(RUN, ARMS['learned-levels'])(model, ids)
    assert out['loss'] > 0 and {'token_ce', 'cost_miss'} <= out.keys()
    assert 'cost_miss' not in loss_of(RUN, ARMS['sorted'])(fresh('sorted'), ids)

def test_a_law_is_saved_with_its_network():
    model, other = fresh('learned-levels'), fresh('learned-levels', 1)
    with torch.no_grad(): model.law.moved.copy_(torch.tensor([.1, -.2, .05]))
    other.load_state_dict(model.state_dict())
    assert quantile_times(other.law)(7).tolist() == quantile_times(model.law)(7).tolist()
    assert quantile_times(other.law)(7).tolist() != quantile_times(fresh('learned-levels').law)(7).tolist()

def test_levels_of_a_law_are_spread_as_it_says():
    law = GumbelLaw(NOISE, 4.)
    torch.manual_seed(0)
    t = torch.cat([learned_t(law, stratified_t)(64) for _ in range(50)]).double()
    told = (law.cost(-log_snr(t, NOISE))/4).sort().values       # where the cost rises levels are met as often
    assert (told - (torch.arange(len(told)) + .5)/len(told)).abs().max() < .02
    assert times_of(torch.zeros(3), NOISE).unique().numel() == 1

def test_one_word_is_wrong():
    bad, at = spoiled(CORPUS, 60)
    texts = {tuple(row) for row in CORPUS.test[:60].tolist()}
    assert 40 < len(bad) and exact_nll(bad, CORPUS).isinf().all()
    for row, place in zip(bad.tolist(), at.tolist()):
        assert sum(a[:place] + a[place+1:] == tuple(row[:place] + row[place+1:]) for a in texts)
        assert row[place] not in (CORPUS.eos_id, CORPUS.pad_id, CORPUS.bos_id)
    assert torch.equal(bad, spoiled(CORPUS, 60)[0])

def test_one_who_knows_the_text_mends_it():
    emb = F.layer_norm(torch.randn(CORPUS.vocab_size, 16, generator=torch.Generator().manual_seed(0)), (16,))
    held = CORPUS.test[:RUN.cfg.held]
    def knows(x_t, t, x0_prev):
        "Of all held-out sentences of its length the one that agrees in most places"
        near = (x_t @ emb.T).argmax(-1)
        mine = held[lengths_of(held, CORPUS.pad_id) == x_t.shape[1]][:, :x_t.shape[1]]
        best = (near[:, None] == mine).sum(-1).argmax(1)
        return x_t, 99*F.one_hot(mine[best], len(emb)).float()
    found = reading(RUN, knows, emb, .0005)
    assert found['accuracy'] == found['mends'] == 1 and found['stays'] == 0 and found['token_ce'] < 1e-6
    said = asked(RUN, knows, emb, held, .0005)
    assert said.shape == (*held.shape, len(emb)) and (said[held == CORPUS.pad_id] == 0).all()

@pytest.mark.parametrize('name', list(ARMS))
def test_networks_write_rows_of_the_corpus(name):
    model = fresh(name)
    one, two = (written(RUN, model, 3, 5) for _ in range(2))
    assert one.shape == (6, CORPUS.seq_len) and torch.equal(one, two)
    assert (lengths_of(one, CORPUS.pad_id) <= sizes_of(RUN, 'sorted', 6, 5)).all()

def test_a_lever_is_held_against_the_recipe_seed_by_seed():
    rows = [dict(arm=a, seed=s, setting='both ends', calls=50, valid=v + .1*s)
            for a, v in (('sorted', .5), ('half', .3)) for s in range(3)]
    rows += [dict(arm=a, seed=0, setting='even times', token_ce=v) for a, v in (('half', 2.), ('stopped', 2.5))]
    record = dict(rows=rows, parameters=dict(calls=[4, 50]))
    assert beside(record, 'half').mean == pytest.approx(-.2) and beside(record, 'half').clear
    assert beside(record, 'stopped', 'half', 'token_ce').mean == pytest.approx(.5)

def test_every_arm_is_drawn_and_told():
    assert set(PRESETS['long']['arms']) == set(SHORT.values()) <= set(LOOKS) == set(ARMS)

@pytest.mark.parametrize('wrong', [lambda: GumbelLaw(NOISE, 0.), lambda: GumbelLaw(NOISE, 4., -1.),
                                   lambda: quantile_times(GumbelLaw(NOISE, 4.))(0),
                                   lambda: look_up_scores(torch.zeros(1, 1, 2), torch.ones(1), torch.eye(2), NOISE,
                                                          0.)])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match='must'): wrong()

@pytest.mark.parametrize('name, value', [('steps', '0'), ('samples', '-1'), ('arms', 'look-down')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([value if name == 'arms' else name], 'run', '10g_levers', '-p', name, value)
