"Entries 06 and 06d: their functions against known answers, and how a reader runs them"
import json
import math

import pytest
import torch

from helpers import REAL_TEXT, needs_real_text, refused_at_once, smoke_run
from textdiffusion.corpora import load_corpus
from textdiffusion.masked_diffusion import blank, canvases, check, parallel_bound, posterior_gap, whole
from textdiffusion.masked_recipe import PRESETS, arms_of, bound_scatter, independent_t
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import masked_bound, stratified_t
from textdiffusion.oracles import masked_oracle
from textdiffusion.schedules import mask_linear

CORPUS = load_corpus('restaurants')
MASK, FIRST = CORPUS.mask_id, torch.arange(CORPUS.seq_len) == 0

# functions -----------------------------------------------------------------------------------------------------------

def uniform(z, share): return torch.zeros(*z.shape, CORPUS.vocab_size)

@pytest.mark.parametrize('calls', [1, 3, 29])
def test_a_blind_guess_loses_nothing_by_parallel_draws(calls):
    bound = parallel_bound(uniform, CORPUS.test[:4], MASK, calls, FIRST)
    price = torch.full((4,), 28*math.log(CORPUS.vocab_size), dtype=torch.float64)
    torch.testing.assert_close(bound, price, atol=1e-3, rtol=0)

def test_more_calls_cost_the_perfect_denoiser_less():
    exact, ids = masked_oracle(CORPUS), CORPUS.test[:32]
    price = -sum(CORPUS.grammar.log_prob(w) for w in CORPUS.words(ids))/32
    lost = [parallel_bound(exact, ids, MASK, calls, FIRST).mean().item() - price for calls in (1, 4, 16, 64)]
    assert lost == sorted(lost, reverse=True) and lost[0] > 20 and lost[-1] < 1.5

def test_the_path_does_not_depend_on_the_model():
    "A sentence costs the same alone and among others, and whoever is asked"
    ids = CORPUS.test[:8]
    torch.testing.assert_close(*(parallel_bound(masked_oracle(CORPUS, batch=b), ids, MASK, 4, FIRST) for b in (64, 3)))

def test_posterior_gap_is_zero_for_the_perfect_denoiser_only():
    exact = masked_oracle(CORPUS)
    for z in canvases(CORPUS.test[:8], CORPUS).values():
        assert abs(posterior_gap(exact, exact, z, MASK)) < 1e-9 < .5 < posterior_gap(uniform, exact, z, MASK)

def test_canvases_leave_the_begin_and_what_is_visible():
    ids = CORPUS.test[:64]
    made = canvases(ids, CORPUS)
    assert list(made) == ['prefix', 'ending', 'gap', 'scattered']
    for z in made.values():
        assert ((z == ids) | (z == MASK)).all() and (z[:, 0] == CORPUS.bos_id).all()
        assert (z == MASK).any(1).float().mean() > .9
    assert (made['prefix'][:, :5] == ids[:, :5]).all() and (made['prefix'][:, 5:] == MASK).all()
    ends = (ids == CORPUS.eos_id).nonzero()[:, 1]
    assert (made['ending'].gather(1, ends[:, None]) == CORPUS.eos_id).all()

def test_stratified_times_scatter_less():
    batches, exact = [CORPUS.batch(i, 64, seed=99) for i in range(60)], masked_oracle(CORPUS)
    def scatter(draw_t): return bound_scatter(exact, batches, MASK, mask_linear, draw_t, FIRST)['scatter']
    assert scatter(stratified_t) < .85*scatter(independent_t)

def test_arms_differ_in_one_thing():
    torch.manual_seed(0)
    config = MaskedConfig(vocab_size=CORPUS.vocab_size, d_model=16, n_layers=1, n_heads=2)
    model, ids, arms = MaskedDenoiser(config), CORPUS.test[:16], arms_of(MASK, FIRST)
    assert list(arms) == PRESETS['smoke']['arms'] and {k for k, (_, fields) in arms.items() if fields} == {'time'}
    def loss(fn):
        torch.manual_seed(1)
        return fn(model, ids)['loss'].item()
    found = {k: loss(fn) for k, (fn, _) in arms.items()}
    assert found['baseline'] == loss(masked_bound(MASK, keep=FIRST)) == found.pop('time')
    assert len(set(found.values())) == 5

def test_whole_forgives_nothing_behind_the_end():
    ids = CORPUS.test[:4].clone()
    ids[1, -1], ids[2, 1], ids[3] = 7, CORPUS.pad_id, CORPUS.pad_id
    assert whole(ids, CORPUS).tolist() == [True, False, False, False]

def test_blank_is_begin_and_masks():
    assert blank(CORPUS, 3).tolist() == [[CORPUS.bos_id] + [MASK]*28]*3

@needs_real_text
def test_running_text_is_refused():
    with pytest.raises(ValueError, match='tiny_shakespeare is running text.*restaurants'):
        check(None, load_corpus('tiny_shakespeare', 64, data_dir=REAL_TEXT))

# as a reader runs them -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('calls', ['1', '29'])
def test_one_call_and_as_many_as_places(calls):
    record = smoke_run('06_masked_diffusion', calls=calls, steps=2, samples=4, exact=2)
    assert record['parameters']['calls'] == [int(calls)] and calls in {r['calls'] for r in record['rows']}

@needs_real_text
@pytest.mark.parametrize('entry', ['06_masked_diffusion', '06d_masked_recipe'])
def test_on_real_text(entry):
    record = smoke_run(entry, dict(TEXTDIFFUSION_DATA=REAL_TEXT), corpus='e2e', steps=2)
    assert record['corpus_info']['source'] == 'variable' and REAL_TEXT not in json.dumps(record)

BAD = [(['-p', 'step', '3'], ['step', 'steps']), (['--corpus', 'wiki'], ['restaurants-large']),
       (['-p', 'steps', '0'], ['steps']), (['-p', 'samples', '-4'], ['samples']),
       (['-p', 'calls', '4,4'], ['calls', 'twice']),
       (['-p', 'calls', '4,2001'], ['calls', '2,000']), (['-p', 'calls', '4,0'], ['calls', 'whole number from 1']),
       (['-p', 'exact', '1.5'], ['exact']),
       pytest.param(['--corpus', 'tiny_shakespeare', '--data-dir', REAL_TEXT], ['sentences', 'running text'],
                    marks=needs_real_text, id='running text')]

@pytest.mark.parametrize('args, words', BAD, ids=lambda x: x[-1])
def test_a_wrong_parameter_is_refused(args, words):
    refused_at_once(words, 'run', '06_masked_diffusion', *args)

def test_a_wrong_arm_is_refused():
    refused_at_once(['unweighted'], 'run', '06d_masked_recipe', '-p', 'arms', 'unwieghted')
