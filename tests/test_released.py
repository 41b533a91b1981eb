"""Released checkpoints in our networks: equal outputs to small forwards written here after the published
code, on weights made here under its names; what does not fit is refused by name."""
import math

import pytest
import torch
import torch.nn.functional as F

from textdiffusion.released import load_diffusion_lm
from textdiffusion.tiny_diffusion_recipe import load_tiny_diffusion

# tiny-diffusion -------------------------------------------------------------------------------------------------------

def tiny_state(V=128, d=32, layers=2, levels=16):
    "Weights under the names of its `DiffusionTransformer`"
    torch.manual_seed(0)
    state = {'token_emb.weight': torch.randn(V, d), 'time_emb.weight': torch.randn(levels, d),
             'output_head.weight': torch.randn(V, d)/d**.5}
    for i in range(layers):
        shapes = {f'attn.c_{k}': (d, d) for k in ('q', 'k', 'v', 'proj')}
        shapes |= {'mlp.c_fc': (4*d, d), 'mlp.c_proj': (d, 4*d)}
        state |= {f'blocks.{i}.{k}.weight': torch.randn(shape)/shape[1]**.5 for k, shape in shapes.items()}
    return state

def unit(x): return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)**.5

def tiny_forward(state, z, level, heads):
    "One call, written out: rotation by -θ in halves, then the norm of queries and keys"
    h = unit(state['token_emb.weight'][z] + state['time_emb.weight'][level][:, None])
    B, L, d = h.shape
    half = d//heads//2
    angle = torch.arange(L)[:, None] * 10_000.**(-torch.arange(half)/half)
    def turned(x):
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a*angle.cos() + b*angle.sin(), b*angle.cos() - a*angle.sin()], -1)
    for i in range(len([k for k in state if k.endswith('c_q.weight')])):
        def times(name, x): return x @ state[f'blocks.{i}.{name}.weight'].T
        q, k, v = (times(f'attn.c_{n}', unit(h)).view(B, L, heads, -1).transpose(1, 2) for n in 'qkv')
        weight = (unit(turned(q)) @ unit(turned(k)).mT / (2*half)**.5).softmax(-1)
        h = h + times('attn.c_proj', (weight @ v).transpose(1, 2).flatten(2))
        h = h + times('mlp.c_proj', F.relu(times('mlp.c_fc', unit(h)))**2)
    return unit(h) @ state['output_head.weight'].T

@pytest.mark.parametrize('heads', [1, 2, 4])
def test_tiny_diffusion_gives_its_own_logits(heads):
    state, z, level = tiny_state(), torch.randint(128, (3, 20)), torch.tensor([0, 7, 15])
    with torch.no_grad(): ours = load_tiny_diffusion(state, heads)(z, (level + 1)/16)
    theirs = tiny_forward(state, z, level, heads)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    straight = dict(state)
    for k in [k for k in state if 'c_q' in k or 'c_k' in k]:              # turned once more is turned the wrong way
        straight[k] = state[k].unflatten(0, (heads, 2, -1)).flip(1).flatten(0, 2)
    with torch.no_grad(): wrong = load_tiny_diffusion(straight, heads)(z, (level + 1)/16)
    assert (wrong - theirs).abs().max() > .1

# Diffusion-LM ---------------------------------------------------------------------------------------------------------

def lm_state(V=30, D=4, d=16, layers=2, longest=12):
    "Weights under the names of its `TransformerNetModel2`, the output table tied"
    torch.manual_seed(0)
    lines = {'time_embed.0': (512, 128), 'time_embed.2': (d, 512), 'input_up_proj.0': (d, D), 'input_up_proj.2': (d, d),
             'output_down_proj.0': (d, d), 'output_down_proj.2': (D, d)}
    norms = ['LayerNorm']
    for i in range(layers):
        at = f'input_transformers.layer.{i}.'
        lines |= {at + f'attention.self.{k}': (d, d) for k in ('query', 'key', 'value')}
        lines |= {at + 'attention.output.dense': (d, d), at + 'intermediate.dense': (4*d, d),
                  at + 'output.dense': (d, 4*d)}
        norms += [at + 'attention.output.LayerNorm', at + 'output.LayerNorm']
    state = {'word_embedding.weight': torch.randn(V, D), 'lm_head.bias': torch.randn(V),
             'position_ids': torch.arange(longest)[None], 'position_embeddings.weight': torch.randn(longest, d)}
    for name, shape in lines.items():
        state |= {f'{name}.weight': torch.randn(shape)/shape[1]**.5, f'{name}.bias': torch.randn(shape[0])/4}
    for name in norms: state |= {f'{name}.weight': torch.rand(d) + .5, f'{name}.bias': torch.randn(d)/4}
    return state | {'lm_head.weight': state['word_embedding.weight']}

def lm_forward(state, x, step, heads):
    "One call at the steps of the table, written out; x0_hat and scores of the words"
    def line(name, h): return F.linear(h, state[f'{name}.weight'], state[f'{name}.bias'])
    def norm(name, h): return F.layer_norm(h, h.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'], 1e-12)
    waves = (step*1000/2000)[:, None] * torch.exp(-math.log(1e4)*torch.arange(64)/64)
    time = line('time_embed.2', F.silu(line('time_embed.0', torch.cat([waves.cos(), waves.sin()], -1))))
    up = line('input_up_proj.2', line('input_up_proj.0', x).tanh())
    h = norm('LayerNorm', up + state['position_embeddings.weight'][:x.shape[1]] + time[:, None])
    for i in range(len([k for k in state if k.endswith('query.weight')])):
        at = f'input_transformers.layer.{i}.'
        q, k, v = (line(at + f'attention.self.{n}', h).unflatten(-1, (heads, -1)).transpose(1, 2)
                   for n in ('query', 'key', 'value'))
        seen = ((q @ k.mT / q.shape[-1]**.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = norm(at + 'attention.output.LayerNorm', h + line(at + 'attention.output.dense', seen))
        h = norm(at + 'output.LayerNorm', h + line(at + 'output.dense', F.gelu(line(at + 'intermediate.dense', h))))
    x0_hat = line('output_down_proj.2', line('output_down_proj.0', h).tanh())
    return x0_hat, x0_hat @ state['word_embedding.weight'].T + state['lm_head.bias']

@pytest.mark.parametrize('heads', [1, 4])
def test_diffusion_lm_gives_its_own_vectors_and_scores(heads):
    state, x, step = lm_state(), torch.randn(3, 9, 4), torch.tensor([0., 700., 1999.])
    model = load_diffusion_lm(state, heads)
    with torch.no_grad(): ours = model(x, (step + 1)/2000)
    for mine, theirs in zip(ours, lm_forward(state, x, step, heads)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    del state['lm_head.weight']                                            # tied: it may be left out
    again = load_diffusion_lm(state, heads)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))

# what does not fit ----------------------------------------------------------------------------------------------------

def without(state, name): return {k: v for k, v in state.items() if k != name}
TINY, LM = tiny_state(), lm_state()
QUERY = 'input_transformers.layer.1.attention.self.query.weight'
WRONG = [
    (load_tiny_diffusion, 2, without(TINY, 'token_emb.weight'), 'lacks token_emb.weight'),
    (load_tiny_diffusion, 2, without(TINY, 'blocks.1.mlp.c_fc.weight'), 'lacks .*blocks.1.up.weight'),
    (load_tiny_diffusion, 2, without(TINY, 'blocks.0.attn.c_k.weight'), 'blocks.0.attn.c_q.weight besides'),
    (load_tiny_diffusion, 2, TINY | {'ema.weight': torch.ones(1)}, 'has ema.weight besides'),
    (load_tiny_diffusion, 2, TINY | {'output_head.weight': torch.ones(9, 32)}, r'output_head.weight of shape \(9, 32\)'),
    (load_tiny_diffusion, 2, TINY | {'output_head.weight': torch.full((128, 32), math.nan)}, 'not finite'),
    (load_tiny_diffusion, 3, TINY, 'cannot have 3 heads'), (load_tiny_diffusion, 2, LM, 'lacks token_emb.weight'),
    (load_diffusion_lm, 4, TINY, 'lacks word_embedding.weight'), (load_diffusion_lm, 3, LM, 'cannot have 3 heads'),
    (load_diffusion_lm, 4, without(LM, QUERY), 'lacks .*layer.1.attention.self.query.weight'),
    (load_diffusion_lm, 4, LM | {'lm_head.weight': torch.zeros(30, 4)}, 'expected them to be one'),
    (load_diffusion_lm, 4, LM | {'encoder_emb.weight': torch.zeros(30, 4)}, 'has encoder_emb.weight besides'),
    (load_diffusion_lm, 4, LM | {QUERY: torch.zeros(16, 8)}, rf'{QUERY} of shape \(16, 8\), not \(16, 16\)')]

@pytest.mark.parametrize('load, heads, state, words', WRONG, ids=[words for *_, words in WRONG])
def test_what_does_not_fit_is_named(load, heads, state, words):
    with pytest.raises(ValueError, match=words) as e: load(state, heads)
    assert '\n' not in str(e.value)
