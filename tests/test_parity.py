"Schedules and samplers against the reference's table and against diffusers, which is needed for tests only"
from functools import partial
import numpy as np
import pytest
import torch
from textdiffusion.sampling import ancestral_step, clamp, clamp_argmax, ddim_step, dpm_step, nearest, sample, spaced
from textdiffusion.schedules import (MASK_SCHEDULES, SCHEDULES, add_noise, from_betas, grid, log_snr, posterior,
                                     posterior_weights, rescale, root, sigma, sqrt)

T = 2000


def reference_betas(f, T=T):
    "The betas of the reference: ratios of f on the grid, capped at 0.999"
    u = np.arange(T+1) / T
    return np.minimum(1 - f(u[1:])/f(u[:-1]), .999)


def numpy_sqrt(u): return 1 - np.sqrt(u+1e-4)


def numpy_cosine(u, s=.008): return np.cos((u+s)/(1+s) * np.pi/2)**2


REFERENCE = dict(
    sqrt=reference_betas(numpy_sqrt),
    cosine=reference_betas(numpy_cosine),
    linear=np.linspace(.5*1e-4, .5*.02, T),
    trunc_linear=np.linspace(.5*1e-4+.01, .5*.02+.01, T),
    pw_linear=np.concatenate([np.linspace(.5*1e-4+.01, .5*1e-4, 10), np.linspace(.5*1e-4, .5*.02, T-10)]),
    trunc_cosine=np.concatenate([[1-numpy_cosine(0, .1)], reference_betas(partial(numpy_cosine, s=.1))[:-1]]))


# ---- schedules ---------------------------------------------------------------

@pytest.mark.parametrize('name', REFERENCE)
def test_schedule_equals_the_table_built_from_betas(name):
    table = torch.from_numpy(np.cumprod(1-REFERENCE[name]))
    torch.testing.assert_close(SCHEDULES[name](grid()), table, rtol=1e-9, atol=0)


def test_every_schedule_but_the_papers_own_sqrt_has_a_reference_table():
    assert set(SCHEDULES) - set(REFERENCE) == {'sqrt_paper'}


def test_sqrt_checkpoints_of_the_reference():
    table = sqrt(grid())
    known = {0: .985359, 10: .93451, 100: .78288, 500: .50444, 1000: .29542, 1500: .13498}
    for i, value in known.items(): assert table[i].item() == pytest.approx(value, abs=5e-6)
    assert table[1998].item() == pytest.approx(2.02e-4, rel=1e-3)
    assert table[1999].item() == pytest.approx(2.02e-7, rel=1e-3)
    first_noise = {name: sigma(grid()[:1], SCHEDULES[name]).item() for name in REFERENCE}
    assert first_noise['sqrt'] == pytest.approx(.1210, abs=5e-5)
    assert first_noise['linear'] == pytest.approx(.0071, abs=5e-5)
    assert first_noise['cosine'] == pytest.approx(.0045, abs=5e-5)
    assert first_noise['trunc_linear'] == pytest.approx(.1, abs=5e-4)
    assert first_noise['pw_linear'] == pytest.approx(.1, abs=5e-4)


def test_200_step_table_is_the_fine_one_at_every_tenth_time_but_for_its_floor():
    coarse = from_betas(torch.from_numpy(reference_betas(numpy_sqrt, 200)))(grid(200))
    assert coarse[0].item() == pytest.approx(.937965, abs=5e-7)
    assert (1-coarse[0]).sqrt().item() == pytest.approx(.2491, abs=5e-5)
    assert coarse[199].item() == pytest.approx(2.48e-6, rel=2e-3)
    torch.testing.assert_close(coarse[:-1], sqrt(grid(200))[:-1], rtol=1e-9, atol=0)
    torch.testing.assert_close(sqrt(grid(200)), sqrt(grid())[9::10], rtol=1e-12, atol=0)


@pytest.mark.parametrize('name', [*SCHEDULES, *('mask_'+m for m in MASK_SCHEDULES)])
def test_standing_promises_of_a_schedule(name):
    f = MASK_SCHEDULES[name[5:]] if name.startswith('mask_') else SCHEDULES[name]
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    values = f(t)
    assert values[0] == pytest.approx(.99 if name == 'sqrt_paper' else 1, abs=1e-12) and values[-1] < 2e-3
    assert (values.diff() <= 0).all() and (values >= 0).all()
    for dtype in (torch.float16, torch.float32, torch.float64): assert f(torch.rand(2, 3).to(dtype)).dtype == dtype
    assert f(torch.rand(2, 3)).shape == (2, 3) and f(torch.rand(())).shape == ()
    for bad in (torch.tensor([1.001]), torch.tensor([-.001]), torch.tensor([5]), torch.tensor([0]),
                torch.tensor([float('nan')])):
        with pytest.raises(ValueError, match=r'floats in \[0, 1\]'): f(bad)


def test_sqrt_paper_is_the_formula_of_the_paper():
    t = torch.rand(50, dtype=torch.float64)*.999
    torch.testing.assert_close(SCHEDULES['sqrt_paper'](t), root(t))
    torch.testing.assert_close(sqrt(t), root(t)/.99)


@pytest.mark.parametrize('F', [.5, 1, 2, 4])
def test_rescaling_divides_the_signal_to_noise_ratio(F):
    t = torch.linspace(.01, .99, 20, dtype=torch.float64)
    for f in SCHEDULES.values():
        torch.testing.assert_close(log_snr(t, rescale(f, F)).exp()*F**2, log_snr(t, f).exp(), rtol=1e-6, atol=0)
    with pytest.raises(ValueError): rescale(sqrt, 0)


def test_added_noise_has_the_right_mean_and_variance():
    g = torch.Generator().manual_seed(0)
    x0, t = torch.full((3, 200, 100), 2.), torch.tensor([.05, .4, .9])
    x_t = add_noise(x0, t, sqrt, torch.randn(x0.shape, generator=g))
    torch.testing.assert_close(x_t.mean((1, 2)), 2*sqrt(t).sqrt(), atol=.025, rtol=0)  # 3.5 standard errors
    torch.testing.assert_close(x_t.var((1, 2)), 1-sqrt(t), atol=.035, rtol=0)


def test_a_time_that_is_not_the_batchs_raises():
    x0 = torch.zeros(4, 4, 2)
    for shape in ((3,), (1,), (4, 3)):
        with pytest.raises(ValueError, match='do not fit a batch'): add_noise(x0, torch.rand(shape), sqrt, x0)
    with pytest.raises(ValueError, match='eps'): add_noise(x0, torch.rand(4), sqrt, x0[:, :1])


# ---- posterior ----------------------------------------------------------------

@pytest.mark.parametrize('name', REFERENCE)
def test_posterior_weights_equal_the_betas_formulas(name):
    betas = torch.from_numpy(REFERENCE[name])
    ab = (1-betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), ab[:-1]])
    to_x0, to_x_t, variance = posterior_weights(SCHEDULES[name](grid()),
                                                torch.cat([before[:1], SCHEDULES[name](grid())[:-1]]))
    torch.testing.assert_close(to_x0, betas*before.sqrt()/(1-ab), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(to_x_t, (1-before)*(1-betas).sqrt()/(1-ab), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(variance, betas*(1-before)/(1-ab), rtol=1e-7, atol=1e-12)
    assert (to_x0[0], to_x_t[0], variance[0]) == (1, 0, 0)


def test_two_steps_of_the_posterior_are_one():
    "Noise to u, step back to s through t, or at once: the same mean and variance, given x0"
    ab_s, ab_t, ab_u = sqrt(torch.tensor([.2, .5, .8], dtype=torch.float64)).tolist()
    a0, a, v = posterior_weights(ab_u, ab_t)
    b0, b, w = posterior_weights(ab_t, ab_s)
    direct0, direct, variance = posterior_weights(ab_u, ab_s)
    assert b0 + b*a0 == pytest.approx(direct0) and b*a == pytest.approx(direct)
    assert w + b**2*v == pytest.approx(variance)


def test_posterior_takes_one_pair_of_times_per_sentence():
    x0, x_t = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    ab_t, ab_s = torch.tensor([.1, .2, .3], dtype=torch.float64), torch.tensor([.4, .5, 1.], dtype=torch.float64)
    mean, variance = posterior(x0, x_t, ab_t, ab_s)
    for b in range(3):
        alone, v = posterior(x0[b:b+1], x_t[b:b+1], ab_t[b].item(), ab_s[b].item())
        torch.testing.assert_close(mean[b:b+1], alone)
        assert variance[b].item() == pytest.approx(float(v))
    assert torch.equal(mean[2], x0[2]) and mean.dtype == torch.float32


# ---- against diffusers ---------------------------------------------------------

SHAPE = (2, 5, 4)


def index(t): return round(float(t)*T) - 1


def denoise(x_t, t, x0_prev=None):
    "Any smooth function of x_t and t will do for a parity check"
    guess = torch.tanh(x_t*(1.5-t[:, None, None]) + .3)
    return guess, guess


def latents(steps, step, x_T, seed=1):
    return sample(denoise, SHAPE, sqrt, steps, step=step, x_T=x_T, generator=torch.Generator().manual_seed(seed),
                  decode=lambda x, logits: x)[0]


def foreign(kind, **kw):
    diffusers = pytest.importorskip('diffusers')
    return getattr(diffusers, kind)(num_train_timesteps=T, trained_betas=REFERENCE['sqrt'], prediction_type='sample',
                                    **kw)


@pytest.fixture
def x_T(): return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('steps', [1, 2, 20, 100])
def test_ancestral_chain_equals_DDPMScheduler(steps, x_T):
    scheduler = foreign('DDPMScheduler', clip_sample=False, variance_type='fixed_small')
    scheduler.set_timesteps(timesteps=[index(t) for t in spaced(steps)[:-1]])
    x, g = x_T, torch.Generator().manual_seed(1)
    for i in scheduler.timesteps:
        x0_hat, _ = denoise(x, torch.full((2,), (i.item()+1)/T))
        x = scheduler.step(x0_hat, i, x, generator=g).prev_sample
    torch.testing.assert_close(latents(steps, ancestral_step, x_T), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize('eta', [0., .5, 1.])
def test_ddim_step_equals_DDIMScheduler(eta, x_T):
    scheduler = foreign('DDIMScheduler', clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(50)   # so that one step goes back 40 of the 2000
    x0_hat, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    table = sqrt(grid()).tolist()
    for i in (1999, 1998, 1500, 400, 79, 40, 39, 0):
        theirs = scheduler.step(x0_hat, i, x_T, eta=eta, variance_noise=noise).prev_sample
        ours = ddim_step(x_T, x0_hat, table[i], table[i-40] if i >= 40 else 1., noise, eta=eta)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize('steps', [1, 2, 3, 10, 20, 100])
def test_dpm_chain_equals_DPMSolverMultistepScheduler(steps, x_T):
    scheduler = foreign('DPMSolverMultistepScheduler', algorithm_type='dpmsolver++', solver_order=2,
                        solver_type='midpoint', final_sigmas_type='zero')
    scheduler.set_timesteps(timesteps=[index(t) for t in spaced(steps)[:-1]])
    x = x_T
    for i in scheduler.timesteps:
        x0_hat, _ = denoise(x, torch.full((2,), (i.item()+1)/T))
        x = scheduler.step(x0_hat, i, x).prev_sample
    torch.testing.assert_close(latents(steps, dpm_step, x_T), x, atol=1e-5, rtol=0)


def test_forward_process_equals_DDPMScheduler(x_T):
    scheduler = foreign('DDPMScheduler')
    x0, i = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)), torch.tensor([7, 1500])
    torch.testing.assert_close(add_noise(x0, (i+1)/T, sqrt, x_T), scheduler.add_noise(x0, x_T, i), atol=1e-5, rtol=0)


# ---- samplers -----------------------------------------------------------------

STEPS = dict(ancestral=ancestral_step, ddim=ddim_step, ddim_eta_1=partial(ddim_step, eta=1.), dpm=dpm_step)


@pytest.fixture
def language():
    g = torch.Generator().manual_seed(4)
    return torch.randn(30, 8, generator=g), torch.randint(30, (3, 7), generator=g)


@pytest.mark.parametrize('steps', [1, 5, 50])
@pytest.mark.parametrize('name', STEPS)
@pytest.mark.parametrize('rounding', [None, clamp, clamp_argmax])
def test_a_perfect_denoiser_is_decoded_exactly(name, steps, rounding, language):
    emb, ids = language
    perfect = lambda x_t, t, x0_prev: (emb[ids], -torch.cdist(emb[ids], emb.expand(3, -1, -1)))
    kw = dict(step=STEPS[name], round_fn=rounding and rounding(emb), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(perfect, (3, 7, 8), sqrt, steps, **kw)[0], ids)
    latents, _ = sample(perfect, (3, 7, 8), sqrt, steps, decode=lambda x, logits: x, **kw)
    assert torch.equal(latents, emb[ids])     # the last step returns the guess itself


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_conditioning_time_falls_strictly_from_one_and_ends_clean(schedule, language):
    emb, ids = language
    asked = []
    def perfect(x_t, t, x0_prev): asked.append(t); return emb[ids], emb[ids] @ emb.T
    latents, _ = sample(perfect, (3, 7, 8), SCHEDULES[schedule], 30, decode=lambda x, logits: x)
    times = torch.stack(asked)
    assert times.shape == (30, 3) and times.dtype == torch.float32 and (times[0] == 1).all()
    assert (times.diff(dim=0) < 0).all()
    assert times[-1, 0] == pytest.approx(1/T) and torch.equal(latents, emb[ids])


def test_self_conditioning_gets_the_last_unrounded_guess(language):
    emb, ids = language
    given, seen = [], []
    def watched(x_t, t, x0_prev):
        seen.append(x0_prev)
        given.append(x_t.tanh())
        return given[-1], x_t @ emb.T
    sample(watched, (3, 7, 8), sqrt, 4, round_fn=clamp(emb), self_condition=True)
    assert seen[0] is None and all(torch.equal(a, b) for a, b in zip(seen[1:], given))
    seen.clear()
    sample(watched, (3, 7, 8), sqrt, 4)
    assert seen == [None]*4


def test_the_model_is_left_as_it_was_also_after_an_error(language):
    emb, ids = language
    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.on, self.off = torch.nn.Dropout(), torch.nn.Dropout().eval()
        def forward(self, x_t, t, x0_prev=None):
            assert not self.training and not self.on.training and not torch.is_grad_enabled()
            return x_t[:, :self.length], x_t @ emb.T
    model = Denoiser()
    model.length = 7
    sample(model, (3, 7, 8), sqrt, 2)
    model.length = 1
    with pytest.raises(ValueError, match='like its input'): sample(model, (3, 7, 8), sqrt, 2)
    assert model.training and model.on.training and not model.off.training and torch.is_grad_enabled()


def test_diverged_latents_are_an_error_not_a_sentence(language):
    emb, ids = language
    broken = lambda x_t, t, x0_prev: (x_t*float('nan'), x_t @ emb.T)
    with pytest.raises(FloatingPointError, match='diverged'): sample(broken, (3, 7, 8), sqrt, 3)


@pytest.mark.parametrize('V,D', [(5, 1), (821, 16), (300, 128)])
def test_rounding_is_the_nearest_embedding_and_undoes_embedding(V, D):
    g = torch.Generator().manual_seed(5)
    emb, x = torch.randn(V, D, generator=g), torch.randn(4, 16, D, generator=g)
    assert torch.equal(nearest(x, emb), (x[..., None, :].double()-emb.double()).square().sum(-1).argmin(-1))
    assert torch.equal(nearest(x, emb, chunk=1), nearest(x, emb))
    ids = torch.randint(V, (4, 16), generator=g)
    assert torch.equal(nearest(emb[ids], emb), ids)
    with pytest.raises(ValueError, match='width'): nearest(x, torch.zeros(3, D+1))
