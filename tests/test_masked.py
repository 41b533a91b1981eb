"""Masked diffusion: oracles of MDLM's and dLLM's code, sources whose entropy is known,
the perfect denoiser and its ceiling, what sampling costs, and every refusal."""
import hashlib
import itertools
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from helpers import overhead
from textdiffusion import unmasking
from textdiffusion.corpora import oracle
from textdiffusion.tokenizing import list_tokenizer
from textdiffusion.classifying import mask_exactly
from textdiffusion.denoising import stratified_counts, masked_nelbo
from textdiffusion.grammar import Grammar
from textdiffusion.metrics import exact_nll, nll_rates, oracle_scores
from textdiffusion.models import Block, CausalConfig, CausalLM, MaskedConfig, MaskedDenoiser, load, rms_norm, rotary
from textdiffusion.objectives import (bound_weight, forbid, mask_tokens, masked_bound, masked_ce, masked_draw,
    masked_nll, stratified_t, subs)
from textdiffusion.oracles import _is_possible, masked_oracle
from textdiffusion.plotting import denoising_strip, moments
from textdiffusion.unmasking import (ancestral, canvas, categorical, even_times, greedy, random_k, scheduled,
    threshold, top_k, unmask)
from textdiffusion.rules import read_rules
from textdiffusion.schedules import MASK_SCHEDULES, mask_cosine, mask_linear, mask_log_linear

SIZES = dict(vocab_size=11, d_model=32, n_layers=2, n_heads=2)

def seeded(seed=0): return torch.Generator().manual_seed(seed)

def random_denoiser(timed=False, seed=0):
    "A network with opinions: random weights, also where training starts at zero"
    torch.manual_seed(seed)
    model = MaskedDenoiser(MaskedConfig(**SIZES, time=timed)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.2*torch.randn_like(p))
    return model

def source(p):
    "The best masked denoiser of independent words with probabilities p"
    return lambda z, share: p.log().expand(*z.shape, len(p))

def clueless(V): return source(torch.ones(V)/V)

# ---- the model ------------------------------------------------------------------

def test_twin_up_to_one_row_of_the_table():
    for timed, extra in ((False, 32), (True, 32 + 128*32+32 + 32*32+32)):
        assert MaskedDenoiser(MaskedConfig(**SIZES,
                                           time=timed)).n_params() - CausalLM(CausalConfig(**SIZES)).n_params() == extra

def test_an_untrained_denoiser_says_nothing():
    torch.manual_seed(0)
    out = masked_ce(11)(MaskedDenoiser(MaskedConfig(**SIZES)), torch.randint(11, (8, 5)))
    assert out['loss'].item() == pytest.approx(math.log(11), abs=1e-6)

@pytest.mark.parametrize('timed', [False, True])
def test_masked_denoiser_survives_the_disk(timed, tmp_path):
    model = random_denoiser(timed)
    model.save_pretrained(tmp_path)
    again, z = load(tmp_path), torch.randint(12, (3, 6))
    assert type(again) is MaskedDenoiser and again.config.time == timed
    assert torch.equal(again(z, torch.tensor([.1, .5, 1.])), model(z, torch.tensor([.1, .5, 1.])))

def test_blocks_are_what_they_were_before_their_parts_had_names():
    "The block of the continuous models, written out, bit for bit"
    torch.manual_seed(0)
    block, h = Block(16, 2), torch.randn(3, 5, 16)
    with torch.no_grad():
        for p in block.parameters(): p.normal_(std=.3)
        q, k, v = block.qkv(rms_norm(h)).view(3, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(rotary(rms_norm(q)), rotary(rms_norm(k)), v)
        a = h + block.out(seen.transpose(1, 2).reshape(3, 5, 16))
        assert torch.equal(block(h), a + block.down(F.relu(block.up(rms_norm(a))).square()))

@pytest.mark.parametrize('part, other', [('norm', lambda x: x), ('turn', lambda x: x), ('scale', lambda x: x),
                                         ('act', F.gelu)])
def test_each_habit_of_a_block_can_be_replaced_alone(part, other):
    Changed = type('Changed', (Block,), {part: staticmethod(other)})
    Model = type('Model', (MaskedDenoiser,), dict(block=Changed))
    usual, changed = random_denoiser(), Model(MaskedConfig(**SIZES)).eval()
    changed.load_state_dict(usual.state_dict())
    z = torch.randint(12, (2, 7), generator=seeded())
    assert not torch.allclose(usual(z, torch.ones(2)), changed(z, torch.ones(2)), atol=1e-4)

def test_the_norm_survives_zero_and_tiny_vectors():
    assert (rms_norm(torch.zeros(2, 8)) == 0).all() and (rms_norm(torch.full((8,), 1e-8)) - 2.9e-5).abs().max() < 1e-6

# ---- the forward process and the bound, as MDLM's code has them -------------------

def test_weights_and_log_linear_of_mdlm():
    t = torch.tensor([1e-3, .5, 1.], dtype=torch.float64)
    for alpha_bar in (mask_linear, mask_log_linear):                                   # exactly 1/t, whatever epsilon
        torch.testing.assert_close(bound_weight(alpha_bar, t), torch.tensor([1000., 2., 1.], dtype=torch.float64),
                                   rtol=1e-10, atol=0)
    one = torch.ones(1, dtype=torch.float64)
    assert 1 - mask_log_linear(one).item() == pytest.approx(.999)
    assert -mask_log_linear(one).log().item() == pytest.approx(6.9078, abs=5e-5)
    assert bound_weight(mask_linear, torch.tensor([.25])).dtype == torch.float32

@pytest.mark.parametrize('name', MASK_SCHEDULES)
def test_weight_is_the_derivative_of_the_logarithm_of_the_share(name):
    t, h = torch.linspace(.05, .95, 19, dtype=torch.float64), 1e-6
    slope = ((1-MASK_SCHEDULES[name](t+h)).log() - (1-MASK_SCHEDULES[name](t-h)).log()) / (2*h)
    torch.testing.assert_close(bound_weight(MASK_SCHEDULES[name], t), slope, rtol=1e-6, atol=0)

def test_masking_is_independent_has_the_right_rate_and_spares_what_is_kept():
    torch.manual_seed(0)
    ids, share = torch.randint(9, (4000, 30)), torch.rand(4000)
    z = mask_tokens(ids, share, 9, keep=torch.arange(30) < 5)
    masked = z == 9
    assert torch.equal(z[~masked], ids[~masked]) and not masked[:, :5].any()
    assert abs((masked[:, 5:].float().mean(1) - share).mean()) < .005
    # binomial
    torch.testing.assert_close((masked[:, 5:].sum(1) - 25*share).square().mean(), (25*share*(1-share)).mean(), rtol=.1,
                               atol=0)
    assert mask_tokens(ids, torch.zeros(4000), 9).equal(ids) and (mask_tokens(ids, torch.ones(4000), 9) == 9).all()
    assert not (mask_tokens(ids, torch.ones(4000), 9, keep=lambda ids: ids == 3)[ids == 3] == 9).any()

@pytest.mark.parametrize('W', [11, 12, 20])
def test_subs_never_predicts_the_mask_and_carries_over(W):
    torch.manual_seed(0)
    ids = torch.randint(11, (5, 8)); z = mask_tokens(ids, torch.linspace(0, 1, 5), 11)
    logits = torch.randn(5, 8, W, requires_grad=True)
    logp = subs(logits, z, 11)
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(5, 8))
    if W > 11: assert (logp[..., 11] == -math.inf).all()
    seen = z != 11
    assert (logp.gather(-1, ids[..., None])[..., 0][seen] == 0).all() and (logp[seen].isneginf().sum(-1) == W-1).all()
    nll = masked_nll(logits, ids, z, 11)
    torch.testing.assert_close(nll, -logp.gather(-1, ids[..., None])[..., 0])
    nll.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[seen].any()

def test_masked_ce_is_the_pooled_loss_of_a_masked_language_model():
    "Sum over masked positions of the batch divided by their number: what Hugging Face computes with labels of -100"
    model, ids = random_denoiser(), torch.randint(11, (16, 9))
    torch.manual_seed(3); out = masked_ce(11, draw_t=lambda n, device: torch.full((n,), .4))(model, ids)
    torch.manual_seed(3); z = mask_tokens(ids, torch.full((16,), .4), 11)
    torch.testing.assert_close(out['loss'], F.cross_entropy(model(z, torch.full((16,), .4)).flatten(0, 1),
                                                            ids.masked_fill(z != 11, -100).flatten()))

def test_one_draw_in_both_losses():
    model, ids = random_denoiser(timed=True), torch.randint(11, (16, 9))
    outs = []
    for loss in (masked_bound, masked_ce): torch.manual_seed(0); outs.append(loss(11, mask_cosine)(model, ids))
    assert all(torch.equal(outs[0][k], outs[1][k]) for k in ('t', 'bound', 'ce')) and outs[0]['loss'] != outs[1]['loss']
    assert set(outs[0]) == {'loss', 't', 'bound', 'ce'} and outs[0]['loss'] == outs[0]['bound'].mean()

@pytest.mark.parametrize('loss', [masked_bound, masked_ce])
def test_a_batch_without_masks_costs_nothing_and_has_a_gradient(loss):
    model, ids = random_denoiser(), torch.randint(11, (4, 6))
    for how in (dict(draw_t=lambda n, device: torch.zeros(n)), dict(keep=torch.tensor(True))):
        model.zero_grad()
        out = loss(11, **how)(model, ids)
        out['loss'].backward()
        assert out['loss'] == 0 and all(v.isfinite().all() for v in out.values())
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

# ---- the bound of sources that are known -------------------------------------------

def test_a_uniform_predictor_costs_ln_V_on_every_draw():
    ids = torch.randint(27, (40, 64))
    for draws in (1, 3, 16):
        torch.testing.assert_close(masked_nelbo(clueless(27), ids, 27, draws),
                                   torch.full((40,), 64*math.log(27), dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(masked_nelbo(clueless(27), ids, 27, keep=torch.arange(64) < 16),
                               torch.full((40,), 48*math.log(27), dtype=torch.float64), rtol=1e-6, atol=0)
    assert math.log(27) == pytest.approx(3.296, abs=5e-4) and math.log2(27) == pytest.approx(4.755, abs=5e-4)

@pytest.mark.parametrize('name', MASK_SCHEDULES)
def test_the_training_bound_of_a_uniform_predictor_is_ln_V_under_every_schedule(name):
    torch.manual_seed(0)
    d = masked_draw(clueless(27), torch.randint(27, (4000, 64)), 27, MASK_SCHEDULES[name])
    assert d.bound.mean().item() == pytest.approx(math.log(27), abs=.06)

def test_the_bound_of_independent_words_is_their_entropy():
    p = torch.tensor([.5, .2, .1, .1, .05, .05])
    words = torch.multinomial(p, 2000*32, replacement=True, generator=seeded()).view(2000, 32)
    bound, entropy = masked_nelbo(source(p), words, 6, batch=2000)/32, torch.special.entr(p).sum().item()
    error = bound.std().item()/2000**.5
    assert error < .005 and abs(bound.mean().item() - entropy) < 4*error
    # and row by row it is the row's own cost
    row = -p.log()[words].mean(1).double()
    assert abs((bound - row).mean()) < 4*(bound - row).std()/2000**.5 and (bound - row).std() < .6*bound.std()

def test_the_level_makes_the_bound_exact_for_a_model_that_reads_it():
    "A predictor whose price is its level t: the integral of (1/t)·m·t·t is m/2; with the share k/m for t, (m+1)/2"
    def price(z, share): return torch.stack([-share, torch.log(-torch.expm1(-share))], -1)[:, None].expand(*z.shape, 2)
    m, ids = 4, torch.zeros(4000, 4, dtype=torch.long)
    bound = masked_nelbo(price, ids, 2, draws=16, batch=4000)
    assert abs(bound.mean().item() - m/2) < 4*bound.std().item()/4000**.5 < .05

@pytest.mark.parametrize('timed', [False, True])
def test_training_and_evaluation_estimate_one_bound(timed):
    model, ids = random_denoiser(timed), torch.randint(11, (1, 12), generator=seeded()).expand(4000, 12)
    torch.manual_seed(1)
    with torch.no_grad():
        drawn = {name: masked_draw(model, ids, 11, MASK_SCHEDULES[name]).bound
                 for name in ('linear', 'cosine', 'exponential')}
    counted = masked_nelbo(model, ids[:500], 11, draws=12, batch=500)/12
    for name, bound in drawn.items():
        error = (bound.var()/4000 + counted.var()/500).sqrt().item()
        assert abs(bound.mean() - counted.mean()).item() < 4*error < .3, name

def test_counts_are_stratified_and_masks_are_common():
    counts = stratified_counts(torch.tensor([20, 7, 1]), 20, seeded())
    assert (counts[0].sort().values == torch.arange(1, 21)).all() and (counts[2] == 1).all()
    assert set(counts[1].tolist()) == set(range(1, 8)) and counts[1].bincount()[1:].max() <= 3
    assert stratified_counts(torch.full((300,), 3), 1, seeded()).flatten().bincount().tolist() == [0, 100, 100, 100]
    seen = {}
    for name in ('one', 'other'):
        seen[name] = []
        masked_nelbo(lambda z, share: seen[name].append((z, share)) or clueless(9)(z, share),
                     torch.randint(9, (30, 8), generator=seeded()), 9, draws=2, batch=30)
    assert all(torch.equal(a, b) for x, y in zip(*seen.values()) for a, b in zip(x, y))
    model, ids = random_denoiser(), torch.randint(11, (30, 8))
    torch.testing.assert_close(masked_nelbo(model, ids, 11, batch=7), masked_nelbo(model, ids, 11, batch=30),
                               rtol=1e-5, atol=0)
    assert not torch.equal(masked_nelbo(model, ids, 11, seed=1), masked_nelbo(model, ids, 11))

def test_levels_are_beta_and_independent_of_which_positions():
    ids, free = torch.zeros(20_000, 6, dtype=torch.long), torch.arange(6) > 0
    z, level = mask_exactly(ids, torch.full((20_000,), 2), free.expand(20_000, 6), 1, seeded())
    assert not (z[:, 0] == 1).any() and ((z == 1).sum(1) == 2).all()
    # Beta(2, 4)
    assert level.mean().item() == pytest.approx(2/6, abs=.004)
    assert level.var().item() == pytest.approx(2*4/(36*7), abs=.002)
    assert (z[:, 1:] == 1).float().mean(0).tolist() == pytest.approx([.4]*5, abs=.02)
    assert abs(torch.corrcoef(torch.stack([level, (z[:, 1] == 1).float()]))[0, 1]) < .03

# ---- sampling: the reverse process ---------------------------------------------------

LAW = torch.tensor([.4, .3, .2, .1])

def test_reveal_probability_is_the_posterior_of_the_schedule():
    "P(revealed between t and s | masked at t) = (t-s)/t under the linear schedule: counted in a run"
    seen = []
    def pick(masked, confidence, reveal, generator):
        seen.append((reveal, (now := ancestral(masked, confidence, reveal, generator)).sum()/masked.sum())); return now
    unmask(source(LAW), torch.full((400, 50), 4), 5, 4, pick=pick, generator=seeded())
    t = even_times(5)
    for i, (reveal, counted) in enumerate(seen):
        assert reveal == pytest.approx(((t[i]-t[i+1])/t[i]).item()) and counted.item() == pytest.approx(reveal, abs=.02)

@pytest.mark.parametrize('name', ['linear', 'log_linear', 'cosine', 'exponential'])
def test_an_ancestral_path_has_the_share_of_masks_of_its_schedule(name):
    _, trace = unmask(source(LAW), torch.full((400, 50), 4), 8, 4, alpha_bar=MASK_SCHEDULES[name], generator=seeded(),
                      trace_every=1)
    expected = 1 - MASK_SCHEDULES[name](even_times(8))
    # log-linear keeps a thousandth at t = 1, a canvas nothing
    expected = expected/expected[0]
    assert [m['t'] for m in trace] == pytest.approx(expected.tolist(), abs=.015)
    assert all(m['t'] == pytest.approx((m['ids'] == 4).float().mean().item(), abs=1e-6) for m in trace)

@pytest.mark.parametrize('pick', [ancestral, scheduled, random_k(2), top_k(3), threshold(.5)])
@pytest.mark.parametrize('choose', [categorical, greedy])
def test_nothing_stays_masked_and_nothing_said_is_changed(pick, choose):
    model, z = random_denoiser(timed=True), torch.randint(11, (20, 15), generator=seeded())
    # gaps in the middle, in every other row also at the end
    z[:, 4:9], z[::2, 12:] = 11, 11
    ids, trace = unmask(model, z, 6, 11, pick=pick, choose=choose, generator=seeded(), trace_every=1)
    assert ids.max() < 11 and torch.equal(ids[z != 11], z[z != 11]) and (z == 11).any()
    for a, b in zip(trace, trace[1:]):
        assert torch.equal(b['ids'][a['ids'] != 11], a['ids'][a['ids'] != 11])
        assert torch.equal(b['confidence'][a['ids'] != 11], a['confidence'][a['ids'] != 11])
    assert torch.equal(ids, trace[-1]['ids']) and trace[-1]['t'] == 0
    plain, none = unmask(model, z, 6, 11, pick=pick, choose=choose, generator=seeded())
    # looking changes nothing; the same state, the same text
    assert torch.equal(plain, ids) and none == []

def test_the_mask_is_never_drawn():
    scores = torch.zeros(5); scores[4] = 50.
    for choose in (categorical, greedy):
        ids, _ = unmask(lambda z, share: scores.expand(*z.shape, 5), torch.full((50, 20), 4), 3, 4, choose=choose,
                        generator=seeded())
        assert ids.max() < 4
    assert forbid(scores, 4)[4] == -math.inf and forbid(scores, 5) is scores

def test_the_denoiser_is_told_the_share_of_open_gaps_and_asked_no_more_than_needed():
    told = []
    def denoiser(z, share): told.append(share.clone()); return source(LAW)(z, share)
    z = canvas(torch.zeros(2, 10, dtype=torch.long), 14, 4); z[1, 12:] = 0
    unmask(denoiser, z, 10, 4, pick=random_k(1), generator=seeded())
    assert [t.tolist() for t in told] == [[1, 1], [.75, .5], [.5], [.25]]         # a finished row is not asked about

@pytest.mark.parametrize('n, steps, alpha_bar, expected',
                         [(10, 4, mask_linear, [2, 3, 2, 3]), (32, 8, mask_linear, [4]*8),
                                                          (10, 4, mask_cosine, [1, 2, 3, 4]),
                          (32, 8, mask_cosine, [1, 2, 3, 4, 5, 5, 6, 6])])
def test_transfer_counts_of_dllm(n, steps, alpha_bar, expected):
    _, trace = unmask(source(LAW), torch.full((3, n), 4), steps, 4, alpha_bar=alpha_bar, pick=scheduled,
                      generator=seeded(), trace_every=1)
    left = [(m['ids'] == 4).sum(1) for m in trace]
    assert [(a-b).tolist() for a, b in zip(left, left[1:])] == [[k]*3 for k in expected]

def test_confidence_rules_take_the_most_confident():
    certain = torch.tensor([.1, .9, .6, .8])                                             # of token 0, by position
    def denoiser(z, share): return torch.stack([certain, 1-certain], -1).log().expand(len(z), 4, 2)
    def order(**how):
        return [(m['ids'][0] == 2).nonzero()[:, 0].tolist()
                for m in unmask(denoiser, torch.full((1, 4), 2), 4, 2, choose=greedy, trace_every=1, **how)[1]]
    # .9 twice: a tie
    assert order(pick=top_k(1)) in ([[0, 1, 2, 3], [0, 2, 3], [2, 3], [2], []],
                                    [[0, 1, 2, 3], [1, 2, 3], [2, 3], [2], []])
    assert order(pick=threshold(.85)) == [[0, 1, 2, 3], [2, 3], [2], []] and order(pick=threshold(1.))[-1] == []

def test_two_calls_of_the_ancestral_sampler_have_their_exact_law():
    "All 3-letter strings of a four-sentence language: subsets at the first call, words side by side, then the rest"
    sentences, p = torch.tensor([[0, 1, 2], [0, 3, 4], [1, 1, 3], [4, 2, 0]]), torch.tensor([.4, .3, .2, .1])
    def exact(z, share):
        agrees = ((z[:, None] == 5) | (z[:, None] == sentences)).all(-1).float()
        w = (p*agrees).where(agrees.any(-1, keepdim=True), p)
        return torch.einsum('bk,klv->blv', w/w.sum(-1, keepdim=True), F.one_hot(sentences, 5).float()).log()
    law, strings = torch.zeros(125, dtype=torch.float64), torch.tensor(list(product(range(5), repeat=3)))
    first = exact(torch.full((1, 3), 5), None)[0].exp()
    for subset in product([False, True], repeat=3):
        told = torch.tensor(subset)
        # given the words of the first call
        second = exact(strings.masked_fill(~told, 5), None).exp()
        at = torch.arange(3)
        law += (torch.where(told, first[at, strings], second[torch.arange(125)[:, None], at,
                                                             strings]).double().prod(1))/8
    ids, _ = unmask(exact, torch.full((40_000, 3), 5), 2, 5, generator=seeded())
    counted = (ids @ torch.tensor([25, 5, 1])).bincount(minlength=125)/40_000
    assert law.sum().item() == pytest.approx(1) and (counted - law).abs().max() < .01

@pytest.mark.parametrize('steps', [1, 3, 50])
def test_independent_words_keep_their_law(steps):
    for pick in (ancestral, random_k(4)):
        ids, _ = unmask(source(LAW), torch.full((1000, 20), 4), steps, 4, pick=pick, generator=seeded())
        assert (ids.flatten().bincount(minlength=4)/20_000 - LAW).abs().max() < .012

# ---- float32 --------------------------------------------------------------------------

def test_the_largest_gumbel_numbers():
    "What the largest uniform number below 1 makes: in float32, nothing above 16.6"
    for dtype, known in ((torch.float32, 16.6355), (torch.float64, 36.7368)):
        # the largest number that torch.rand makes
        top = torch.tensor(1., dtype=dtype) - torch.finfo(dtype).eps/2
        assert -(-top.log()).log().item() == pytest.approx(known, abs=1e-4)

def joint_run(dtype, n, calls=1200, rare=12_000):
    "Share of rare words, true .5, of a perfect model of unordered words, drawn as MDLM does: a word or staying masked"
    words = torch.cat([torch.full((10,), .05), torch.full((rare,), .5/rare)]).double().log()
    generator, left, found = seeded(), n, 0
    for i in range(calls):
        r = 1/(calls-i)
        drawn = categorical(torch.cat([words + math.log(r),
                                       torch.tensor([math.log(1-r) if r < 1 else -math.inf])]).expand(left, -1),
                            generator, dtype)
        left, found = (drawn == rare+10).sum().item(), found + ((drawn >= 10) & (drawn < rare+10)).sum().item()
        if not left: break
    return found/n

def test_float32_lowers_the_entropy_of_a_thousand_calls():
    "Expected shares of rare words .32 and .5, with standard errors of .06 and .09; the entropy falls with the share"
    lost, whole = joint_run(torch.float32, n=64), joint_run(torch.float64, n=32)
    def entropy(share): return -(1-share)*math.log((1-share)/10) - share*math.log(share/12_000)
    assert lost < .44 < whole + .1 and lost < whole and entropy(lost) < entropy(.5) - .3, (lost, whole)

# ---- the perfect denoiser ---------------------------------------------------------------

# The small language of the prototype (recipes/oracle_small.py): 1,296,972 sentences of at most 28 words, so L = 30.
SMALL = '''
<Text>   = [.35] <Name> is <Desc> . | [.25] <Name> <Verb> .
         | [.2] <Place> , <Name> <Verb> . | [.2] <Name> is <Desc> and <Verb> .
<Name>   = the eagle | the mill | the punter | the vaults | cotto | zizzi | aromi | strada
         | the golden curry | the rice boat | loch fyne | blue spice
<Desc>   = [.4] a <Praise> <Spot> | [.6] a <Praise> <Spot> <Place>
<Praise> = [.3] cheap | [.2] family friendly | [.2] high priced | [.15] moderately priced | [.15] highly rated
<Spot>   = [.7] <Food> <Inn> | [.3] <Inn>
<Food>   = english | french | italian | japanese | indian
<Inn>    = [.4] restaurant | [.35] pub | [.25] coffee shop
<Place>  = [.4] in the <Area> | [.3] near <Name> | [.3] by the river near <Name>
<Area>   = city centre | riverside area
<Verb>   = [.35] serves <Food> food | [.3] has a <Rate> customer rating | [.2] offers <Food> food <Price>
         | [.15] serves <Food> food and has a <Rate> customer rating
<Rate>   = [.34] low | [.33] average | [.33] high
<Price>  = for less than <Sum> | for more than <Sum>
<Sum>    = twenty pounds | thirty pounds
'''

@pytest.fixture(scope='module')
def small():
    "The prototype's language as a corpus"
    corpus = oracle(Grammar('small', read_rules(SMALL)))
    assert corpus.grammar.n_sentences() == 1_296_972 and corpus.seq_len == 30
    return corpus

def validity(corpus, n, calls, **how):
    "Share of valid sentences among n samples of the perfect denoiser, and its standard error"
    start = canvas(torch.full((n, 1), corpus.bos_id), corpus.seq_len, corpus.mask_id)
    ids, _ = unmask(masked_oracle(corpus), start, calls, corpus.mask_id, generator=seeded(), **how)
    valid = oracle_scores(ids, corpus)['valid']
    return valid, (valid*(1-valid)/n)**.5

@pytest.mark.parametrize('calls, published, n', [(4, .09, 4096), (8, .29, 2048), (16, .53, 1024), (30, .72, 1024)])
def test_ceiling_of_the_prototypes_language(small, calls, published, n):
    "Within three points of the prototype's numbers, and the error of ours"
    valid, error = validity(small, n, calls)
    assert abs(valid - published) < .03 + error, (valid, error)

def test_one_position_per_call_is_exact(small):
    n, start = 256, canvas(torch.full((256, 1), small.bos_id), 30, small.mask_id)
    ids, _ = unmask(masked_oracle(small), start, 29, small.mask_id, pick=random_k(1), generator=seeded())
    scores, spread = oracle_scores(ids, small), exact_nll(small.test, small).std().item()
    assert scores['valid'] >= .99 and abs(scores['nll_minus_entropy']) < 4*spread/n**.5 and small.after_eos(ids) == 0

def test_the_bound_of_the_perfect_denoiser_is_the_exact_likelihood(small):
    ids, keep = small.test[:256], torch.arange(30) == 0
    bound, exact = masked_nelbo(masked_oracle(small), ids, small.mask_id, draws=16, keep=keep), exact_nll(ids, small)
    error = (bound - exact).std().item()/16
    assert abs((bound - exact).mean().item()) < 4*error < 1.
    per_token = exact.sum().item()/small.real(ids).sum().item()
    assert nll_rates(bound, ids, small)['nats_per_token'] == pytest.approx(per_token, abs=.08)

def test_masked_oracle_is_the_grammars_posterior(small):
    "Against `Grammar.posterior`, which has its own checks by enumeration"
    g, ids = small.grammar, small.test[:40]
    # where `posterior` has one symbol for two
    hidden = (torch.rand(ids.shape, generator=seeded()) < .6) | (ids == small.eos_id) | (ids == small.pad_id)
    p = masked_oracle(small, batch=16)(ids.masked_fill(hidden, small.mask_id), None).exp()
    words = small.tokenizer.convert_tokens_to_ids(g.words)
    symbol = torch.full((small.vocab_size,), len(g.words)); symbol[words] = torch.arange(len(g.words))
    expected = g.posterior(symbol[ids[:, 1:]].masked_fill(hidden[:, 1:], -1))
    torch.testing.assert_close(p[:, 1:, words], expected[..., :-1])
    torch.testing.assert_close(p[:, 1:, small.eos_id] + p[:, 1:, small.pad_id], expected[..., -1])
    assert (p[:, 0, small.bos_id] == 1).all() and (p.sum(-1) - 1).abs().max() < 1e-9
    assert not p[..., small.special['unk']].any()

def test_an_impossible_canvas_is_answered_as_an_empty_one(small):
    ids = small.test[:3].clone()
    ids[1, 2], ids[2, 1:] = small.bos_id, small.mask_id
    ids[0, 20:] = small.mask_id
    p = masked_oracle(small)(ids, None)
    assert torch.equal(p[1], p[2]) and not torch.equal(p[0], p[2])
    allowed = torch.ones(2, 5, len(small.grammar.words)+2, dtype=torch.bool); allowed[1, 0] = False
    # 'cotto serves … food .' has five words
    assert _is_possible(allowed, small.grammar).tolist() == [True, False]
    assert not _is_possible(allowed[:1, :3], small.grammar).any()                             # nothing that short

def test_debris_behind_the_end_is_looked_away_from_and_nothing_else(small):
    "A word behind the visible end leaves the posterior before the end as it was; a wrong word before it does not"
    clean = small.test[:20].clone()
    ends = (clean == small.eos_id).int().argmax(1)
    clean = clean[ends < 28]; ends = ends[ends < 28]
    clean[:, 2:5] = small.mask_id
    debris = clean.scatter(1, ends[:, None]+1, clean[:, 1:2])
    told, whole = masked_oracle(small)(debris, None), masked_oracle(small)(clean, None)
    torch.testing.assert_close(told[:, 2:5].exp(), whole[:, 2:5].exp())
    assert debris.ne(clean).any(1).all()
    wrong = debris.clone(); wrong[:, 1] = small.eos_id
    empty = masked_oracle(small)(torch.full((1, 30), small.mask_id), None)
    # an end at once: no sentence is that short
    torch.testing.assert_close(masked_oracle(small)(wrong, None).exp(), empty.exp().expand(len(wrong), -1, -1))

# ---- cost and pictures --------------------------------------------------------------------

@pytest.mark.parametrize('how', [dict(), dict(pick=random_k(4)), dict(pick=top_k(4)),
                                 dict(pick=threshold(.9), choose=greedy), dict(pick=scheduled, choose=greedy)],
                         ids=['ancestral', 'random_k', 'top_k', 'threshold', 'scheduled'])
def test_sampling_costs_little_more_than_the_forward_passes(how):
    assert overhead(lambda denoiser, z: unmask(denoiser, z, 6, 78, generator=seeded(), **how)) <= .10

def test_a_trace_can_be_drawn(small):
    _, trace = unmask(masked_oracle(small), canvas(small.test[:2, :3], 30, small.mask_id), 6, small.mask_id,
                      generator=seeded(), trace_every=2)
    assert len(trace) == 4 and (trace[0]['confidence'][:, :3] == 1).all() and not trace[0]['confidence'][:, 3:].any()
    told = moments(trace, small, row=1)
    assert told[0]['words'].count('[MASK]') == 27 and '[MASK]' not in told[-1]['words']
    assert denoising_strip(told).get_xlabel() == 'place in the sentence'

LAW_40 = (1/torch.arange(1., 41)).log()
DRAWN = { # of 16 rows under each rule, drawn and greedy, when noise was still drawn for all scores at once
    'ancestral': ('0e5c3cf83af1', '632bfadc1978'), 'scheduled': ('3273b135fab7', 'b02092a0a73c'),
    'random_k': ('a75f1a2eb806', 'eb2a58a9938a'), 'top_k': ('3273b135fab7', 'b02092a0a73c'),
    'threshold': ('6c30d2670737', 'b0467690f840')}

def moody(z, share):
    "A denoiser whose scores depend on the position and on the rest of the row"
    place = .1*torch.arange(z.shape[1])[:, None]
    return LAW_40*(1 + place) + .3*torch.sin(z.sum(1).float())[:, None, None] + 0*share[:, None, None]

@pytest.mark.parametrize('chunk', [unmasking.CHUNK, 300, 7])
@pytest.mark.parametrize('name', DRAWN)
def test_drawing_part_by_part_changes_nothing(name, chunk, monkeypatch):
    monkeypatch.setattr(unmasking, 'CHUNK', chunk)
    rule = dict(ancestral=ancestral, scheduled=scheduled, random_k=random_k(3), top_k=top_k(3), threshold=threshold(.3))
    for choose, known in zip((categorical, greedy), DRAWN[name]):
        ids, trace = unmask(moody, canvas(torch.arange(32).view(16, 2), 20, 40), 6, 40, pick=rule[name], choose=choose,
                            generator=seeded(5), trace_every=2)
        h = hashlib.sha256(ids.numpy().tobytes())
        for m in trace:
            h.update(m['ids'].numpy().tobytes()); h.update((m['confidence']*1e4).round().int().numpy().tobytes())
        assert h.hexdigest()[:12] == known

def peak_of(task):
    "The largest number of bytes that torch held on the CPU during a task, beyond those at its start"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: task()
    sizes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == '[memory]']
    return max(itertools.accumulate(sizes))

@pytest.mark.parametrize('how', [dict(), dict(pick=top_k(20)), dict(trace_every=1)])
def test_unmasking_needs_little_more_than_one_call_s_scores(how):
    V, z = 30_000, torch.full((8, 64), 30_000)
    def opinions(z, share):
        scores = torch.empty(*z.shape, V)
        return scores.copy_((1/torch.arange(1., V+1)).log().expand_as(scores))
    assert 1 <= peak_of(lambda: unmask(opinions, z, 3, V, generator=seeded(), **how))/(8*64*V*4) <= 1.5

# ---- refusals --------------------------------------------------------------------------------

def test_refusals_of_the_sampler():
    z = torch.full((2, 6), 4)
    for message, bad in (('nothing to fill: no position of the canvas holds the mask, id 4',
                          dict(z=torch.zeros(2, 6, dtype=torch.long))),
                         ('steps must be a whole number of at least 1', dict(steps=0)),
                         ('mask_id must be the id of a mask token', dict(mask_id=-1)),
                         ('mask_id 9 is outside: the denoiser scores 4 tokens',
                          dict(mask_id=9, z=torch.full((2, 6), 9))),
                         ('keeps 0.05 of the tokens at t = 1', dict(alpha_bar=lambda t: 1-.95*t)),
                         (r'scores for each of \(2, 6\) positions',
                          dict(denoiser=lambda z, share: torch.zeros(2, 5, 4)))):
        with pytest.raises(ValueError, match=message):
            unmask(**dict(denoiser=source(LAW), z=z, steps=3, mask_id=4) | bad)
    for rule in (random_k, top_k):
        for k in (0, -1, 2.):
            with pytest.raises(ValueError, match='k must be a whole number of at least 1'): rule(k)
    for tau in (0, 1.01, -1, math.nan):
        with pytest.raises(ValueError, match='tau must be a number above 0 and at most 1'): threshold(tau)
    with pytest.raises(ValueError,
                       match='a prefix of 7 tokens leaves nothing to write in a window of 7; give at most 6'):
        canvas(torch.zeros(1, 7).long(), 7, 4)

def test_refusals_of_losses_and_evaluation(small):
    ids = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(ValueError, match='keep must be a tensor of booleans'):
        masked_bound(4, keep=torch.arange(6))(clueless(4), ids)
    for name, bad in (('draws', 0), ('draws', 2.5), ('batch', 0)):
        with pytest.raises(ValueError, match=f'{name} must be a whole number of at least 1, got {bad}'):
            masked_nelbo(clueless(4), ids, 4, **{name: bad})
    with pytest.raises(ValueError, match='row 1 has no position that may be masked'):
        masked_nelbo(clueless(4), ids, 4, keep=torch.tensor([[False], [True]]))
    with pytest.raises(ValueError, match='masked_oracle needs one token per word'):
        masked_oracle(replace(small, tokenizer=list_tokenizer(['the'])))
    class Text: grammar, name = None, 'wikitext2'
    with pytest.raises(ValueError,
                       match='masked_oracle needs an oracle language, and wikitext2 is real text; choose restaurants, '
                             'restaurants-large or a .grammar file of your own'):
        masked_oracle(Text)
    with pytest.raises(ValueError, match='d_model 30 must be divisible'): MaskedConfig(d_model=30)

def test_stratified_levels_and_keep_reach_the_loss():
    "What a collator does: one of ten levels for the batch, the first five positions and special tokens spared"
    levels, ids = torch.arange(1, 11)/10, torch.randint(2, 9, (32, 40)); ids[:, 20] = 0
    told = []
    def spy(z, share): told.append((z, share)); return clueless(9)(z, share)
    def one_level(n, device): return levels[torch.randint(10, (1,))].expand(n)
    def spare(ids): return (torch.arange(40) < 5) | (ids < 2)
    torch.manual_seed(0)
    for _ in range(20): masked_ce(9, draw_t=one_level, keep=spare)(spy, ids)
    for z, share in told:
        assert len(share.unique()) == 1 and not (z[:, :5] == 9).any() and not (z[:, 20] == 9).any()
        assert (z == 9).float().sum().item()/(32*34) == pytest.approx(share[0].item(), abs=.06)
    assert stratified_t(8).sort().values.diff().std() < 1e-6
