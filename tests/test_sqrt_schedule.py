"Entries 03 and 03b: what look-up knows, the rule, every arm, bad input, smoke runs of both"
import math

import pytest
import torch
from helpers import refused_at_once, smoke_run
from textdiffusion import noise_prediction, sqrt_schedule
from textdiffusion.lookup import cliff, easy_share, look_up_rate, nearer, time_of
from textdiffusion.presets import settle
from textdiffusion.sampling import spaced
from textdiffusion.schedules import SCHEDULES, log_snr, rescale
from textdiffusion.sqrt_schedule import (ARMS, GRID, PRESETS, SWEEP, along, arms_of, best_factor, factor_for, facts,
                                         measured_c, rule_constant)


# what look-up knows -------------------------------------------------------------------------------------------------

def looked_up(snr, D, V, seed):
    "Share of words that look-up gets right on one random table"
    g = torch.Generator().manual_seed(seed)
    table, ids = torch.randn(V, D, generator=g), torch.randint(V, (2000,), generator=g)
    y = table[ids] + torch.randn(2000, D, generator=g)/snr**.5
    return (torch.cdist(y, table).argmin(1) == ids).double().mean().item()

@pytest.mark.parametrize('D, V, snr', [(4, 50, 2.), (16, 82, .5), (16, 821, 1.5), (64, 300, .1), (256, 1000, .05)])
def test_the_computed_share_is_the_simulated_one(D, V, snr):
    "Over several tables, since the theory averages over them"
    shares = [looked_up(snr, D, V, seed) for seed in range(6)]
    assert abs(look_up_rate(snr, D, V).item() - sum(shares)/6) < .04

@pytest.mark.parametrize('D, V', [(16, 82), (64, 82), (768, 50265)])
def test_the_stated_error_holds(D, V):
    "The default number of draws is within three standard errors of sixteen times as many"
    few, many = look_up_rate(cliff(D, V), D, V), look_up_rate(cliff(D, V), D, V, draws=262_144)
    assert abs(few - many) < 3*.5/16_384**.5

def test_scale_and_noise_factor_are_one_knob():
    "A table of half the spread under F, and one of spread 1 under 2F, pass the cliff at the same time"
    for name in ('sqrt', 'cosine', 'linear'):
        half = easy_share(rescale(SCHEDULES[name], 1.5), 32, 500, spread=.5)
        assert half == pytest.approx(easy_share(rescale(SCHEDULES[name], 3.), 32, 500), abs=1e-9)

@pytest.mark.parametrize('r2', [1e-6, .5, 15.9999, 16., 16.0001, 1e3])
def test_the_saddlepoint_is_a_probability_and_smooth_at_the_mean(r2):
    def at(x):
        return nearer(torch.tensor([x], dtype=torch.float64), torch.tensor([1e-9], dtype=torch.float64), 16).item()
    assert 0 <= at(r2) <= 1 and abs(at(r2*1.0001) - at(r2)) < 1e-3

def test_times_are_where_the_levels_are():
    t = torch.tensor([.05, .3, .7, .95], dtype=torch.float64)
    for name in ('sqrt', 'cosine', 'linear', 'trunc_linear'):
        found = time_of(SCHEDULES[name], log_snr(t, SCHEDULES[name]).exp())
        torch.testing.assert_close(found, t, atol=1e-6, rtol=0)
    times = along(SCHEDULES['sqrt'], rescale(SCHEDULES['sqrt'], 8.))(50)
    assert times[0] <= 1 and times[-1] == 0 and (times.diff() < 0).all() and len(times) == 51 == len(spaced(50))


# the rule -----------------------------------------------------------------------------------------------------------

def test_the_rule_grows_with_the_width():
    F = [factor_for(3., D, 82) for D in (16, 64, 256)]
    assert F == sorted(F) and all(rule_constant(f, D, 82) == pytest.approx(3.) for f, D in zip(F, (16, 64, 256)))
    assert factor_for(3., 4096, 82)/factor_for(3., 1024, 82) == pytest.approx(2, rel=.01)     # the root of the width
    assert cliff(64, 82) == pytest.approx(math.expm1(2*math.log(82)/64))

def test_the_top_of_a_flat_or_tied_sweep_stays_inside():
    assert best_factor([1., 2., 4.], [.2, .2, .2]) in (1., 2., 4.)
    assert 1 <= best_factor([1., 2., 4.], [.1, .3, .3]) <= 4

@pytest.mark.parametrize('score, sign', [('valid', 1), ('teacher_nll', -1)])
def test_c_is_found_again(score, sign):
    "Scores that peak where both widths pass the cliff at c = 2"
    def off(F, D): return math.log(rule_constant(F, D, 82)/2)**2
    rows = [{'arm': arm, 'seed': 0, 'start': '', score: 3 - sign*off(F, D)} for D in GRID for F, arm in GRID[D].items()]
    assert measured_c(rows, 82, score)['c'] == pytest.approx(2.)

def test_every_arm_of_every_preset_exists_and_ends_in_noise():
    arms = arms_of(82, 3.)
    for module, corpora in ((sqrt_schedule, ('restaurants', 'wikitext2')), (noise_prediction, ('restaurants',))):
        choices = dict(arms=module.ARMS)
        for preset in module.PRESETS:
            for corpus in corpora:
                assert set(settle(module.PRESETS, preset=preset, corpus=corpus, choices=choices).arms) <= set(arms)
    assert set(SWEEP) <= set(PRESETS['long']['arms'])
    for name in ARMS: assert arms[name].alpha_bar(torch.ones(1)).item() < 1e-4 and f'-{arms[name].width}' in name

def test_facts_of_a_small_record_are_those_there_are():
    "One arm, one seed: what is missing has no number, and nothing fails"
    row = dict(arm='x0-16', seed=0, start='', valid=.2, new=.3, nll_minus_entropy=-.5, width=16, factor=1.)
    empty = dict(quartiles=[], survivors=[], crossed=[])
    f = facts(dict(rows=[row], rule=dict(c=.9, by='a parameter'), corpus_info=dict(V=82), **empty))
    assert f.c.mean == .9 and f.test.mean != f.test.mean


# as a reader runs it ------------------------------------------------------------------------------------------------

REFUSED = [(['-p', 'arms', 'sqrt-61'], 'did you mean sqrt-64'), (['-p', 'calls', '0'], 'calls'),
           (['-p', 'constant_c', '-1'], 'constant_c'), (['--corpus', 'wikitext'], 'wikitext2')]

@pytest.mark.parametrize('given, says', REFUSED)
def test_bad_input_is_refused_before_a_kernel_starts(given, says):
    refused_at_once([says], 'run', '03_sqrt_schedule', *given)

def test_an_arm_alone_runs_to_its_end():
    "One that belongs to no sweep and is no arm of the preset"
    record = smoke_run('03_sqrt_schedule', arms='x0-16')
    assert record['rule']['c'] == pytest.approx(.934, abs=.001) and set(record['weights']) == {'x0-16-0'}

def test_the_companion_runs_and_samples_the_noise_twice():
    record = smoke_run('03b_noise_prediction', arms='eps-16')
    assert {r['start'] for r in record['rows'] if r['arm'] == 'eps-16'} == {'', 'late'} and 'crossed' not in record

def test_real_text_needs_no_grammar(tmp_path):
    "Running text in byte pairs, on a corpus without a grammar"
    words = 'the cat sat on the mat and a dog ran to the old house by the river'.split()
    folder = tmp_path/'data/wikitext-2'
    folder.mkdir(parents=True)
    for k, (split, n) in enumerate(dict(train=200, valid=60, test=60).items()):
        drawn = torch.randint(len(words), (n, 30), generator=torch.Generator().manual_seed(k)).tolist()
        lines = [' '.join(words[i] for i in row) for row in drawn]
        (folder/f'{split}.txt').write_text('\n'.join(lines), encoding='utf-8')
    found = dict(TEXTDIFFUSION_DATA=str(tmp_path/'data'))
    record = smoke_run('03_sqrt_schedule', found, corpus='wikitext2', arms='sqrt-64,rule-64')
    assert record['corpus_info']['tokenizer'] == 'BPE' and record['headline']['name'].startswith('teacher_nll')
