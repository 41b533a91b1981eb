"Entry 10b and its losses: what students are asked for, against known answers, and what a reader may ask for"
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.distillation import GIVEN, LINES, PRESETS, best_of, by_place, one_call_kl, times_of, written
from textdiffusion.distilling import (LatentDenoiser, falling_shares, follow, halved, landing, mixed, mixture,
                                      reach_the_text, rounds, row_nll, self_distilled, to_noise, to_text, two_calls,
                                      upwards)
from textdiffusion.models import GaussianConfig, GaussianDenoiser, MaskedConfig, MaskedDenoiser
from textdiffusion.oracles import listed_bayes, masked_oracle
from textdiffusion.recipes import NOISE
from textdiffusion.records import Run
from textdiffusion.sampling import ddim_step, spaced
from textdiffusion.shared_information import listed_denoiser, sudoku_grids

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(corpus='restaurants', calls=[1, 2, 4], samples=3))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
XOR, MASK = torch.tensor([[0, 1], [1, 0]]), 2

def constant(guess):
    def denoise(x_t, t, x0_prev=None): return guess.expand_as(x_t), torch.zeros(*x_t.shape[:2], 5)
    return denoise

@pytest.mark.parametrize('n', [1, 2, 7, 30])
def test_a_constant_guess_lands_where_one_step_does(n):
    guess, x = torch.randn(3, 4), torch.randn(2, 3, 4, dtype=torch.float64)
    ends = [follow(constant(guess), x, torch.linspace(1, .2, k+1), NOISE, ddim_step)[0] for k in (1, n)]
    assert (ends[0] - ends[1]).abs().max() < 1e-6
    assert (follow(constant(guess), x, spaced(n), NOISE, ddim_step)[0] - guess).abs().max() < 1e-6

def test_a_perfect_path_leads_from_text_to_noise_and_back():
    texts, emb = torch.tensor([[0, 1], [1, 0]]), torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    perfect = listed_bayes(texts, emb, NOISE)
    class Embedding:
        def embed(self, ids): return emb[ids]
        def __call__(self, *args): return perfect(*args)
    many, eps = texts.repeat(200, 1), torch.randn(400, 2, 8, generator=torch.Generator().manual_seed(2))
    noise = to_noise(Embedding(), many, eps, upwards(80), NOISE, ddim_step)
    assert abs(noise.mean()) < .03 and abs(noise.std() - 1) < .03
    back = to_text(Embedding(), noise, upwards(80).flip(0), NOISE, ddim_step, False)
    assert (back == many).all(1).double().mean() > .95

def test_one_deterministic_call_can_hold_what_two_words_share():
    emb = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    wrote = to_text(listed_bayes(XOR, emb, NOISE), torch.randn(400, 2, 8), spaced(1), NOISE, ddim_step)
    assert (wrote.sum(1) == 1).all() and .4 < wrote[:, 0].double().mean() < .6

def test_every_call_of_every_way_is_asked_for_the_text():
    asked = []
    class Asked(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(5))
        def forward(self, x, t, x0_prev):
            asked.append((t[0].item(), x0_prev is not None, torch.is_grad_enabled()))
            return torch.zeros_like(x), self.w.expand(*x.shape[:2], 5)
    grids = [torch.tensor([1., 0.]), torch.tensor([1., .3, 0.])]
    loss = reach_the_text(torch.randn(4, 3, 2), torch.randint(5, (4, 3)), grids, NOISE, ddim_step)
    torch.manual_seed(0)
    for _ in range(30): assert abs(loss(Asked(), torch.zeros(2, 3))['loss'] - math.log(5)) < 1e-6
    graded = [(round(t, 3), seen) for t, seen, grad in asked if grad]
    assert set(graded) == {(1., False), (.3, True)} and len(graded) == 30

@pytest.mark.parametrize('n', [2, 8])
def test_the_halved_target_of_a_linear_model_is_its_two_step_map(n):
    torch.manual_seed(0)
    A, x = torch.randn(4, 4, dtype=torch.float64)/4, torch.randn(5, 3, 4, dtype=torch.float64)
    def linear(x_t, t, x0_prev): return x_t @ A, None
    times = spaced(n)
    a = torch.cat([NOISE(times[:-1]), torch.ones(1, dtype=torch.float64)]).tolist()
    for i in range(0, n, 2):
        two = follow(linear, x, times[i:i+3], NOISE, ddim_step)[0]
        one = ddim_step(x, landing(x, two, a[i], a[i+2]), a[i], a[i+2], 0*x)
        assert (one - two).abs().max() < 1e-9

def test_halved_asks_a_constant_teacher_for_its_constant():
    torch.manual_seed(0)
    model = GaussianDenoiser(GaussianConfig(vocab_size=5, emb_dim=4, d_model=16, n_layers=1, n_heads=2))
    guess, ids = torch.randn(3, 4), torch.randint(5, (6, 3))
    class Says(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(guess.clone())
        def embed(self, ids): return model.embed(ids)
        def forward(self, x, t, x0_prev): return self.w.expand_as(x), None
    assert halved(constant(guess), spaced(8), NOISE, ddim_step)(Says(), ids)['loss'] < 1e-8

def test_a_student_that_is_its_teacher_costs_nothing_where_nothing_is_filled_between():
    torch.manual_seed(0)
    z, net = torch.full((9, 2), MASK), MaskedDenoiser(MaskedConfig(vocab_size=2, d_model=16, n_layers=1, n_heads=2))
    with torch.no_grad():
        for p in net.parameters(): p.add_(.2*torch.randn_like(p))
    assert torch.allclose(two_calls(net, z, torch.ones(9, 2), MASK), net(z, None).log_softmax(-1))
    loss = self_distilled(lambda z, share: net(torch.full_like(z, MASK), share), 2, MASK)
    class All(torch.nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, z, share): return self.net(torch.full_like(z, MASK), share)
    assert loss(All(), XOR.repeat(9, 1))['loss'].abs() < 1e-6

def test_two_calls_of_a_perfect_teacher_know_more_than_one():
    perfect, grids = listed_denoiser(sudoku_grids(), 4), sudoku_grids()[:64]
    z = torch.full_like(grids, 4)
    torch.manual_seed(0)
    said = two_calls(perfect, z, torch.tensor([[1., 15/16]]).expand(64, 2), 4)
    entropy = -(said.exp()*said.clamp(min=-99)).sum(-1)
    told = ((entropy - math.log(3)).abs() < 1e-3).sum(1)   # row, column and box of the one that is filled
    assert (told == 7).any() and (told == 0).any() and entropy.max() < math.log(4) + 1e-6

@pytest.mark.parametrize('calls', [1, 2, 4, 16])
def test_shares_fall_from_all_to_none_and_halve(calls):
    shares = falling_shares(2*calls)
    assert shares[0] == 1 and shares[-1] == 0 and (shares.diff() < 0).all()
    assert torch.allclose(shares[::2], falling_shares(calls))

def test_a_mixture_of_one_is_plain_and_of_many_never_dearer_than_its_parts():
    nll = torch.rand(50, 6)*20
    assert (mixed(nll) <= nll.mean(1) + 1e-5).all() and (mixed(nll) >= nll.min(1).values - 1e-5).all()
    assert torch.allclose(mixed(nll[:, :1]), nll[:, 0])
    torch.manual_seed(0)
    model = LatentDenoiser(MaskedConfig(vocab_size=2, d_model=16, n_layers=1, n_heads=2))
    said = mixture(MASK, 1, 1)(model, XOR.repeat(9, 1))
    assert torch.allclose(said['mixed'], said['alone']) and torch.allclose(said['loss'], said['mixed'].mean()/2)

def test_two_latents_reach_what_no_factorised_call_can():
    def lost(logits): # (M,2,2)
        each = torch.stack([row_nll(one.expand(2, 2, 2), XOR, XOR < 2) for one in logits], 1)
        return mixed(each).mean().item() - math.log(2)
    assert lost(torch.zeros(1, 2, 2)) == pytest.approx(math.log(2), abs=1e-6)
    assert lost(40.*F.one_hot(XOR, 2)) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    assert min(lost(3*torch.randn(1, 2, 2)) for _ in range(200)) > math.log(2) - 1e-6

def test_the_gradient_of_the_mixture_is_that_of_its_cost():
    "One latent drawn by its weight, on average over draws"
    class Two(torch.nn.Module):
        def __init__(self): super().__init__(); self.lean = torch.nn.Parameter(torch.tensor(.7))
        def draw(self, n): self.at = 1 - getattr(self, 'at', 1); return torch.full((n, 1), 2.*self.at - 1)
        def forward(self, z, share, latent): return self.lean*latent[:, None]*torch.tensor([[1., -1.], [-1., 1.]])
    model, ids = Two(), XOR[:1].repeat(20000, 1)
    torch.manual_seed(0)
    own, = torch.autograd.grad(mixture(MASK, 2, 1)(model, ids)['loss']*2, model.lean)
    each = torch.stack([row_nll(model(ids[:1], None, torch.tensor([[s]])), ids[:1], ids[:1] < 2) for s in (-1., 1.)], 1)
    exact, = torch.autograd.grad(mixed(each).sum(), model.lean)
    assert own == pytest.approx(exact.item(), abs=.03)

def test_no_factorised_call_beats_the_frequencies_of_places():
    texts, held = CORPUS.train[:8000], CORPUS.test[:400]
    least = one_call_kl(by_place(texts, CORPUS), held, CORPUS)
    perfect = masked_oracle(CORPUS)(torch.full((1, CORPUS.seq_len), CORPUS.mask_id).index_fill(
        1, torch.tensor([0]), CORPUS.bos_id), torch.ones(1))
    assert 3 < least < one_call_kl(perfect, held, CORPUS) + .2
    torch.manual_seed(0)
    worse = by_place(texts, CORPUS) + .3*torch.randn(1, CORPUS.seq_len, CORPUS.vocab_size)
    assert one_call_kl(worse, held, CORPUS) > least

def test_rounds_end_at_one_call():
    assert rounds('t', 16, lambda base, calls: f'{base}{calls}') == {8: 't16', 4: 't168', 2: 't1684', 1: 't16842'}

@pytest.mark.parametrize('arm', [a for a in LINES if 'mask' not in a and a not in ('self-distilled', 'mixture')])
@pytest.mark.parametrize('calls', [1, 2, 4])
def test_continuous_networks_write_rows_of_the_corpus(arm, calls):
    torch.manual_seed(0)
    model = GaussianDenoiser(GaussianConfig(vocab_size=CORPUS.vocab_size, emb_dim=16, d_model=32, n_layers=1, n_heads=1,
                                            head='mean_embedding', normalise_emb=True, self_condition=True)).eval()
    times = times_of(arm, calls)
    assert len(times) == calls+1 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    one, two = (written(RUN, arm, model, calls, 5) for _ in range(2))
    assert one.shape == (3, CORPUS.seq_len) and torch.equal(one, two)

def test_the_best_student_is_neither_a_teacher_nor_its_longer_training():
    rows = [dict(arm=a, setting='', calls=4, seed=0, valid=v) for a, v in
            (('continuous', .9), ('masked-longer', .8), ('halved', .5), ('mixture', .1))]
    rows += [dict(arm=a, setting='', calls=4, seed=0, valid=.2) for a in (*GIVEN, 'self-distilled')]
    assert best_of(dict(rows=rows), 'valid', 4).mean == .5

def test_every_arm_is_drawn():
    assert set(LINES) == set(PRESETS['long']['arms'])

@pytest.mark.parametrize('wrong', [
    lambda: follow(constant(torch.zeros(4)), torch.zeros(1, 3, 4), torch.tensor([1., .2, .5]), NOISE, ddim_step),
    lambda: reach_the_text(torch.zeros(2, 3, 4), torch.zeros(1, 3).long(), [spaced(1)], NOISE, ddim_step),
    lambda: halved(constant(torch.zeros(4)), spaced(3), NOISE, ddim_step),
    lambda: self_distilled(None, 3, MASK), lambda: rounds(None, 6, None), lambda: mixture(-1)])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match='must'): wrong()

@pytest.mark.parametrize('name', ['student_steps', 'pairs'])
def test_a_wrong_parameter_is_refused(name):
    refused_at_once([name], 'run', '10b_distillation', '-p', name, '0')
