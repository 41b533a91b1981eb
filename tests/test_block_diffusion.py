"Entry 06k and blocks: who sees whom, what the bound is at its two ends, how blocks are written, what is refused"
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import refused_at_once

from textdiffusion.block_diffusion import (ARMS, BLOCKS, HERE, IN_06B, PRESETS, block_bound, block_costs, block_nll,
                                           check, facts, in_blocks, known, left_nll, written_by)
from textdiffusion.blocks import BlockConfig, BlockDenoiser
from textdiffusion.character_diffusion import ARMS as BEFORE
from textdiffusion.corpora import load_corpus
from textdiffusion.left_to_right import BlockCached
from textdiffusion.models import CausalConfig, CausalLM, MaskedConfig, MaskedDenoiser
from textdiffusion.records import pinned
from textdiffusion.streams import next_nll, text_nll

V, L = 9, 12
SIZES = dict(d_model=16, n_layers=3, n_heads=2)
IDS = torch.randint(V, (6, L), generator=torch.Generator().manual_seed(0))

def shaken(model):
    "The network with weights that are zero nowhere, the same for the same parameters"
    torch.manual_seed(0)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
    return model.eval()

def network(size): return shaken(in_blocks(size).model(V, L, SIZES))

def smoke(**given): return SimpleNamespace(**PRESETS['smoke'] | given)

# who sees whom --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [1, 2, 3, 4, 6, 12])
def test_a_score_depends_on_its_block_and_on_the_whole_blocks_before_it_and_on_nothing_else(size):
    "By the gradient: of all that goes in, exactly what may be seen has one"
    model, z = network(size), IDS[:1].masked_fill(torch.arange(L) % 2 == 0, V)
    inputs = {}
    def kept(module, args, out): inputs['h'] = out; out.retain_grad()
    hook = model.table.register_forward_hook(kept)
    for place in range(L):
        model(z, None, IDS[:1])[0, place].square().sum().backward()
        felt = inputs['h'].grad.abs().sum(-1) > 0
        begin = place//size*size
        own = (torch.arange(L) >= begin) & (torch.arange(L) < begin + size)
        assert torch.equal(felt, torch.stack([own, torch.arange(L) < begin])), (size, place)
    hook.remove()

def test_a_last_block_may_be_shorter_where_texts_are_written():
    model, z = network(5), IDS.masked_fill(torch.arange(L) >= 10, V)
    other = z.index_fill(1, torch.tensor([11]), 3)
    assert not torch.allclose(model(z)[:, 10], model(other)[:, 10])
    assert torch.equal(model(z)[:, :10], model(other)[:, :10])

def test_a_saved_network_comes_back(tmp_path):
    model = network(4)
    model.save_pretrained(tmp_path)
    again = BlockDenoiser.from_pretrained(tmp_path).eval()
    assert again.config.size == 4 and torch.equal(again(IDS), model(IDS))

def test_the_cache_of_a_masked_denoiser_is_none_for_blocks():
    with pytest.raises(TypeError, match='model must be a MaskedDenoiser, got a BlockDenoiser'):
        BlockCached(network(4), 4)

# the bound at its ends ------------------------------------------------------------------------------------------------

def test_one_block_is_masked_diffusion_draw_by_draw():
    masked = shaken(MaskedDenoiser(MaskedConfig(vocab_size=V, **SIZES)))
    for draws in (1, 5):
        ours, theirs = (f(model, IDS, V, draws=draws) for f, model in ((block_nll, network(L)), (text_nll, masked)))
        assert torch.allclose(ours, theirs)

def test_blocks_of_one_are_an_autoregressive_model_and_exact():
    "A network that reads whole texts as a causal one does, and is asked by a mask instead of the place before"
    model = network(1)
    nats = block_nll(model, IDS, V)
    with torch.no_grad():
        links = [model(torch.cat([IDS[:, :i], torch.full((6, 1), V)], 1))[:, i].log_softmax(-1) for i in range(L)]
    chain = -sum(link.gather(1, IDS[:, i:i+1])[:, 0] for i, link in enumerate(links))
    assert torch.allclose(nats, chain.double(), rtol=1e-5)
    assert torch.equal(nats, block_nll(model, IDS, V, seed=7, draws=1))
    assert torch.allclose(left_nll(model, IDS, V), nats)

@pytest.mark.parametrize('size', [1, 2, 4])
def test_from_the_left_the_probabilities_of_all_texts_add_up_to_one(size):
    texts = torch.cartesian_prod(*4*[torch.arange(3)])
    model = shaken(in_blocks(size).model(3, 4, SIZES))
    assert left_nll(model, texts, 3).neg().exp().sum().item() == pytest.approx(1, abs=1e-5)
    begun = left_nll(model, texts, 3) - left_nll(model, texts, 3, context=size)           # of the first block alone
    assert begun[texts[:, size:].sum(1) == 0].neg().exp().sum().item() == pytest.approx(1, abs=1e-5)

@pytest.mark.parametrize('size', [1, 3, 12])
def test_what_is_given_costs_nothing(size):
    model = network(size)
    if size < L:
        whole, rest = block_nll(model, IDS, V), block_nll(model, IDS, V, context=size*(L//size - 1))
        assert (rest < whole).all()
    untrained = in_blocks(size).model(V, L, SIZES)
    assert block_bound(size)(V)(untrained, IDS)['loss'].item() == pytest.approx(math.log(V), rel=1e-5)

def test_a_draw_masks_as_many_as_it_was_told_and_weighs_them():
    seen = {}
    def model(z, share, ids):
        seen['z'] = z
        return torch.zeros(*z.shape, V)
    k = torch.tensor([1, 2, 3]*6)
    nats = block_costs(model, IDS[:, :9], k, 3, V)
    assert torch.equal((seen['z'].view(-1, 3) == V).sum(1), k) and torch.allclose(nats, torch.tensor(3*math.log(V)))

# writing --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [1, 4])
def test_blocks_are_written_from_the_left_in_as_many_calls_as_said(size):
    model, asked = network(size), []
    forward = model.forward
    def watched(z, share):
        asked.append(z.clone())
        return forward(z)
    model.forward = watched
    run = SimpleNamespace(corpus=SimpleNamespace(seq_len=24, mask_id=V))
    heads = torch.randint(V, (5, 16))
    for way, ids in written_by(run, model, heads, 0).items():
        assert torch.equal(ids[:, :16], heads) and (ids < V).all(), way
    for z in asked:
        open_ = (z == V).any(0).nonzero()[0, 0]//size
        assert (z[:, :open_*size] < V).all() and (z[:, (open_ + 1)*size:] == V).all()
    assert len(asked) == 8 + (8 if size == 1 else 2)

def test_the_twin_writes_one_character_a_call():
    run = SimpleNamespace(corpus=SimpleNamespace(seq_len=24, mask_id=V))
    twin = shaken(CausalLM(CausalConfig(vocab_size=V+1, **SIZES)))
    assert list(written_by(run, twin, torch.randint(V, (5, 16)), 0)) == ['1 a call']
    assert next_nll(twin, IDS).shape == IDS.shape

# arms and what is refused ---------------------------------------------------------------------------------------------

def test_arms_differ_in_what_their_names_say_alone():
    assert ARMS['masked'] == BEFORE['diffusion']
    assert ARMS['autoregressive'] == BEFORE['autoregressive']
    sizes = {name: {p.shape for p in arm.model(V, L, SIZES).parameters()} for name, arm in ARMS.items()}
    assert all(sizes[a] == sizes['masked'] for a in BLOCKS)
    for name, size in BLOCKS.items(): assert ARMS[name].model(V, L, SIZES).config.size == size
    assert BEFORE['diffusion'].windows == 1. and {ARMS[a].windows for a in BLOCKS} == {.5}

def test_a_window_that_blocks_do_not_fill_is_refused():
    corpus = load_corpus('restaurants')
    assert check(smoke(), corpus) is None and check(smoke(arms=['masked'], seq_len=30), corpus) is None
    with pytest.raises(ValueError, match='seq_len must be a multiple of 16, the size .* blocks-16, not 36'):
        check(smoke(seq_len=36), corpus)
    with pytest.raises(ValueError, match='blocks of 5 do not fill 12 places'): block_bound(5)(V)(network(5), IDS)
    with pytest.raises(ValueError, match='size must be a whole number of at least 1, got 0'): BlockConfig(size=0)

@pytest.mark.parametrize('given, said', [(['-p', 'arms', 'blocks-5'], 'did you mean blocks-4?'),
                                         (['-p', 'seq_len', '36'], 'seq_len must be a multiple of 16')])
def test_the_command_refuses(given, said):
    refused_at_once([said], 'run', '06k', '--preset', 'smoke', *given)

def test_facts_compare_seed_by_seed():
    nats = {'masked': 2., 'blocks-4': 1.6, 'autoregressive': 1.5, '5-gram': 1.7}
    rows = [dict(arm=a, seed=s, nats=n + s/100, left=n - .2 if a == 'blocks-4' else None)
            for a, n in nats.items() for s in range(3)]
    texts = [dict(arm=a, seed=s, way=f'{k} a call', judge=n + k) for a, n in nats.items() for s in range(3)
             for k in (1, 4)[:1 + (a != 'autoregressive')]]
    f = facts(dict(rows=rows, texts=texts, costs={'masked': 3., 'blocks-4': 4.5}))
    assert f.cost.mean == pytest.approx(1.5)
    assert f.saved.mean == pytest.approx(.4) and f.way.mean == pytest.approx(.8)
    assert f.behind.mean == pytest.approx(.1) and f.blocks4_quick.mean == pytest.approx(3)
    assert f.twin_judge.mean == pytest.approx(2.5) and f.behind.half < 1e-6
    assert f.order.mean == pytest.approx(.21) and f.left_behind.mean == pytest.approx(-.11)
    few = facts(dict(rows=[r for r in rows if r['arm'] == 'blocks-4'], texts=[]))
    assert few.blocks4.mean == pytest.approx(1.61) and 'saved' not in few

def test_presets_grow():
    size = {k: p['seeds']*p['steps']*p['d_model'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu']
    for p in PRESETS.values():
        assert set(p['arms']) <= set(ARMS) and not any(p['seq_len'] % size for size in BLOCKS.values())

# what 06b found -------------------------------------------------------------------------------------------------------

def test_06b_stands_beside_a_run_of_the_same_parameters_alone():
    held = pinned('06b_character_diffusion', 'long', 'tiny_shakespeare')
    def run(fingerprint=held['corpus_fingerprint'], **given):
        return SimpleNamespace(cfg=SimpleNamespace(**PRESETS['long'] | dict(preset='long') | given),
                               corpus=SimpleNamespace(name='tiny_shakespeare', fingerprint=fingerprint))
    found = known(run())
    assert {(r['arm'], r['seed']) for r in found['rows']} == {(a, s) for a in ('autoregressive', 'masked')
                                                              for s in range(3)}
    assert {r['way'] for r in found['texts'] if r['arm'] == 'masked'} == {'64 calls', '16 calls'}
    assert {r['arm'] for r in known(run(arms=['masked']))['rows']} == {'autoregressive'}
    for other in (dict(steps=1299), dict(d_model=64), dict(fingerprint='other'), dict(preset='cpu')):
        assert known(run(**other)) == dict(rows=[], texts=[], history=[]), other
    both = known(run(arms=['blocks-4-shared']), IN_06B | HERE)
    assert {r['arm'] for r in both['rows']} == {'masked', 'autoregressive', 'blocks-4'}
    assert {r['arm'] for r in known(run(arms=['blocks-4']), HERE)['rows']} == set()

def test_a_start_changes_the_output_weights_alone():
    torch.manual_seed(0)
    plain = ARMS['blocks-4'].model(V, L, SIZES)
    torch.manual_seed(0)
    shared = ARMS['blocks-4-shared'].model(V, L, SIZES)
    differ = {k for k, v in plain.state_dict().items() if not torch.equal(v, shared.state_dict()[k])}
    assert differ == {'out.weight'} and torch.allclose(shared.out.weight*4, shared.table.weight[:V])
