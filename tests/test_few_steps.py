"Entry 10: its ways of writing, when they ask, how families are compared, and what a reader may ask for"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.few_steps import BEST, LEAD, ahead_until, by_masks, effort, masked_ways, solvers, timed
from textdiffusion.left_to_right import Cached, write_rows
from textdiffusion.models import CausalConfig, CausalLM
from textdiffusion.oracles import bayes_denoiser, listed_bayes, masked_oracle
from textdiffusion.metrics import exact_nll, listed_scores, oracle_scores
from textdiffusion.records import Run
from textdiffusion.recipes import NOISE
from textdiffusion.sampling import ancestral_step, ddim_step, dpm_step, sample, spaced
from textdiffusion.shared_information import Watched, sudoku_grids
from textdiffusion.time_grids import evenly_in, evenly_in_accuracy, evenly_in_log_snr, evenly_in_look_up, evenly_in_t

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(corpus='restaurants', calls=[1, 2, 4]))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
TIMES, READ = torch.linspace(.01, 1, 20).double(), torch.linspace(1, .1, 20).double()**2
GRIDS = {'both ends': spaced, 'even': evenly_in_t, 'log-SNR': evenly_in_log_snr(NOISE),
         'look-up': evenly_in_look_up(NOISE, 16, 82), 'legible': evenly_in_accuracy(TIMES, READ)}

@pytest.mark.parametrize('name', GRIDS)
@pytest.mark.parametrize('steps', [1, 2, 5, 29, 200])
def test_times_fall_from_noise_to_text(name, steps):
    t = GRIDS[name](steps)
    assert len(t) == steps+1 and t[0] == 1 and t[-1] == 0 and (t.diff() < 0).all() and t.dtype == torch.float64

def test_a_value_that_jumps_has_no_call_where_it_stands_still():
    t = evenly_in(lambda t: (t < .3).double() + (t < .2).double())(2)
    assert t[0] == 1 and .15 < t[1] < .35

@pytest.mark.parametrize('step', [ddim_step, dpm_step])
@pytest.mark.parametrize('name', GRIDS)
def test_a_constant_guess_is_where_all_solvers_land(step, name):
    guess = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    def same(x_t, t, x0_prev=None): return guess.expand_as(x_t), torch.zeros(*x_t.shape[:2], 5)
    how = dict(step=step, times=GRIDS[name], decode=lambda x, logits: x)
    for steps in (1, 6):
        assert (sample(same, (2, 3, 4), NOISE, steps, **how)[0] - guess).abs().max() < 1e-5

@pytest.mark.parametrize('step', [ddim_step, ancestral_step])
def test_perfect_vectors_write_sudoku_in_few_calls_and_not_one_grid_alone(step):
    texts, emb = sudoku_grids(), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    ids, _ = sample(listed_bayes(texts, emb, NOISE), (1440, 16, 8), NOISE, 8, step=step, times=evenly_in_t,
                    generator=torch.Generator().manual_seed(0))
    found = listed_scores(ids, texts)
    assert found['whole'] > .95 and len(ids.unique(dim=0)) > 250

def test_two_calls_of_a_perfect_denoiser_stay_near_the_mean_of_all_sentences():
    "Valid, but too alike: why validity misleads there"
    emb = torch.nn.functional.layer_norm(torch.randn(CORPUS.vocab_size, 16, generator=torch.Generator().manual_seed(0)),
                                         (16,))
    mean = emb[CORPUS.train[:4000]].mean(0)
    def far(ids): return (emb[ids] - mean).square().sum((1, 2)).mean().item()
    def written(calls):
        return sample(bayes_denoiser(CORPUS, emb, NOISE), (64, CORPUS.seq_len, 16), NOISE, calls, step=ddim_step,
                      generator=torch.Generator().manual_seed(0))[0]
    two, four, real = written(2), written(4), CORPUS.test[:256]
    assert far(two) < .8*far(real) and .85*far(real) < far(four)
    assert len(two.unique(dim=0)) < 50 < len(four.unique(dim=0))
    assert oracle_scores(two, CORPUS)['valid'] > .95

def test_what_is_read_once_says_what_is_read_anew():
    torch.manual_seed(0)
    model = CausalLM(CausalConfig(vocab_size=20, d_model=64, n_layers=3, n_heads=4)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
        ids, read = torch.randint(20, (5, 29)), Cached(model)
        assert (torch.stack([read(i) for i in ids.T], 1) - model(ids)).abs().max() < 1e-4

def test_the_twin_writes_rows_of_the_corpus():
    torch.manual_seed(0)
    model = CausalLM(CausalConfig(vocab_size=CORPUS.vocab_size+1, d_model=32, n_layers=1, n_heads=2)).eval()
    def write():
        return write_rows(model, torch.full((6, 1), CORPUS.bos_id), CORPUS.seq_len, CORPUS.eos_id, CORPUS.pad_id,
                          generator=torch.Generator().manual_seed(3))
    ids, calls = write()
    assert ids.shape == (6, CORPUS.seq_len) and (ids[:, 0] == CORPUS.bos_id).all()
    assert 1 <= calls.min() <= calls.max() <= CORPUS.seq_len-1 and torch.equal(ids, write()[0])

def test_effort_is_one_where_dear_sentences_take_more_calls():
    ids = CORPUS.test[:30].cpu()
    price = exact_nll(ids, CORPUS)
    assert effort(ids, CORPUS, price) == pytest.approx(1) and effort(ids, CORPUS, -price) == pytest.approx(-1)
    assert effort(ids, CORPUS, torch.ones(30)) is None and effort(ids[:2], CORPUS, price[:2]) is None

def test_time_is_calls_and_passes_times_what_they_cost():
    speeds = [dict(arm='call', family=k, batch=64, ms=64.*n) for k, n in
              (('continuous', 1), ('masked', 2), ('autoregressive', 30))]
    speeds += [dict(arm='step', family='masked', batch=64)]
    row = dict(arm='network', calls=3., passes=1.)
    rows = timed([row | dict(family=f) for f in ('DDIM, even', 'pairs', 'left to right')] + [dict(arm='real')], speeds)
    assert [r.get('ms') for r in rows] == [4., 8., 8., None]

def test_names_tell_ways_apart():
    ways = [name for name, *_ in solvers(GRIDS)]
    assert len(set(ways)) == len(ways) and LEAD in ways
    assert len(solvers({k: GRIDS[k] for k in ('both ends', 'even')})) == 3
    masked = [way[:2] for way in masked_ways(Watched(None, 0), [1, 2, 4])]
    assert len(set(masked)) == len(masked)

@pytest.mark.parametrize('at', range(len(masked_ways(Watched(None, 0), [1, 2, 4]))))
def test_masked_ways_keep_their_calls(at):
    watched = Watched(masked_oracle(CORPUS), CORPUS.mask_id)
    family, setting, how = masked_ways(watched, [1, 2, 4])[at]
    ids, calls, passes = by_masks(RUN, watched, 4, 0, **how)
    assert not (ids == CORPUS.mask_id).any() and (passes > 0) == (family == 'pairs')
    if 'calls' in setting: assert calls.max() <= int(setting.split()[0])
    if setting == 'one a call': assert oracle_scores(ids, CORPUS)['valid'] == 1

def made(points):
    "Rows of one seed: (arm, family, calls, valid)"
    rows = [dict(arm=a, seed=0, family=f, calls=c, valid=v) for a, f, c, v in points]
    return dict(rows=rows, seeds=[0], corpus_info=dict(L=29))

LEADING = [('network', BEST, c, v) for c, v in ((1, 0.), (4, .4), (29, .8))]

@pytest.mark.parametrize('other, until', [
    ([(1, 0.), (4, .2), (8, 1.)], 5.09),          # .4 + (n-4)*.016 meets .2 + (n-4)*.2
    ([(1, 0.), (2, .9)], 1.),                     # ahead nowhere
    ([(1, 0.), (29, .1)], 29.)])                  # ahead everywhere
def test_where_curves_cross(other, until):
    record = made(LEADING + [('perfect', 'random', c, v) for c, v in other])
    assert ahead_until(record, 'random', 'perfect').mean == pytest.approx(until, abs=.15)

def test_a_rule_with_a_least_number_of_calls_begins_at_one_call_too():
    record = made(LEADING + [('perfect', 'random', 1, 0.), ('perfect', 'pairs', 4, 1.)])
    assert ahead_until(record, 'pairs', 'perfect').mean == 1

def test_a_wrong_parameter_is_refused():
    refused_at_once(['exact'], 'run', '10_few_steps', '-p', 'exact', '0')
