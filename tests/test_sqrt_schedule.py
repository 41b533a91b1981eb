"Entry 03: what look-up knows, the rule, and what the page says of a record"
import json
import math

import pytest
import torch

from helpers import ROOT, call, checkout_at, code_of, environment, judging, shifted
from textdiffusion.journal import settle
from textdiffusion.schedules import SCHEDULES, log_snr, rescale
from textdiffusion.sampling import spaced
from textdiffusion.sqrt_schedule import ARMS, GRID, PRESETS, SWEEP, along, arms_of, best_factor, cliff, constant, easy_share, factor_for, look_up, look_up_rate, nearer, time_of


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

def page():
    "The functions of the page that judge and speak"
    own = {f.__name__: f for f in (constant, easy_share, factor_for, time_of, cliff)}
    space = judging() | own | dict(SCHEDULES=SCHEDULES, GRID=GRID, SWEEP=SWEEP)
    exec(code_of('nbs/03_sqrt_schedule.ipynb', 'gap', 'belief_on_text', 'judge', 'in_short', 'dull_sentences', 'answer', 'lessons', 'measured', until='judged ='), space)
    return space

@pytest.mark.parametrize('n', range(4))
def test_the_sentences_follow_the_record(n):
    "Where every measured number moves, every sentence with a number moves"
    if n >= len(found := published()): pytest.skip('there is no such record')
    rec, lessons = found[n], page()['lessons']
    first, second = (lessons(r).split('\n') for r in (rec, shifted(rec, {'parameters', 'corpus_info', 'factor', 'trained', 'calls', 'quartile'})))
    still = set(first) & set(second)
    assert all('One seed' in s or 'not by itself' in s for s in still), still


def made_up(valid, arms, corpus='restaurants', **more):
    "A record with three seeds whose arms have these validities, a hundredth apart by seed"
    rows = [dict(arm=a, seed=s, start='', valid=valid(a) + .005*s*(i % 2), nll_minus_entropy=-1., new=.3, valid_new=.3*valid(a), teacher_nll=3 + valid(a) + .01*s, unigram=5 + valid(a)) for i, a in enumerate(arms) for s in range(3)]
    rows += [dict(arm=a, seed=0, start='', valid=.5, new=.4, teacher_nll=2., unigram=6., distinct_2=.8) for a in ('real', '3-gram', '5-gram', 'shuffled')]
    crossed = [dict(arm='sqrt-64', seed=s, trained=f, along=f'F{g}', valid=.1*f + .01*s if f == g else .1 + .01*s) for s in range(3) for f in (1., 2., 4., 8.) for g in (1, 2, 4, 8)]
    rule = dict(c=3., best={'16': 2., '64': 4.5}, each={'16': 2.9, '64': 3.}, by='this run', new=dict(best={'16': 2., '64': 4.}, each={'16': 2.9, '64': 2.4}, c=2.6),
                seeds=[dict(best={'16': 2., '64': 4.5}, each={'16': 2.9, '64': 3. + s/10}, c=3.) for s in range(3)])
    return dict(preset='long', corpus=corpus, corpus_info=dict(V=82), parameters=dict(arms=arms), seeds=[0, 1, 2], rows=rows, crossed=crossed, rule=rule,
        quartiles=[dict(arm=a, seed=0, quartile=q, look_up=.5, network=.6) for a in arms for q in range(4)], tables=[dict(arm='learnt-64-F4', seed=s, rms=1.5) for s in range(3)],
        survivors=[dict(arm=a, seed=s, reads=r, common=.8 if r == 'network' else .4, rare=.5 if r == 'network' else .4) for a in arms for s in range(3) for r in ('network', 'look_up')]) | more

GOOD = {'sqrt-16-F0.5': .2, 'sqrt-16': .3, 'sqrt-16-F2': .4, 'sqrt-16-F4': .35, 'sqrt-64': .1, 'sqrt-64-F2': .2, 'sqrt-64-F4': .38, 'sqrt-64-F8': .3, 'sqrt-256': .02, 'rule-256-half': .3, 'rule-256': .38, 'rule-256-double': .3,
        'cosine-16': .15, 'linear-16': .2, 'cosine-16-F2': .3, 'x0-16': .3, 'eps-16': 0., 'eps-64': 0.}

def test_beliefs_are_judged_by_their_bars():
    judge = page()['judge']
    good, bad = ({b['belief']: b['outcome'] for b in judge(made_up(f, list(GOOD)))} for f in (GOOD.get, lambda a: {'rule-256': .03, 'rule-256-double': .2, 'sqrt-256': .4, 'sqrt-64': .4, 'eps-16': .3, 'cosine-16': .31, 'cosine-16-F2': .1}.get(a, GOOD[a])))
    assert len(good) == 8 and set(good.values()) == {'held'}, good
    assert list(bad.values()).count('refuted') >= 4 and 'too close to call' not in bad.values(), bad      # with F = 1 the best, there is no gain to take apart
    only = {b['belief']: b['outcome'] for b in judge(made_up(GOOD.get, ['sqrt-16', 'sqrt-64'], rule=dict(c=3., by='x'), tables=[]))}
    assert list(only.values()).count('not judged') >= 6, only

def test_a_cheaper_text_counts_only_with_its_words():
    judge, arms = page()['judge'], ['sqrt-64', 'rule-64', 'rule-64-half', 'rule-64-double', 'cosine-64']
    better = made_up(lambda a: .4 if a == 'rule-64' else .9, arms, 'wikitext2')
    assert [b['outcome'] for b in judge(better)] == ['refuted']                       # cheaper, but its words are further from real text's
    for r in better['rows']: r['unigram'] = {'rule-64': 5.9, 'sqrt-64': 4.}.get(r['arm'], 6.)
    assert [b['outcome'] for b in judge(better)] == ['held']

def test_claims_and_lessons_of_a_made_up_record():
    space, rec = page(), made_up(GOOD.get, list(GOOD))
    assert {k: v[1] for k, v in space['measured'](rec).items()} == {'anchor-037': 'reproduced', 'bart-153': 'reproduced'}
    assert space['measured'](made_up(GOOD.get, ['sqrt-16'], survivors=[])) == {'anchor-037': None, 'bart-153': None}
    said = space['lessons'](rec)
    assert 'c = 2.90 and 3.00' in said and 'nan' not in said


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
