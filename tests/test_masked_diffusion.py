"Entry 06 as a reader runs it, its functions against known answers, and the numbers of its text"
import json
import math
import re
import shutil

import pandas as pd
import pytest
import torch

from helpers import (REAL_TEXT, ROOT, call, code_of, environment, failed_before_training, judging, needs_real_text,
                     outputs, refused_at_once, shifted)
from textdiffusion.corpora import load_corpus
from textdiffusion.oracles import masked_oracle
from textdiffusion.masked_diffusion import PRESETS, arms_of, blank, bound_scatter, canvases, independent_t, parallel_bound, posterior_gap, whole
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import masked_bound, stratified_t
from textdiffusion.schedules import mask_linear

NB = 'nbs/06_masked_diffusion.ipynb'
SMALL = ['-p', 'preset', 'smoke']
CORPUS = load_corpus('restaurants')
MASK, FIRST = CORPUS.mask_id, torch.arange(CORPUS.seq_len) == 0

# functions ------------------------------------------------------------------------------------------------------------

def uniform(z, share): return torch.zeros(*z.shape, CORPUS.vocab_size)

@pytest.mark.parametrize('calls', [1, 3, 29])
def test_a_blind_guess_loses_nothing_by_parallel_draws(calls):
    bound = parallel_bound(uniform, CORPUS.test[:4], MASK, calls, FIRST)
    torch.testing.assert_close(bound, torch.full((4,), 28*math.log(CORPUS.vocab_size), dtype=torch.float64), atol=1e-3, rtol=0)

def test_more_calls_cost_the_perfect_denoiser_less():
    exact, ids = masked_oracle(CORPUS), CORPUS.test[:32]
    price = -sum(CORPUS.grammar.log_prob(w) for w in CORPUS.words(ids))/32
    lost = [parallel_bound(exact, ids, MASK, calls, FIRST).mean().item() - price for calls in (1, 4, 16, 64)]
    assert lost == sorted(lost, reverse=True) and lost[0] > 20 and lost[-1] < 1.5

def test_the_path_does_not_depend_on_the_model_or_the_batch():
    ids = CORPUS.test[:8]
    together, parts = (parallel_bound(masked_oracle(CORPUS), ids, MASK, 4, FIRST, batch=b) for b in (64, 3))
    torch.testing.assert_close(together, parts)

def test_posterior_gap_is_zero_for_the_perfect_denoiser_only():
    exact = masked_oracle(CORPUS)
    for z in canvases(CORPUS.test[:8], CORPUS).values():
        assert abs(posterior_gap(exact, exact, z, MASK)) < 1e-9 < .5 < posterior_gap(uniform, exact, z, MASK)

def test_canvases_leave_the_begin_and_what_is_visible():
    ids = CORPUS.test[:64]
    made = canvases(ids, CORPUS)
    assert list(made) == ['prefix', 'ending', 'gap', 'scattered']
    for z in made.values(): assert ((z == ids) | (z == MASK)).all() and (z[:, 0] == CORPUS.bos_id).all() and (z == MASK).any(1).float().mean() > .9
    assert (made['prefix'][:, :5] == ids[:, :5]).all() and (made['prefix'][:, 5:] == MASK).all()
    ends = (ids == CORPUS.eos_id).nonzero()[:, 1]
    assert (made['ending'].gather(1, ends[:, None]) == CORPUS.eos_id).all()

def test_stratified_times_scatter_less():
    batches = [CORPUS.batch(i, 64, seed=99) for i in range(60)]
    a, b = (bound_scatter(masked_oracle(CORPUS), batches, MASK, mask_linear, f, FIRST)['scatter'] for f in (stratified_t, independent_t))
    assert a < .85*b

def test_arms_differ_in_one_thing():
    torch.manual_seed(0)
    model, ids = MaskedDenoiser(MaskedConfig(vocab_size=CORPUS.vocab_size, d_model=16, n_layers=1, n_heads=2)), CORPUS.test[:16]
    arms = arms_of(MASK, FIRST)
    assert list(arms) == PRESETS['smoke']['arms'] and {k for k, a in arms.items() if a.fields} == {'time'}
    def loss(fn): torch.manual_seed(1); return fn(model, ids)['loss']
    assert loss(arms['baseline'].loss_fn) == loss(masked_bound(MASK, keep=FIRST)) == loss(arms['time'].loss_fn)
    assert len({loss(arms[k].loss_fn).item() for k in ('baseline', 'unweighted', 'cosine', 'exponential', 'independent')}) == 5

def test_whole_forgives_nothing_behind_the_end():
    ids = CORPUS.test[:4].clone()
    ids[1, -1], ids[2, 1], ids[3] = 7, CORPUS.pad_id, CORPUS.pad_id
    assert whole(ids, CORPUS).tolist() == [True, False, False, False]

def test_blank_is_begin_and_masks():
    assert blank(CORPUS, 3).tolist() == [[CORPUS.bos_id] + [MASK]*28]*3

# the page as a reader runs it -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A checkout of its own, so that nothing here is touched"
    tmp = tmp_path_factory.mktemp('checkout')
    for name in ('nbs', 'textdiffusion', 'journal'): shutil.copytree(ROOT/name, tmp/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '.runs'))
    shutil.copy(ROOT/'settings.ini', tmp)
    return tmp

@pytest.fixture(scope='module')
def smoke(copy):
    "The record and the page of the command under the preset smoke"
    done = call('textdiffusion', 'run', '06_masked_diffusion', '--preset', 'smoke', cwd=copy, env=environment(PYTHONPATH=str(copy)))
    assert done.returncode == 0, done.stderr[-2000:]
    path, = copy.glob('.runs/06_masked_diffusion-*/record.json')
    return json.loads(path.read_text(encoding='utf-8')), path.with_name('page.ipynb')

def test_the_command(smoke, copy):
    record, page = smoke
    assert 'preset smoke · corpus restaurants (source: oracle)' in outputs(page) and {p.name for p in (copy/'journal/06_masked_diffusion').iterdir()} == {p.name for p in (ROOT/'journal/06_masked_diffusion').iterdir()}
    assert {r['arm'] for r in record['rows']} == {'shuffled', '3-gram', '5-gram', 'real', 'perfect', 'perfect, cosine steps', 'baseline, cosine steps', *PRESETS['smoke']['arms']}
    assert {r['calls'] for r in record['rows'] if r['arm'] in ('perfect', 'baseline')} == {'4', '8', '16', '29', 'one place each'}
    assert next(r for r in record['rows'] if r['arm'] == 'perfect' and r['calls'] == 'one place each')['whole'] >= .99

def test_papermill(tmp_path):
    before = {p: p.stat().st_mtime_ns for d in ('journal', '.runs') for p in (ROOT/d).rglob('*')}
    done = call('papermill', NB, tmp_path/'out.ipynb', *SMALL, '--no-progress-bar')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'preset smoke' in outputs(tmp_path/'out.ipynb')
    assert before == {p: p.stat().st_mtime_ns for d in ('journal', '.runs') for p in (ROOT/d).rglob('*')}

@needs_real_text
def test_on_real_text(tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', *SMALL, '-p', 'corpus', 'e2e', '--no-progress-bar', env=environment(TEXTDIFFUSION_DATA=REAL_TEXT))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'teacher_nll' in outputs(tmp_path/'out.ipynb') and REAL_TEXT not in (tmp_path/'out.ipynb').read_text(encoding='utf-8')

BAD = [(['-p', 'step', '3'], ['step', 'steps']), (['--corpus', 'wiki'], ['restaurants-large']), (['-p', 'arms', 'unwieghted'], ['unweighted']), (['-p', 'steps', '0'], ['steps']), (['-p', 'samples', '-4'], ['samples']), (['-p', 'calls', '4,4'], ['calls', 'twice']), (['-p', 'calls', '4,2001'], ['calls', '2000']),
       (['-p', 'exact', '1.5'], ['exact'])]

@pytest.mark.parametrize('args, words', BAD, ids=lambda x: x[-1])
def test_a_wrong_parameter_is_refused(args, words):
    refused_at_once(words, 'textdiffusion', 'run', '06_masked_diffusion', *args)

@pytest.mark.parametrize('args, words', [(['-p', 'calls', '4,0'], ['calls', 'positive']), pytest.param(['-p', 'corpus', 'tiny_shakespeare'], ['sentences', 'running text'], marks=needs_real_text)], ids=['calls', 'running text'])
def test_under_papermill_the_first_failing_cell_says_it(args, words, tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', *SMALL, *args, '--no-progress-bar', env=environment(TEXTDIFFUSION_DATA=REAL_TEXT or ''))
    failed_before_training(done, tmp_path/'out.ipynb', words)

# what the page says ---------------------------------------------------------------------------------------------------

def text_of(record):
    "What the entry says of a record"
    given = dict(pinned=lambda *a: None, references=dict(bounds=[]), results={}, ceiling=dict(lost=[]))
    space = judging() | dict(pd=pd, math=math) | given
    exec(code_of(NB, 'gap', 'on_the_ceiling', 'on_the_arms', 'split', 'at_each_call', 'answer', 'against_vectors', until='parts = ') + '\n' + code_of(NB, 'lessons', until='tell('), space)
    tables = [space[f](record).to_csv() for f in ('at_each_call', 'arms_beside')]
    return '\n'.join([b['measured'] for b in space['judge'](record)] + [space['lessons'](record)] + tables)

STATED = {'0.05', '0.1'}     # bars of the beliefs

def test_every_number_in_the_text_comes_from_a_record(smoke):
    "Change the record: no measured number of the text stays as it was"
    record = smoke[0] | dict(preset='long')
    before, after = text_of(record), text_of(shifted(record, ('parameters', 'corpus_info', 'seed', 'bits')))
    numbers = lambda text: re.findall(r'\d+\.\d+', re.sub(r'\*\*32 bits.*', '', text))
    same = [a for a, b in zip(numbers(before), numbers(after)) if a == b and a not in STATED]
    assert len(numbers(before)) > 60 and len(same) < .1*len(numbers(before)), same       # a rounded difference may stay by chance
    nb = json.loads((ROOT/NB).read_text(encoding='utf-8'))
    prose = ''.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown').split('## Results of this run')[1].split('## To see it again')[0]
    assert not set(re.findall(r'(?<![\w.])\d*\.\d+', prose)) - {'0.1'}     # the interval that is guessed with one seed
