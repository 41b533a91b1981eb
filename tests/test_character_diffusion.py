"""Entry 06b: tiny-diffusion rebuilt on the journal's block against a literal version of it, what must be refused, and the page as a reader runs it."""
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import call, outputs
from textdiffusion.character_diffusion import ARMS, PRESETS, TinyDiffusion, by_call, continue_text, first_16, fixed_windows, known_ids, next_nll, running_text, write
from textdiffusion.denoising import masked_nelbo
from textdiffusion.models import CausalConfig, CausalLM
from textdiffusion.objectives import grid_t, masked_ce
from textdiffusion.unmasking import unmask

NB = 'nbs/06b_character_diffusion.ipynb'
DATA = running_text('restaurants', 32, lines=60)


# tiny-diffusion, written out as its code does it ----------------------------------------------------------------------

def rms(x): return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


class Literal(nn.Module):
    "tiny-diffusion's transformer, part by part: rotation first and by -θ, then the norm of queries and keys; separate q, k, v"
    def __init__(self, vocab=128, d=384, layers=6, heads=6, levels=128):
        super().__init__()
        self.heads, self.tok, self.t = heads, nn.Embedding(vocab, d), nn.Embedding(levels, d)
        linear = partial(nn.Linear, bias=False)
        self.layers = nn.ModuleList(nn.ModuleDict(dict(q=linear(d, d), k=linear(d, d), v=linear(d, d), o=linear(d, d), up=linear(d, 4*d), down=linear(4*d, d))) for _ in range(layers))
        self.head = linear(d, vocab)

    def forward(self, z, t):
        B, L, (H, D) = *z.shape, (self.heads, self.tok.embedding_dim//self.heads)
        angle = torch.arange(L)[:, None] / 10_000**(torch.arange(0, D, 2)/D)
        def turned(x):
            x1, x2 = x[..., :D//2], x[..., D//2:]
            return torch.cat([x1*angle.cos() + x2*angle.sin(), -x1*angle.sin() + x2*angle.cos()], -1)
        split = lambda x: x.view(B, L, H, D).transpose(1, 2)
        x = rms(self.tok(z) + self.t(t)[:, None])
        for m in self.layers:
            n = rms(x)
            q, k, v = (split(m[name](n)) for name in 'qkv')
            att = (rms(turned(q)) @ rms(turned(k)).transpose(-1, -2) / D**.5).softmax(-1) @ v
            x = x + m['o'](att.transpose(1, 2).reshape(B, L, -1))
            x = x + m['down'](F.relu(m['up'](rms(x)))**2)
        return self.head(rms(x))


def mapped(literal, heads):
    "The same weights for the journal's block: the two halves of each head change places, which turns a rotation by -θ into one by θ"
    d = literal.tok.embedding_dim
    swap = lambda w: w.view(heads, 2, d//heads//2, d).flip(1).reshape(d, d)
    weights = {'table.weight': literal.tok.weight, 'time.weight': literal.t.weight, 'out.weight': literal.head.weight}
    for i, m in enumerate(literal.layers):
        weights |= {f'blocks.{i}.qkv.weight': torch.cat([swap(m['q'].weight), swap(m['k'].weight), m['v'].weight]), f'blocks.{i}.out.weight': m['o'].weight,
                    f'blocks.{i}.up.weight': m['up'].weight, f'blocks.{i}.down.weight': m['down'].weight}
    return weights


def count(model): return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('d, layers, heads, L', [(32, 2, 2, 12), (384, 6, 6, 256)])
def test_parity_with_the_literal_version(d, layers, heads, L):
    torch.manual_seed(0)
    literal, ours = Literal(128, d, layers, heads), TinyDiffusion(128, d, layers, heads)
    assert count(literal) == count(ours)
    ours.load_state_dict(mapped(literal, heads))
    z, t = torch.randint(128, (2, L)), torch.tensor([3, 127])
    with torch.no_grad(): torch.testing.assert_close(ours(z, (t+1)/128), literal(z, t), rtol=1e-3, atol=1e-3)
    assert literal(z[:1], t[:1]).std() > .1        # not trivially equal


def test_size_and_first_loss():
    model = TinyDiffusion()
    assert count(model) == 10_764_288
    with torch.no_grad(): logits = model(torch.randint(128, (2, 64)), torch.tensor([.5, 1.]))
    assert not logits.any() and math.isclose(F.cross_entropy(logits.transpose(1, 2), torch.randint(128, (2, 64))).item(), 4.852, abs_tol=1e-3)
    std = model.blocks[0].up.weight.std().item(), model.blocks[0].qkv.weight.std().item()
    assert all(abs(s*384**.5 - 1) < .02 for s in std) and not model.blocks[0].down.weight.any() and abs(model.time.weight.std() - 1) < .02


def test_queries_and_keys_keep_attention_within_bounds():
    model = TinyDiffusion(128, 64, 1, 2)
    block = model.blocks[0]
    with torch.no_grad():
        block.qkv.weight *= 100
        q, k, _ = block.qkv(block.norm(torch.randn(1, 16, 64))).view(1, 16, 3, 2, 32).permute(2, 0, 3, 1, 4)
        q, k = block.turn(block.scale(q)), block.turn(block.scale(k))
    assert (q @ k.transpose(-1, -2) / 32**.5).abs().max() <= 32**.5 + 1e-4        # 8 at the original's 64 features per head


def test_the_loss_is_the_peers():
    "Cross-entropy pooled over all masked positions, unweighted; only the score of the mask itself is left out"
    torch.manual_seed(0)
    model, ids, seen = TinyDiffusion(128, 32, 1, 2), torch.randint(1, 128, (8, 24)), []
    nn.init.normal_(model.out.weight)
    def watched(z, share): seen.append((z, share)); return model(z, share)
    loss = masked_ce(0, draw_t=partial(grid_t, T=128), keep=first_16)(watched, ids)['loss']
    (z, share), = seen
    hidden = z == 0
    assert not hidden[:, :16].any() and hidden[:, 16:].any() and ((share*128).round() == share*128).all()
    logits = model(z, share)[hidden]; logits[:, 0] = -math.inf
    torch.testing.assert_close(loss, F.cross_entropy(logits, ids[hidden]))


def test_the_windows_are_the_peers():
    stream, literal = torch.arange(5*4*6 + 3), []
    rows = stream[:5*4*6].view(4, 30)
    for i in range(0, 30-6, 6): literal.append(rows[:, i:i+6])
    assert torch.equal(fixed_windows(stream, 4, 6), torch.stack(literal))
    with pytest.raises(ValueError, match='too few for two fixed windows'): fixed_windows(stream, 64, 256)


def test_backwards_index_in_a_real_run():
    told = []
    def network(z, share): told.append(share[0].item()); return torch.zeros(*z.shape, 9)
    unmask(by_call(network), torch.full((2, 200), 9), 150, 9, generator=torch.Generator().manual_seed(0))
    assert told[:3] == [1/128, 2/128, 3/128] and told[-1] == 1. and max(told) == 1.      # beyond the table it stays at the last level


# prices ---------------------------------------------------------------------------------------------------------------

def test_a_twin_is_a_distribution():
    "The prices of all texts of two characters add up to 1"
    torch.manual_seed(0)
    model = CausalLM(CausalConfig(vocab_size=6, d_model=16, n_layers=1, n_heads=2)).eval()
    for p in model.parameters(): nn.init.normal_(p)
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    with torch.no_grad(): assert math.isclose((-next_nll(model, every).sum(1)).exp().sum().item(), 1, rel_tol=1e-4)
    drawn = write(model, torch.empty(4000, 0, dtype=torch.long), 2, torch.Generator().manual_seed(0))
    with torch.no_grad(): p = (-next_nll(model, every).double().sum(1)).exp()
    shares = torch.bincount(5*drawn[:, 0] + drawn[:, 1], minlength=25)/4000
    assert (shares - p).abs().max() < 5*(.25/4000)**.5


@pytest.mark.parametrize('name', ['diffusion', 'learned-positions', 'layer-norm', 'no-qk-norm', 'gelu', 'peer'])
def test_an_untrained_arm_costs_a_blind_guess(name):
    "A condition on the first 16 characters changes what is counted, not the price of one"
    model = ARMS[name].model(DATA.vocab_size, 32, dict(d_model=16, n_layers=1, n_heads=2))
    V = DATA.vocab_size        # the peer also scores the mask, which is never counted
    for keep, n in ((None, 32), (first_16, 16)):
        nats = masked_nelbo(model, DATA.test[:3], DATA.mask_id, draws=4, keep=keep)
        torch.testing.assert_close(nats, torch.full((3,), n*math.log(V), dtype=torch.float64), rtol=1e-5, atol=0)


# refusals -------------------------------------------------------------------------------------------------------------

def test_what_is_refused():
    with pytest.raises(ValueError, match="the vocabulary of restaurants lacks 'é', 'Ж'; write the text without"): known_ids('the éЖ', DATA)
    assert DATA.decode(known_ids('the food', DATA)) == ['the food']
    with pytest.raises(ValueError, match='a prefix of 40 tokens leaves nothing to write in a window of 32; give at most 31'): continue_text(lambda z: z, torch.zeros(1, 40, dtype=torch.long), 2, 32, 99)
    with pytest.raises(ValueError, match='context must be from 1 to 31'): continue_text(lambda z: z, torch.zeros(1, 4, dtype=torch.long), 2, 32, 99, context=32)


def test_a_long_text_goes_through_the_sampler():
    model = ARMS['diffusion'].model(DATA.vocab_size, 32, dict(d_model=16, n_layers=1, n_heads=2))
    start = DATA.test[:2, :10]
    fill = lambda z: unmask(model, z, 4, DATA.mask_id, generator=torch.Generator().manual_seed(0))[0]
    ids = continue_text(fill, start, 3, 32, DATA.mask_id)
    assert ids.shape == (2, 32 + 2*16) and torch.equal(ids[:, :10], start) and (ids != DATA.mask_id).all()


def test_papermill(tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', '-p', 'preset', 'smoke', '--no-progress-bar')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'preset smoke · corpus restaurants (source: oracle)' in outputs(tmp_path/'out.ipynb')


@pytest.mark.parametrize('given, said', [(['-p', 'prompt', 'e'*40], 'a prefix of 40 tokens leaves nothing to write in a window of 32'), (['-p', 'prompt', 'Ж'], "the vocabulary of restaurants lacks 'Ж'")])
def test_a_bad_prompt_stops_before_training(given, said, tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', '-p', 'preset', 'smoke', '--no-progress-bar', *given)
    assert done.returncode and said in done.stderr


@pytest.mark.parametrize('given, said', [(['-p', 'arms', 'peers'], "arms 'peers' is unknown (did you mean peer?)"), (['-p', 'steps', '0'], 'steps must be a positive whole number'),
                                         (['--corpus', 'tiny'], "corpus 'tiny' is unknown")])
def test_the_command_refuses(given, said):
    done = call('textdiffusion', 'run', '06b', '--preset', 'smoke', *given)
    assert done.returncode == 2 and said in done.stderr


def test_presets_name_arms_that_exist():
    assert {a for p in PRESETS.values() for a in p['arms']} <= set(ARMS) == set(PRESETS['smoke']['arms'])
