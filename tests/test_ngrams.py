"""N-gram models: sources whose entropy is known, and the oracle language."""
import math
from types import SimpleNamespace

import pytest, torch

from textdiffusion.metrics import form_scores, oracle_scores
from textdiffusion.ngrams import NGram

@pytest.fixture(scope='module')
def sampled(corpus): return {k: NGram(k).fit(corpus.train, corpus).sample(512, seed=3) for k in (3, 5)}

@pytest.fixture
def running(): return SimpleNamespace(vocab_size=7, mask_id=7, bos_id=None, eos_id=None, pad_id=None)

def test_equally_likely_symbols_cost_ln_v(running):
    model = NGram(1).fit(torch.arange(7).repeat(3, 1), running)
    assert torch.allclose(model.nll(torch.randint(7, (5, 9))), torch.tensor(math.log(7)).double())

def test_an_independent_source_costs_its_entropy_and_is_sampled_as_it_is(running):
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([.5, .2, .1, .1, .05, .03, .02])
    train, held_out = p.multinomial(400_000, replacement=True, generator=generator).view(2, 400, 500)
    entropy, model = -(p*p.log()).sum().item(), NGram(2).fit(train, running)
    assert abs(model.nll(held_out).mean().item() - entropy) < .01
    drawn = model.sample(400, seed=1)
    shares = drawn.flatten().bincount(minlength=7)/drawn.numel()
    assert drawn.shape == train.shape and torch.allclose(shares, p, atol=.01)

def test_a_deterministic_text_is_continued_and_costs_nothing(running):
    text = torch.arange(700).view(2, 350) % 7    # both rows start at 0
    model = NGram(3).fit(text, running)
    assert torch.equal(model.sample(4), text[:1].expand(4, -1))
    assert model.nll(text)[:, 2:].max() < .02

def test_interpolated_probabilities_sum_to_one(running):
    "Whatever the context, seen or not: all continuations of one word together are certain"
    generator = torch.Generator().manual_seed(0)
    model = NGram(4).fit(torch.randint(7, (5, 40), generator=generator), running)
    for context in torch.randint(7, (20, 3), generator=generator):
        rows = torch.cat([context.expand(7, -1), torch.arange(7)[:, None]], 1)
        assert math.isclose((-model.nll(rows)[:, -1]).exp().sum().item(), 1, rel_tol=1e-9)

def test_n_gram_samples_are_as_valid_as_expected(corpus, sampled):
    valid = {k: oracle_scores(ids, corpus)['valid'] for k, ids in sampled.items()}
    assert .3 < valid[3] < .65 and .65 < valid[5] <= .87     # .39 and .81 on the grammar of the first prototype
    assert all(form_scores(ids, corpus)['tail'] == 0 for ids in sampled.values())

@pytest.mark.parametrize('order', [0, -1, 2.5])
def test_the_order_is_a_whole_number(order):
    with pytest.raises(ValueError, match=f'order must be a whole number from 1 to 100, got {order}'): NGram(order)

def test_narrow_integers_count_alike(running):
    ids = torch.randint(7, (5, 40), generator=torch.Generator().manual_seed(0))
    wide, narrow = NGram(3).fit(ids, running), NGram(3).fit(ids.int(), running)
    assert torch.equal(wide.nll(ids), narrow.nll(ids.int())) and torch.equal(wide.sample(4), narrow.sample(4))
