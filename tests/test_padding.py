"Batches cut to their texts, samplers at drawn lengths, and entry 10c: known answers, and what a reader may ask for"
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.generating import generate_like, inform
from textdiffusion.lengths import (by_length, drawn_lengths, lengths_of, per_text, pooled_batches, shared_lengths,
                                   trimmed)
from textdiffusion.oracles import masked_oracle
from textdiffusion.padding import BATCHES, PRESETS, WAYS, length_shares, measured_row, places_of, times_as_fast, writer
from textdiffusion.recipes import RECIPES, blocks
from textdiffusion.records import Run
from textdiffusion.training import fit
from textdiffusion.unmasking import canvas, random_k, unmask

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(corpus='restaurants', batch_size=8))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
KINDS = list(RECIPES)

def new(kind): torch.manual_seed(0); return RECIPES[kind].model(CORPUS, **blocks(32, 1))

# batches --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('way', BATCHES)
def test_a_batch_is_a_function_of_step_and_seed(way):
    def make(seed): return BATCHES[way](CORPUS.batch, 8, CORPUS.pad_id, seed=seed)
    one, two = make(3), make(3)
    order = [5, 40, 5, 17, 0]
    assert all(torch.equal(one(s), two(s)) for s in order) and torch.equal(one(40), make(3)(40))
    assert not torch.equal(one(5)[:, :7], make(4)(5)[:, :7])
    assert all(lengths_of(one(s), CORPUS.pad_id).max() == one(s).shape[1] for s in order) or way == 'padded'

def test_a_pool_holds_the_rows_of_its_steps():
    real = SimpleNamespace(train=CORPUS.train[:300], fresh=None)
    batch = partial(type(CORPUS).batch, real)
    plain = torch.cat([batch(s, 8, 5) for s in range(32, 48)])
    found = [pooled_batches(batch, 8, CORPUS.pad_id, seed=5)(s) for s in range(32, 48)]
    wide = torch.cat([torch.nn.functional.pad(ids, (0, 29 - ids.shape[1]), value=CORPUS.pad_id) for ids in found])
    assert sorted(plain.tolist()) == sorted(wide.tolist())
    lengths = sorted(int(ids.shape[1]) for ids in found)
    assert lengths != [ids.shape[1] for ids in found] and lengths[0] < 12 < 20 < lengths[-1]

@pytest.mark.parametrize('kind', KINDS)
def test_every_recipe_trains_on_cut_batches(kind):
    batches = pooled_batches(CORPUS.batch, 8, CORPUS.pad_id)
    run = fit(new(kind), per_text(RECIPES[kind].loss(CORPUS), CORPUS.seq_len), batches, 3)
    assert run.steps_done == 3 and run.history[-1]['loss'] > 0

@pytest.mark.parametrize('kind', ['continuous', 'masked'])
def test_training_on_pools_resumes_to_the_same_weights(kind, tmp_path):
    def train(folder, steps, **how):
        return fit(new(kind), RECIPES[kind].loss(CORPUS), pooled_batches(CORPUS.batch, 4, CORPUS.pad_id, pool=4), steps,
                   every=1, save_every=1, folder=folder, rate=lambda step, steps: 1., **how)
    train(tmp_path, 5)
    assert train(tmp_path, 7, extend=True).weights_hash() == train(None, 7).weights_hash()

def test_a_cut_row_costs_what_it_costs_uncut_without_its_padding():
    model, pad = new('masked'), CORPUS.pad_id
    ids = trimmed(CORPUS.test[lengths_of(CORPUS.test, pad) == 12], pad)[:6]
    loss, scaled = RECIPES['masked'].loss(CORPUS), per_text(RECIPES['masked'].loss(CORPUS), 29)
    def value(fn): torch.manual_seed(1); return fn(model, ids)['loss'].item()
    assert value(scaled) == pytest.approx(value(loss)*12/29)

# writing --------------------------------------------------------------------------------------------------------------

def test_a_perfect_denoiser_writes_the_language_at_drawn_lengths():
    "Known length, one place a call: every text valid; lengths follow those that were drawn"
    drawn = drawn_lengths(CORPUS.train, CORPUS.pad_id, 96, torch.Generator().manual_seed(0))
    perfect, gen = masked_oracle(CORPUS), torch.Generator().manual_seed(0)
    def write(n, size):
        z = canvas(torch.full((n, 1), CORPUS.bos_id), CORPUS.seq_len, CORPUS.mask_id)
        z[:, size-1] = CORPUS.eos_id
        z[:, size:] = CORPUS.pad_id
        return unmask(perfect, z, 29, CORPUS.mask_id, pick=random_k(1), generator=gen)[0][:, :size]
    ids = by_length(write, drawn, CORPUS.pad_id, CORPUS.seq_len)
    row = measured_row(ids, CORPUS)
    assert row['valid'] == row['ends'] == 1 and torch.equal(lengths_of(ids, CORPUS.pad_id), drawn)
    assert row['apart'] < .25 and row['length'] == pytest.approx(drawn.double().mean().item() - 2)

@pytest.mark.parametrize('rows', [1, 3, 32, 1000])
def test_shared_lengths_are_never_shorter_and_hold_so_many(rows):
    drawn = drawn_lengths(CORPUS.train, CORPUS.pad_id, 100, torch.Generator().manual_seed(0))
    shared = shared_lengths(drawn, rows)
    assert (shared >= drawn).all() and shared.max() == drawn.max()
    assert torch.equal(shared, drawn) if rows == 1 else shared.bincount().max() >= min(rows, 100)

@pytest.mark.parametrize('kind', ['continuous', 'masked'])
@pytest.mark.parametrize('setting', ['full', 'drawn', 'shared', 'spare'])
def test_both_families_write_rows_of_the_corpus(kind, setting):
    def texts():
        return by_length(writer(RUN, new(kind).eval(), 2, 5), places_of(RUN, setting, 9, 5), CORPUS.pad_id, 29)
    ids, places = texts(), places_of(RUN, setting, 9, 5)
    assert ids.shape == (9, 29) and torch.equal(ids, texts()) and (ids != CORPUS.mask_id).all()
    assert all((row[n:] == CORPUS.pad_id).all() for row, n in zip(ids, places.tolist()))

def test_a_saved_model_writes_as_long_as_its_text():
    model = inform(new('masked'), CORPUS, RECIPES['masked'].alpha_bar)
    short = CORPUS.train[lengths_of(CORPUS.train, CORPUS.pad_id) < 10]
    ids = generate_like(model, short, 12, seed=0)
    assert (lengths_of(ids, CORPUS.pad_id) < 10).all() and torch.equal(ids, generate_like(model, short, 12, seed=0))
    assert not torch.equal(ids, generate_like(model, short, 12, seed=1))

# what is measured -----------------------------------------------------------------------------------------------------

def test_lengths_of_texts_and_of_what_does_not_end():
    ids = CORPUS.test[:4].clone()
    ids[0] = ids[0].masked_fill(ids[0] == CORPUS.eos_id, CORPUS.bos_id)
    shares = length_shares(ids, CORPUS)
    assert shares.sum() == pytest.approx(1) and shares[-1] == .25 and len(shares) == 30
    assert measured_row(ids, CORPUS)['ends'] == .75

def test_times_are_compared_turn_by_turn():
    rows = [dict(arm='step', family='masked', setting=s, seed=i, ms=ms*(i+1))
            for s, ms in (('padded', 4.), ('sorted', 2.)) for i in range(3)]
    g = times_as_fast(rows, 'step', 'masked', 'sorted', 'padded')
    assert g.mean == 2 and g.sd == 0 and str(g) == '2.00\xa0±\xa00.00\xa0times'

def test_every_arm_is_drawn():
    assert {arm.split('-')[1] for arm in PRESETS['long']['arms']} == {arm for arm, _ in WAYS} == set(BATCHES)

@pytest.mark.parametrize('wrong', [
    lambda: pooled_batches(CORPUS.batch, 0, 0), lambda: pooled_batches(CORPUS.batch, 4, 0, pool=0),
    lambda: drawn_lengths(CORPUS.train, 0, 0), lambda: shared_lengths(torch.tensor([3]), 0),
    lambda: by_length(lambda n, size: None, torch.tensor([40]), 0, 29), lambda: per_text(lambda model, ids: 0, 0)])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match='must'): wrong()

@pytest.mark.parametrize('name', ['steps', 'samples'])
def test_a_wrong_parameter_is_refused(name):
    refused_at_once([name], 'run', '10c_padding', '-p', name, '0')
