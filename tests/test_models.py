"""Models and objectives against Diffusion-LM's published counts and losses, and through the disk."""
import json
import math
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from textdiffusion import models
from textdiffusion.models import (HEADS, CausalConfig, CausalLM, DiffusionLMConfig, DiffusionLMDenoiser,
                                  GaussianConfig, GaussianDenoiser, MaskedConfig, load)
from textdiffusion.objectives import diffusion_lm, draw
from textdiffusion.schedules import sqrt

PACKAGE = Path(models.__file__).parent
TINY = dict(vocab_size=11, emb_dim=8, d_model=32, n_layers=2, n_heads=2)
MODELS = {**{head: lambda head=head: GaussianDenoiser(GaussianConfig(**TINY, head=head,
                                                                     normalise_emb=head == 'mean_embedding',
                                                                     self_condition=True)) for head in HEADS},
          'causal': lambda: CausalLM(CausalConfig(vocab_size=11, d_model=32, n_layers=2, n_heads=2)),
          'diffusion_lm': lambda: DiffusionLMDenoiser(DiffusionLMConfig(**TINY, max_len=9))}

def outputs(model):
    "What a model says about a fixed input, as one tensor"
    ids = torch.arange(12).reshape(2, 6) % 11
    if isinstance(model, CausalLM): return model(ids)
    return torch.cat(model(model.embed(ids), torch.tensor([.1, .9])), -1)

@pytest.fixture(scope='module')
def published():
    "Diffusion-LM's E2E model, as published: V = 821, D = 16"
    torch.manual_seed(0)
    return DiffusionLMDenoiser(DiffusionLMConfig())

def test_parameter_counts(published):
    assert published.n_params() == 87_129_749
    parts = {k: sum(p.numel() for p in getattr(published, k).parameters())
             for k in ('encoder', 'up', 'time', 'pos', 'norm', 'down', 'table', 'head')}
    assert parts == dict(encoder=85_054_464, up=603_648, time=460_032, pos=393_216, norm=1_536, down=602_896,
                         table=13_136, head=821)

def test_initial_losses(published):
    "Untrained: mse about 1.02, decoder NLL .68 to .75, together 1.70 to 1.77; a table's luck is a few .01"
    torch.manual_seed(1)
    with torch.no_grad(): out = diffusion_lm()(published, torch.randint(821, (16, 64)))
    mse, nll = (out['x0_mse'] + out['t0_mse']).mean(), out['decoder_nll'].mean()
    assert abs(mse - 1.02) < .1 and .64 < nll < .78 and 1.68 < out['loss'] < 1.80, (mse, nll, out['loss'])
    assert abs(out['loss'] - (mse + nll)) < 1e-4                         # the prior term is 2e-7

def test_embeddings_and_layers_start_as_in_pytorch(published):
    assert abs(published.table.weight.std() - 1) < .02 and abs(published.pos.weight.std() - 1) < .02
    assert published.head.bias.abs().max() <= .25 and published.head.bias.std() > .1
    query = published.encoder.layer[0].attention.self.query
    # kaiming-uniform, not N(0, .02)
    assert abs(query.weight.std() - (1/3/768)**.5) < .002 and query.bias.abs().max() > 0

def test_clean_embeddings_decode_to_themselves(published):
    from textdiffusion.sampling import nearest
    ids = torch.arange(821)[None]
    assert torch.equal(nearest(published.embed(ids), published.emb), ids)

@pytest.mark.parametrize('name', MODELS)
def test_survives_the_disk(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))       # also what starts at zero
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob('*.bin')) and list(tmp_path.glob('*.safetensors'))
    again, auto = load(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    for other in (again, auto):
        assert type(other) is type(model) and torch.equal(outputs(model), outputs(other))
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert AutoConfig.from_pretrained(tmp_path).model_type == model.config.model_type

def test_the_tied_table_is_stored_once_and_trains_from_both_sides(tmp_path):
    model = MODELS['regress_x0']()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path/'model.safetensors')
    assert [k for k, v in stored.items() if v.shape == (11, 8)] == ['table.weight']
    d = draw(model, torch.arange(12).reshape(2, 6) % 11, sqrt)
    as_output, = torch.autograd.grad(model.head.decode(d.x0_hat.detach(), model.emb).sum(), model.table.weight)
    as_input, = torch.autograd.grad(d.x0_hat.sum(), model.table.weight)
    assert as_output.norm() > 0 and as_input.norm() > 0

def test_a_missing_weight_is_refused(tmp_path):
    model = MODELS['regress_x0']()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps({**config, 'n_layers': 3}))
    with pytest.raises(ValueError, match='does not hold the whole model'): load(tmp_path)

CONFIGS = (GaussianConfig, CausalConfig, MaskedConfig, DiffusionLMConfig)
OUTSIDE = [dict(n_heads=0), dict(n_heads=5), dict(n_heads=2.), dict(d_model=-128), dict(d_model=130),
           dict(d_model='128'), dict(d_model=10**12), dict(n_layers=-1), dict(n_layers=0), dict(n_layers=True),
           dict(n_layers=None), dict(vocab_size=0), dict(vocab_size=-1), dict(vocab_size=10**30),
           dict(vocab_size=math.nan), dict(seq_len=0)]
OWN = {GaussianConfig: [dict(emb_dim=0), dict(emb_dim=.5), dict(mlp_ratio=0), dict(mlp_ratio=-4), dict(head='argmax'),
                        dict(schedule='cubic'), dict(normalise_emb=2), dict(self_condition='yes'), dict(d_model=4)],
       CausalConfig: [dict(mlp_ratio=0), dict(mlp_ratio=10**6)],
       MaskedConfig: [dict(mlp_ratio=0), dict(time=1), dict(time='no')],
       DiffusionLMConfig: [dict(emb_dim=0), dict(max_len=0), dict(T=0), dict(T=-1), dict(dropout=2), dict(dropout=-.1),
                           dict(dropout=1.), dict(dropout=math.nan), dict(dropout='x')]}

@pytest.mark.parametrize('kind, wrong', [(k, w) for k in CONFIGS for w in OUTSIDE + OWN[k]], ids=str)
def test_a_network_that_cannot_be_built_is_one_sentence(kind, wrong):
    with pytest.raises(ValueError, match='must be|is unknown') as e: kind(**wrong)
    name, said = [*wrong][0], str(e.value)
    assert name in said and '\n' not in said and Path(traceback.extract_tb(e.tb)[-1].filename).parent == PACKAGE

def test_every_kind_of_model_is_asked():
    kinds = {c for c in vars(models).values() if isinstance(c, type) and issubclass(c, models.PreTrainedConfig)}
    assert kinds - {models.PreTrainedConfig} == {*CONFIGS}
    for kind in CONFIGS: assert kind.from_dict(kind().to_dict()).to_dict() == kind().to_dict()

def test_self_conditioning_is_refused_where_it_is_not_built_in():
    model = GaussianDenoiser(GaussianConfig(**TINY))
    x = torch.randn(2, 6, 8)
    with pytest.raises(ValueError, match='self_condition'): model(x, torch.tensor([.1, .9]), x)
