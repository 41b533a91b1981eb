"""Samplers refuse what cannot give text, and use a model as it was trained."""
import pytest
import torch

from textdiffusion.models import GaussianConfig, GaussianDenoiser, MaskedConfig, MaskedDenoiser
from textdiffusion.sampling import ancestral_step, ddim_step, dpm_step, sample
from textdiffusion.unmasking import canvas, random_k, threshold, top_k, unmask
from textdiffusion.schedules import MASK_SCHEDULES, sqrt

SIZES = dict(vocab_size=11, d_model=32, n_layers=1, n_heads=2)

def gaussian(**fields):
    "A small untrained Gaussian denoiser"
    torch.manual_seed(0)
    return GaussianDenoiser(GaussianConfig(emb_dim=8, **SIZES, **fields)).eval()

def broken(model):
    "The model with weights that are not numbers"
    with torch.no_grad():
        for p in model.parameters(): p.fill_(torch.nan)
    return model

@pytest.mark.parametrize('step', [ancestral_step, ddim_step, dpm_step])
def test_weights_that_are_not_numbers_give_no_text(step):
    with pytest.raises(FloatingPointError, match='nan'): sample(broken(gaussian()), (2, 5, 8), sqrt, 3, step=step)

@pytest.mark.parametrize('pick', [random_k(1), top_k(2), threshold(.5)])
def test_masked_models_likewise(pick):
    model = broken(MaskedDenoiser(MaskedConfig(**SIZES)).eval())
    z = canvas(torch.zeros(2, 1, dtype=torch.long), 5, 11)
    with pytest.raises(FloatingPointError, match='nan'): unmask(model, z, 4, 11, pick=pick)

@pytest.mark.parametrize('name', MASK_SCHEDULES)
def test_a_schedule_for_masks_is_refused(name):
    with pytest.raises(ValueError, match='schedule for masks'): sample(gaussian(), (2, 5, 8), MASK_SCHEDULES[name], 3)

def test_a_self_conditioned_model_sees_its_last_guess_unless_told_otherwise():
    model = gaussian(self_condition=True)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
    def last(**how):
        generator = torch.Generator().manual_seed(0)
        return sample(model, (4, 5, 8), sqrt, 4, generator=generator, trace_every=1, **how)[1][-1]
    usual, told, without = last(), last(self_condition=True), last(self_condition=False)
    assert torch.equal(usual['confidence'], told['confidence'])
    assert not torch.equal(usual['confidence'], without['confidence'])
