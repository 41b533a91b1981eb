"""Samplers that take words back: levels kept, ancestral sampling draw for draw, the language with a perfect denoiser"""
import math

import pytest
import torch

from helpers import FEW, overhead
from textdiffusion.corpora import oracle
from textdiffusion.decoding_rules import padded
from textdiffusion.grammar import load_grammar
from textdiffusion.metrics import exact_nll
from textdiffusion.oracles import doubting_oracle, masked_oracle
from textdiffusion.revision import (
    Step, capped, check_levels, correcting, dfm_corrector, doubtful, forward_backward, looped, most, own, planned,
    remasking, remembered, rescaled, revise, while_held)
from textdiffusion.schedules import mask_cosine
from textdiffusion.unmasking import canvas, even_times, unmask
from test_decoding_rules import surprise

def seeded(seed=0): return torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def few():
    "A sub-language of a few hundred sentences as a corpus"
    return oracle(load_grammar('restaurants').sub_language(rules=FEW['restaurants']))

def blank(corpus, n): return canvas(torch.full((n, 1), corpus.bos_id), corpus.seq_len, corpus.mask_id)
def settled(corpus): return padded(corpus.eos_id, corpus.pad_id, corpus.mask_id)

def table(z, share):
    "A denoiser that knows nothing of neighbours: other rates at each place"
    scores = torch.randn(z.shape[1], 7, generator=seeded(3))
    return scores.expand(len(z), -1, -1)

SIGMAS = {'cap': capped(.05), 'large cap': capped(.9), 'rescale': rescaled(.3), 'all': rescaled(1.),
          'forward-backward': forward_backward, 'flow corrector': dfm_corrector, 'held': while_held(rescaled(.5)),
          'ancestral': rescaled(0.)}
LEVELS = [(0., .125), (.5, .6), (.9, .95), (.1, .8), (.7, .7), (.875, 1.)]

# levels ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('levels', LEVELS, ids=str)
@pytest.mark.parametrize('name', SIGMAS)
def test_a_step_leaves_the_share_that_its_level_asks_for(name, levels):
    a, b = levels
    shown = torch.rand(20_000, 6, generator=seeded()) < a
    at = Step(~shown, shown, shown.long(), torch.ones(20_000, 6), None, a, b, seeded(1))
    fill, hide = remasking(SIGMAS[name])(at)
    assert not (fill & shown).any() and not (hide & ~shown).any() and 0 <= SIGMAS[name](at) <= most(at)
    left = ((~shown & ~fill) | hide).double().mean().item()
    assert left == pytest.approx(1-b, abs=4*math.sqrt(max(b*(1-b), 1e-9)/120_000) + 1e-9)

def test_hiding_by_doubt_hides_a_little_more():
    "Its sigma is no constant: what stands loses sigma, what is hidden is filled as by ancestral sampling"
    shown = torch.rand(40_000, 6, generator=seeded()) < .5
    at = Step(~shown, shown, shown.long(), torch.rand(40_000, 6, generator=seeded(2)), None, .5, .6, seeded(1))
    sigma = doubtful(at)
    assert torch.allclose(sigma.sum(1), torch.tensor(.8).double()*shown.any(1)) and (sigma[~shown] == 0).all()
    fill, hide = remasking(doubtful)(at)
    left = ((~shown & ~fill) | hide).double().mean().item()
    assert left == pytest.approx(.4 + (sigma.sum()/240_000).item(), abs=.005) and left > .45

@pytest.mark.parametrize('times', [even_times, correcting(1), correcting(3), looped()])
@pytest.mark.parametrize('steps', [1, 2, 3, 8, 33])
def test_levels_are_kept_to_the_end(times, steps):
    t = times(steps)
    assert len(t) == steps+1 and t[0] == 1 and t[-1] == 0 and (t.diff() <= 0).all() and (t[:-1] > 0).all()
    check_levels((1-t).tolist())

def test_held_levels_are_as_many_as_asked_for():
    for k in (1, 2, 3):
        held = (correcting(k)(60).diff() == 0).sum().item()
        assert held == 60 - 60//(k+1)
    assert (looped(level=.8)(40).sub(.2).abs() < 1e-9).sum() >= 20

def test_the_canvas_follows_its_levels():
    _, _, trace = revise(table, torch.full((500, 20), 7), 12, 7, rule=remasking(rescaled(.6)), alpha_bar=mask_cosine,
                         generator=seeded(), trace_every=1)
    for moment, t in zip(trace, even_times(12).tolist()):
        assert moment['t'] == pytest.approx(1 - mask_cosine(torch.tensor(t)).item(), abs=.025)

# one loop and the other -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('settle', [True, False])
@pytest.mark.parametrize('alpha_bar', [None, mask_cosine])
def test_sigma_0_is_ancestral_sampling_draw_for_draw(few, settle, alpha_bar):
    how = dict(settle=settled(few)) if settle else {}
    if alpha_bar: how['alpha_bar'] = alpha_bar
    for seed in (0, 1):
        old, _ = unmask(masked_oracle(few), blank(few, 40), 12, few.mask_id, generator=seeded(seed), **how)
        for rule in (remasking(rescaled(0.)), remasking(while_held(rescaled(1.)))):
            new, calls, _ = revise(masked_oracle(few), blank(few, 40), 12, few.mask_id, rule=rule,
                                   generator=seeded(seed), **how)
            assert torch.equal(old, new) and calls.max() <= 12

def test_a_row_is_asked_about_only_where_it_has_changed():
    asked = []
    def denoiser(z, share): asked.append(z.clone()); return table(z, share)
    _, calls, trace = revise(denoiser, torch.full((30, 6), 7), 40, 7, rule=remasking(rescaled(.05)),
                             generator=seeded(), trace_every=1)
    seen = torch.stack([m['ids'] for m in trace[:-1]])                           # (40,30,6) before each call
    changed = torch.cat([torch.ones(1, 30).bool(), (seen[1:] != seen[:-1]).any(-1)]) & (seen == 7).any(-1)
    assert torch.equal(calls, changed.sum(0)) and sum(map(len, asked)) == calls.sum() < .7*40*30
    assert all((z == 7).any(1).all() for z in asked)

def test_what_is_asked_about_anew_is_answered_anew():
    "Kept scores belong to the canvas that stands: with a copying denoiser each word is its left neighbour's"
    def copy(z, share):
        left = z.roll(1, 1).clamp(max=6)
        left[:, 0] = 3
        return 99.*torch.nn.functional.one_hot(left, 7)
    def leftmost_one(at): return at.hidden & (at.hidden.cumsum(1) == 1), at.shown & False
    ids, calls, _ = revise(copy, torch.full((5, 6), 7), 9, 7, rule=leftmost_one)
    assert (ids == 3).all() and (calls == 6).all()

RULES = {'rescale': remasking(rescaled(.4)), 'doubt': remasking(doubtful), 'corrector': remasking(dfm_corrector),
         'P2 own': planned(own), 'P2 remembered': planned(remembered, 2.)}

@pytest.mark.parametrize('name', RULES)
def test_what_was_given_never_changes(name):
    z = torch.full((60, 12), 7)
    z[:, :3], z[:, 8] = torch.tensor([5, 1, 2]), 4
    ids, _, trace = revise(table, z, 15, 7, rule=RULES[name], generator=seeded(), trace_every=1)
    for moment in trace: assert (moment['ids'][z != 7] == z[z != 7]).all()
    assert (ids < 7).all() and trace[-1]['t'] == 0
    lost = sum(((a['ids'] != 7) & (b['ids'] == 7)).sum() for a, b in zip(trace, trace[1:]))
    assert lost > 0                                                              # it does take back

# the perfect denoiser -------------------------------------------------------------------------------------------------

EXACT = {'rescale': dict(rule=remasking(rescaled(.02))), 'corrector': dict(rule=remasking(forward_backward)),
         'held': dict(rule=remasking(while_held(rescaled(.05))), times=correcting(1))}

@pytest.fixture(scope='module')
def offers():
    "A language of 51 sentences"
    return oracle(load_grammar('restaurants').sub_language('Offer'))

def against_the_language(corpus, n, steps, **how):
    "Chi-square of the samples that are sentences, its degrees of freedom, and the share of these"
    ids, calls, _ = revise(masked_oracle(corpus, 512), blank(corpus, n), steps, corpus.mask_id, settle=settled(corpus),
                           generator=seeded(1), **how)
    right = exact_nll(ids, corpus).isfinite()
    return *surprise(corpus, ids[right]), right.double().mean().item()

@pytest.mark.parametrize('name', EXACT)
def test_hiding_at_random_writes_the_language_in_many_steps(offers, name):
    chi, free, right = against_the_language(offers, 500, 400, **EXACT[name])
    assert free > 20 and abs(chi - free) < 4*(2*free)**.5 and right > .96

def test_hiding_by_what_stands_writes_another_language(offers):
    chi, free, right = against_the_language(offers, 500, 60, rule=planned(remembered))
    assert right > .95 and chi > 5*free

def test_padding_that_stays_would_tell_where_the_end_was(offers):
    "So what is settled is seen and not written; a rule that writes it writes another language"
    def stays(at):
        fill, hide = remasking(rescaled(.1))(at)
        return fill | (at.hidden & ~at.said.masked), hide
    chi, free, _ = against_the_language(offers, 400, 200, rule=stays)
    assert chi > 3*free

# P2 -------------------------------------------------------------------------------------------------------------------

def hidden_again(trace, mask): return sum(((a['ids'] != mask) & (b['ids'] == mask)).sum().item()
                                          for a, b in zip(trace, trace[1:]))

@pytest.mark.parametrize('planner', [own, remembered])
def test_eta_0_takes_nothing_back_and_more_eta_takes_more(planner):
    def lost(eta):
        _, _, trace = revise(table, torch.full((40, 15), 7), 10, 7, rule=planned(planner, eta), generator=seeded(),
                             trace_every=1)
        return hidden_again(trace, 7)
    assert lost(0.) == 0 < lost(1.) < lost(5.)

def test_a_denoiser_that_carries_over_turns_own_scores_into_confidence_decoding(few):
    "The trap: SUBS says 1 of each word that stands, so none is ever taken back"
    how = dict(z=blank(few, 40), steps=12, mask_id=few.mask_id, trace_every=1)
    traces = {name: revise(denoiser, rule=rule, generator=seeded(), **how)[2] for name, denoiser, rule in (
        ('own', masked_oracle(few), planned(own)), ('never', masked_oracle(few), planned(own, 0.)),
        ('remembered', masked_oracle(few), planned(remembered)), ('doubting', doubting_oracle(few), planned(own)))}
    lost = {name: hidden_again(trace, few.mask_id) for name, trace in traces.items()}
    assert lost['never'] == 0 and lost['own'] <= .05*lost['remembered'] and lost['doubting'] > lost['own']

def test_P2_keeps_as_many_as_its_level():
    _, _, trace = revise(table, torch.full((40, 15), 7), 10, 7, rule=planned(remembered), generator=seeded(),
                         trace_every=1)
    for i, moment in enumerate(trace):
        assert ((moment['ids'] == 7).sum(1) == math.floor(15*(1 - i/10) + 1e-9)).all()

# cost and refusals ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['rescale', 'P2 own'])
def test_revision_costs_little_beside_the_forward_passes(name):
    assert overhead(lambda denoiser, z: revise(denoiser, z, 6, 78, rule=RULES[name], generator=seeded())) <= .35

@pytest.mark.parametrize('name', RULES)
def test_who_watches_sees_the_trace_and_the_calls(name):
    told, how = [], dict(rule=RULES[name], trace_every=1)
    ids, calls, trace = revise(table, torch.full((6, 9), 7), 8, 7, generator=seeded(2), watch=told.append, **how)
    assert len(told) == len(trace) == 9 and all(a is b for a, b in zip(told, trace))
    assert torch.equal(told[-1]['calls'], calls) and torch.equal(told[-1]['ids'], ids) and (told[0]['calls'] == 0).all()
    assert torch.equal(ids, revise(table, torch.full((6, 9), 7), 8, 7, rule=RULES[name], generator=seeded(2))[0])

def test_two_runs_agree_and_parts_are_free_of_each_other():
    a, b = (revise(table, torch.full((20, 9), 7), 8, 7, rule=RULES['doubt'], generator=seeded(5))[0] for _ in range(2))
    assert torch.equal(a, b)

@pytest.mark.parametrize('change, words', [
    (dict(rule='ReMDM'), 'rule must be a function.*remasking and planned make one'),
    (dict(rule=remasking), 'remasking returns one.*planned make one'), (dict(rule=planned), 'planned returns one'),
    (dict(times=lambda n: torch.linspace(0, 1, n+1)), 'levels must not'),
    (dict(times=lambda n: torch.zeros(n+1)), 'stay below 1'), (dict(steps=0), 'steps'), (dict(choose=3), 'choose'),
    (dict(z=torch.zeros(2, 4).long()), 'nothing to fill'), (dict(generator=7), 'torch.Generator'),
    (dict(mask_id=-1), 'mask_id'), (dict(trace_every=-2), 'trace_every'), (dict(denoiser=None), 'denoiser')])
def test_a_wrong_argument_is_refused_before_the_first_call(change, words):
    def never(z, share): raise AssertionError('asked')
    right = dict(denoiser=never, z=torch.full((2, 4), 7), steps=3, mask_id=7, rule=remasking(rescaled(.1)))
    with pytest.raises((TypeError, ValueError), match=words) as e: revise(**right | change)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('make, words', [
    (lambda: rescaled(1.5), 'eta'), (lambda: capped(-.1), 'eta'), (lambda: remasking(.1), 'sigma must be a function'),
    (lambda: planned('own'), 'planner must be a function'), (lambda: planned(own, -1.), 'eta'),
    (lambda: correcting(0), 'correctors'), (lambda: looped(on=.2, off=.3), '0 < off < on < 1'),
    (lambda: looped(level=1.), 'level between 0 and 1')])
def test_a_rule_that_cannot_be(make, words):
    with pytest.raises((TypeError, ValueError), match=words): make()
