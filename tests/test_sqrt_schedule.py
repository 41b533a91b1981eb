"Entry 03: what look-up knows, the rule, and what the page says of a record"
import json
import math

import pytest
import torch

from helpers import ROOT, call, checkout_at, code_of, environment, shifted
from textdiffusion.journal import settle
from textdiffusion.schedules import SCHEDULES, log_snr, rescale
from textdiffusion.sampling import spaced
from textdiffusion.sqrt_schedule import ARMS, PRESETS, SWEEP, along, arms_of, best_factor, cliff, constant, easy_share, factor_for, look_up, look_up_rate, nearer, time_of


@pytest.mark.parametrize('D, V, snr', [(4, 50, 2.), (16, 82, .5), (16, 821, 1.5), (64, 300, .1), (256, 1000, .05)])
def test_the_computed_share_is_the_simulated_one(D, V, snr):
    "Over several tables, since the theory averages over them"
    shares = []
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        shares.append(look_up(torch.randn(V, D, generator=g), torch.randint(V, (2000,), generator=g), snr, seed + 100))
    assert abs(look_up_rate(snr, D, V, 4096).item() - sum(shares)/6) < .04


def test_without_noise_all_is_known_and_without_signal_a_blind_guess():
    assert look_up_rate(1e4, 16, 100).item() > .999
    assert look_up_rate(1e-6, 16, 100, 4096).item() < .05


def test_scale_and_noise_factor_are_one_knob():
    "A table of half the spread under F, and one of spread 1 under 2F, pass the cliff at the same time"
    for name in ('sqrt', 'cosine', 'linear'):
        alpha_bar = SCHEDULES[name]
        assert easy_share(rescale(alpha_bar, 1.5), 32, 500, spread=.5) == pytest.approx(easy_share(rescale(alpha_bar, 3.), 32, 500), abs=1e-9)


@pytest.mark.parametrize('r2', [1e-6, .5, 15.9999, 16., 16.0001, 1e3])
def test_the_saddlepoint_is_a_probability_and_smooth_at_the_mean(r2):
    at = lambda x: nearer(torch.tensor([x], dtype=torch.float64), torch.tensor([1e-9], dtype=torch.float64), 16).item()
    assert 0 <= at(r2) <= 1 and abs(at(r2*1.0001) - at(r2)) < 1e-3


def test_times_are_where_the_levels_are():
    for name in ('sqrt', 'cosine', 'linear', 'trunc_linear'):
        t = torch.tensor([.05, .3, .7, .95], dtype=torch.float64)
        torch.testing.assert_close(time_of(SCHEDULES[name], log_snr(t, SCHEDULES[name]).exp()), t, atol=1e-6, rtol=0)
    times = along(SCHEDULES['sqrt'], rescale(SCHEDULES['sqrt'], 8.))(50)
    assert times[0] <= 1 and times[-1] == 0 and (times.diff() < 0).all() and len(times) == 51 == len(spaced(50))


def test_the_rule_is_scale_free_and_grows_with_the_width():
    F = [factor_for(3., D, 82) for D in (16, 64, 256)]
    assert F == sorted(F) and all(constant(f, D, 82) == pytest.approx(3.) for f, D in zip(F, (16, 64, 256)))
    assert factor_for(3., 4096, 82)/factor_for(3., 1024, 82) == pytest.approx(2, rel=.01)           # the square root of the width
    assert cliff(64, 82) == pytest.approx(math.expm1(2*math.log(82)/64))


def test_the_top_of_a_flat_or_tied_sweep_stays_inside():
    assert best_factor([1., 2., 4.], [.2, .2, .2]) in (1., 2., 4.)
    assert 1 <= best_factor([1., 2., 4.], [.1, .3, .3]) <= 4


def test_every_arm_of_every_preset_exists_and_ends_in_noise():
    arms = arms_of(82, 3.)
    assert set(ARMS) <= set(arms) and set(SWEEP) <= set(PRESETS['long']['arms'])
    for preset in PRESETS:
        for corpus in ('restaurants', 'wikitext2'): assert set(settle(PRESETS, preset=preset, corpus=corpus, choices=dict(arms=ARMS)).arms) <= set(arms)
    for name in ARMS: assert arms[name].alpha_bar(torch.ones(1)).item() < 1e-4 and f'-{arms[name].width}' in name


@pytest.mark.parametrize('given, says', [(['-p', 'arms', 'sqrt-61'], 'did you mean sqrt-64'), (['-p', 'calls', '0'], 'calls'), (['-p', 'steps', '-3'], 'steps'), (['--corpus', 'wikitext'], 'wikitext2')])
def test_bad_input_is_refused_before_a_kernel_starts(given, says):
    out = call('textdiffusion', 'run', '03', *given)
    assert out.returncode == 2 and says in out.stderr and out.stderr.count('\n') == 1


def published():
    return [json.loads(p.read_text(encoding='utf-8')) for p in sorted((ROOT/'journal/03_sqrt_schedule').glob('*.json'))]

@pytest.mark.parametrize('n', range(4))
def test_the_sentences_follow_the_record(n):
    "Where every measured number moves, every sentence with a number moves"
    if n >= len(found := published()): pytest.skip('there is no such record')
    import numpy, pandas
    from functools import partial
    from textdiffusion.evaluation import T_975, mean_of, paired
    space = dict(np=numpy, pd=pandas, math=math, partial=partial, T_975=T_975, mean_of=mean_of, paired=paired, **{f.__name__: f for f in (constant, easy_share, factor_for, time_of, cliff)}, SCHEDULES=SCHEDULES, SWEEP=SWEEP)
    exec(code_of('nbs/03_sqrt_schedule.ipynb', 'gap', 'first_beliefs', 'on_text', 'answer', 'priced'), space)
    rec = found[n]
    moved = shifted(rec, {'parameters', 'corpus_info', 'factor', 'trained', 'calls', 'quartile'})
    first, second = (space['lessons'](r).split('\n') for r in (rec, moved))
    still = set(first) & set(second)
    assert all('One seed' in s or 'not by itself' in s for s in still), still


def test_the_smoke_run_of_real_text_needs_no_grammar(tmp_path):
    "The page runs on a corpus without a grammar"
    folder = checkout_at(tmp_path)
    words = 'the cat sat on the mat and a dog ran to the old house by the river'.split()
    (tmp_path/'data/wikitext-2').mkdir(parents=True)
    for k, split in enumerate(('train', 'valid', 'test')):
        g = torch.Generator().manual_seed(k)
        (tmp_path/f'data/wikitext-2/{split}.txt').write_text('\n'.join(' '.join(words[i] for i in torch.randint(len(words), (30,), generator=g).tolist()) for _ in range(200 if split == 'train' else 60)), encoding='utf-8')
    out = call('textdiffusion', 'run', '03', '--preset', 'smoke', '--corpus', 'wikitext2', '-p', 'arms', 'sqrt-64,rule-64', cwd=folder, env=environment(PYTHONPATH=str(folder), TEXTDIFFUSION_DATA=str(tmp_path/'data')))
    assert out.returncode == 0, out.stderr[-2000:]
