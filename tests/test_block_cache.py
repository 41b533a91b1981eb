"Entry 07f and the cache of its blocks: what it writes is a law, when it refuses, and what it costs"
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.block_cache import full_calls, score_errors, settings
from textdiffusion.decoding_rules import best, certainty, chance, from_left, padded, sampler_nll
from textdiffusion.left_to_right import BlockCached, closed
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.records import Run
from textdiffusion.unmasking import unmask

def network(layers=3, V=4):
    torch.manual_seed(0)
    model = MaskedDenoiser(MaskedConfig(vocab_size=V, d_model=32, n_layers=layers, n_heads=2)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.2*torch.randn_like(p))
    return model

@pytest.mark.parametrize('size, k', [(2, 1), (2, 2), (3, 1), (4, 2), (9, 1)])
def test_the_probabilities_of_all_texts_add_up_to_one(size, k):
    "Also with a cache: what the sampler does next depends on the canvas and on what was written before it alone"
    texts = torch.cartesian_prod(*[torch.arange(4)]*5)
    ids = torch.cat([torch.zeros(len(texts), 1, dtype=torch.long), texts], 1)
    z = ids.index_fill(1, torch.arange(1, 6), 4)
    nll, calls = sampler_nll(BlockCached(network(), size), ids, z, 6, 4, pick=from_left(best(certainty, k), size))
    assert abs((-nll).exp().sum() - 1) < 1e-4
    assert (calls == sum(-(-min(size, 5 - i)//k) for i in range(0, 5, size))).all()

def canvas(n, L=9): return torch.full((n, L), 4).index_fill(1, torch.tensor([0]), 0)

@pytest.mark.parametrize('how', [dict(pick=best(chance, 1)), dict(pick=from_left(best(chance, 1), 5)),
                                 dict(pick=from_left(best(chance, 1), 3), settle=padded(1, 2, 4))])
def test_texts_that_fall_out_of_step_are_refused_in_one_sentence(how):
    with pytest.raises(ValueError, match='made for one batch, here of .* in step: take a rule'):
        unmask(BlockCached(network(), 3), canvas(40), 9, 4, generator=torch.Generator().manual_seed(0), **how)

def test_a_cache_is_for_one_batch():
    cached = BlockCached(network(), 3)
    def write(n):
        return unmask(cached, canvas(n), 9, 4, pick=from_left(best(certainty, 2), 3), settle=closed(1, 2, 4, 3))
    ids, _ = write(30)
    over = (ids == 1) | (ids == 2)
    assert not (ids == 4).any() and over.any(1).any()
    for n in (30, 29):
        with pytest.raises(ValueError, match='a new BlockCached for each batch'): write(n)

def test_what_it_costs_is_least_at_the_root_of_the_window():
    costs = {size: full_calls(101, size, 1) for size in range(1, 101)}
    assert 7 <= min(costs, key=costs.get) <= 14 and costs[1] == 100 and min(costs.values()) < 2*101**.5

def test_errors_begin_at_nothing():
    class Corpus: seq_len, mask_id, eos_id, pad_id, bos_id = 9, 4, 1, 2, 0
    errors = score_errors(network(), Corpus, 4, 20, 0)
    assert errors[0] < 1e-9 < 1e-5 < max(errors[1:]) and len(errors) == 4
    assert max(score_errors(network(1), Corpus, 4, 20, 0)) < 1e-6

def test_names_tell_ways_apart():
    run = Run(cfg=type('cfg', (), dict(blocks=[2, 4, 8, 16])))
    assert len({way[:2] for way in settings(run.cfg)}) == 16

def test_a_wrong_parameter_is_refused():
    refused_at_once(['samples'], 'run', '07f_block_cache', '-p', 'samples', '0')
