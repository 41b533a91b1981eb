"""Samplers refuse what cannot give text, and use a model as it was trained."""
import pytest
import torch

from textdiffusion.models import GaussianConfig, GaussianDenoiser, MaskedConfig, MaskedDenoiser
from textdiffusion.sampling import ancestral_step, ddim_step, dpm_step, sample
from textdiffusion.unmasking import canvas, random_k, threshold, top_k, unmask
from textdiffusion.corpora import load_corpus
from textdiffusion.denoising import denoising_table, input_sensitivity
from textdiffusion.objectives import diffusion_lm
from textdiffusion.oracles import eps_loss
from textdiffusion.schedules import MASK_SCHEDULES, cosine, rescale, sqrt, sqrt_paper

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

def test_a_schedule_has_one_home():
    "A head that predicts noise undoes the noise of its own schedule; under another one nothing is sampled or measured"
    model, corpus = gaussian(head='predict_eps'), load_corpus('restaurants')
    ids = torch.randint(4, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    x0 = model.embed(ids).detach()
    uses = (lambda ab: sample(model, (2, 5, 8), ab, 3),
            lambda ab: denoising_table(model, x0, ids, corpus, ab, ts=(.5,)),
            lambda ab: input_sensitivity(model, x0, ids, corpus, ab, ts=(.5,)),
            lambda ab: eps_loss(model, model.emb.detach(), ids, ab, levels=2), lambda ab: diffusion_lm(ab)(model, ids))
    for use in uses:
        for same in (sqrt, rescale(sqrt, 1.)): use(same)
        for other in (cosine, sqrt_paper, rescale(sqrt, 2.)):
            with pytest.raises(ValueError, match='under which the model predicts noise, sqrt'): use(other)
    sample(gaussian(), (2, 5, 8), cosine, 3)                           # a head that predicts the clean vector has none
