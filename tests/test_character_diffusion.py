"""Entries 06b, 06e and 06f: tiny-diffusion rebuilt against a literal version of it, what is refused, and a run."""
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_real_text, obeyed, refused_at_once, smoke_run
from torch import nn

from textdiffusion import character_diffusion, network_parts, tiny_diffusion_recipe
from textdiffusion.corpora import load_corpus
from textdiffusion.denoising import masked_nelbo
from textdiffusion.models import CausalConfig, CausalLM
from textdiffusion.objectives import grid_t, masked_ce
from textdiffusion.records import Run
from textdiffusion.unmasking import unmask
from textdiffusion.streams import continue_text, fixed_windows, next_nll, running_text, write
from textdiffusion.tiny_diffusion_recipe import TinyDiffusion, by_call, first_16

ENTRIES = {'06b_character_diffusion': character_diffusion, '06e_network_parts': network_parts,
           '06f_tiny_diffusion_recipe': tiny_diffusion_recipe}
ARMS = character_diffusion.ARMS | network_parts.ARMS | tiny_diffusion_recipe.ARMS
DATA = running_text('restaurants', 32, lines=60)

# tiny-diffusion, written out as its code does it ----------------------------------------------------------------------

def rms(x): return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


class Literal(nn.Module):
    "tiny-diffusion's transformer, part by part: rotation by -θ, then the norm of queries and keys; separate q, k, v"
    def __init__(self, vocab=128, d=384, layers=6, heads=6, levels=128):
        super().__init__()
        self.heads, self.tok, self.t = heads, nn.Embedding(vocab, d), nn.Embedding(levels, d)
        linear = partial(nn.Linear, bias=False)
        def layer():
            square = {k: linear(d, d) for k in 'qkvo'}
            return nn.ModuleDict(square | dict(up=linear(d, 4*d), down=linear(4*d, d)))
        self.layers = nn.ModuleList(layer() for _ in range(layers))
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
    "The same weights for the journal's block: the halves of each head change places, so that -θ becomes θ"
    d = literal.tok.embedding_dim
    swap = lambda w: w.view(heads, 2, d//heads//2, d).flip(1).reshape(d, d)
    weights = {'table.weight': literal.tok.weight, 'time.weight': literal.t.weight, 'out.weight': literal.head.weight}
    for i, m in enumerate(literal.layers):
        qkv = torch.cat([swap(m['q'].weight), swap(m['k'].weight), m['v'].weight])
        weights |= {f'blocks.{i}.qkv.weight': qkv, f'blocks.{i}.out.weight': m['o'].weight,
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
    loss = F.cross_entropy(logits.transpose(1, 2), torch.randint(128, (2, 64))).item()
    assert not logits.any() and math.isclose(loss, 4.852, abs_tol=1e-3)
    std = model.blocks[0].up.weight.std().item(), model.blocks[0].qkv.weight.std().item()
    assert all(abs(s*384**.5 - 1) < .02 for s in std)
    assert not model.blocks[0].down.weight.any() and abs(model.time.weight.std() - 1) < .02


def test_queries_and_keys_keep_attention_within_bounds():
    model = TinyDiffusion(128, 64, 1, 2)
    block = model.blocks[0]
    with torch.no_grad():
        block.qkv.weight *= 100
        q, k, _ = block.qkv(block.norm(torch.randn(1, 16, 64))).view(1, 16, 3, 2, 32).permute(2, 0, 3, 1, 4)
        q, k = block.turn(block.scale(q)), block.turn(block.scale(k))
    assert (q @ k.transpose(-1, -2) / 32**.5).abs().max() <= 32**.5 + 1e-4  # 8 at the original's 64 features


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
    assert told[:3] == [1/128, 2/128, 3/128] and told[-1] == 1. and max(told) == 1.      # beyond the table: the last


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

def smoke(module, **given): return SimpleNamespace(**module.PRESETS['smoke'] | given)

@pytest.mark.parametrize('name, given, said', [
    ('06b_character_diffusion', dict(prompt='the é'), "the text of restaurants lacks 'é'; write the prompt without"),
    ('06b_character_diffusion', dict(prompt='e'*40), '40 characters leave nothing to write in a window of 32'),
    ('06b_character_diffusion', dict(few=20), 'few must be at least seq_len, 32, not 20'),
    ('06b_character_diffusion', dict(few=500), 'too few for two fixed windows'),
    ('06e_network_parts', dict(seq_len=16), 'seq_len must be above the 16 given characters'),
    ('06f_tiny_diffusion_recipe', dict(batch_size=10_000), 'too few for two fixed windows')])
def test_what_does_not_fit_is_refused(name, given, said):
    module = ENTRIES[name]
    with pytest.raises(ValueError, match=said): module.check(smoke(module, **given), load_corpus('restaurants'))
    assert module.check(smoke(module), load_corpus('restaurants')) is None

def test_a_prompt_is_refused_before_a_kernel_starts():
    done = obeyed('run', '06b', '--preset', 'smoke', '-p', 'prompt', 'é')
    assert done.returncode == 2 and "lacks 'é'" in done.stderr and 'works in' not in done.stdout

@needs_real_text
def test_sentences_are_refused():
    for module in ENTRIES.values():
        with pytest.raises(ValueError, match='needs running text, and e2e is made of sentences'):
            module.check(smoke(module), load_corpus('e2e', 32))

def test_a_text_of_ones_own_runs_under_the_name_of_the_plays(tmp_path):
    "Another length, other symbols, one of them in the held-out tenth only"
    (tmp_path/'tiny_shakespeare').mkdir()
    (tmp_path/'tiny_shakespeare/input.txt').write_text('A bee, a sea. '*900 + 'Ω', encoding='utf-8')
    corpus = load_corpus('tiny_shakespeare', 32, data_dir=tmp_path)
    cfg = smoke(character_diffusion, corpus='tiny_shakespeare', data_dir=str(tmp_path), preset='smoke', few=1000)
    assert character_diffusion.check(cfg, corpus) is None
    run = Run(entry='06b_character_diffusion', cfg=cfg)
    character_diffusion.start(run, ARMS)
    fitted = character_diffusion.train_arm(run, ARMS['diffusion'], 'diffusion', 0, run.corpus)
    assert fitted.steps_done == cfg.steps and run.corpus.vocab_size < 20

def test_a_long_text_goes_through_the_sampler():
    model = ARMS['diffusion'].model(DATA.vocab_size, 32, dict(d_model=16, n_layers=1, n_heads=2))
    start = DATA.test[:2, :10]
    def fill(z): return unmask(model, z, 4, DATA.mask_id, generator=torch.Generator().manual_seed(0))[0]
    ids = continue_text(fill, start, 3, 32, DATA.mask_id)
    assert ids.shape == (2, 32 + 2*16) and torch.equal(ids[:, :10], start) and (ids != DATA.mask_id).all()

# runs -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, arm', [('06b_character_diffusion', 'few-autoregressive'), ('06e_network_parts', 'fast'),
                                       ('06f_tiny_diffusion_recipe', 'pieces-short')])
def test_one_arm_alone_runs_to_its_end(name, arm):
    record = smoke_run(name, arms=arm)
    assert record['parameters']['arms'] == [arm] and record['corpus_info']['source'] == 'oracle'

@pytest.mark.parametrize('given, said', [(['-p', 'arms', 'diffuson'], 'did you mean diffusion?'),
                                         (['-p', 'steps', '0'], 'steps must be a whole number'),
                                         (['--corpus', 'tiny'], "unknown corpus 'tiny'")])
def test_the_command_refuses(given, said):
    refused_at_once([said], 'run', '06b', '--preset', 'smoke', *given)

@pytest.mark.parametrize('module', ENTRIES.values(), ids=ENTRIES)
def test_presets_name_arms_that_exist(module):
    named = {a for p in module.PRESETS.values() for a in p['arms']}
    assert named <= set(module.ARMS) == set(module.PRESETS['smoke']['arms'])
