"Entries 04 and 04b: the parts against known answers, bad input, single arms"
import json
from types import SimpleNamespace

import pytest
import torch
from helpers import REAL_TEXT, needs_real_text, refused_at_once, smoke_run

from textdiffusion.corpora import load_corpus
from textdiffusion.learned_rounding import (LADDER, PRESETS, Arm, Denoiser, LearnedEmbedding, LearnedRounding,
                                            TinyTransformer, arms_of, blind_loss, build, check, collapse,
                                            cosine_scores, ddpm, dot_scores, fit_rounding, l2_scores, roundings_of)
from textdiffusion.objectives import decoder_nll, draw, eps_mse, objective, token_ce
from textdiffusion.oracles import bayes_denoiser, eps_loss, lookup_denoiser

CORPUS = load_corpus('restaurants')
V, L = CORPUS.vocab_size, CORPUS.seq_len
SIZES = dict(embed_dim=16, d_model=16, ffn=32, layers=1, heads=4, dropout=0., use_learned_embeddings=True,
             init_from_pretrained=False)
CFG = SimpleNamespace(**SIZES)

@pytest.mark.parametrize('width, count', [(256, 3_945_728), (2048, 75_563_008)])
def test_the_network_has_the_size_of_the_source(width, count):
    with torch.device('meta'): assert sum(p.numel() for p in TinyTransformer(width).parameters()) == count

def test_table_and_rounding_have_the_size_of_the_source():
    with torch.device('meta'): rounding = LearnedRounding(256, 256_000)
    assert sum(p.numel() for p in rounding.parameters()) == 65_792_000 == 65_536_000 + 256_000

@pytest.mark.parametrize('how, ordered', [({}, False), (dict(embed_dim=16), False), (dict(positions=9), True)],
                         ids=['source', 'layers in and out', 'positions'])
def test_only_positions_let_a_network_know_the_order(how, ordered):
    torch.manual_seed(0)
    net, x, p = TinyTransformer(16, 32, 2, **how).eval(), torch.randn(3, 9, 16), torch.randperm(9)
    with torch.no_grad(): a, b = (net(v, torch.full((3,), .3)) for v in (x, x[:, p]))
    change = (a - b[:, p.argsort()]).abs().max()
    assert change > .1 if ordered else change < 1e-5

@pytest.mark.parametrize('spread, loss', [(.02, .006), (.1, .041), (.3, .115), (1., .276)])
def test_the_loss_of_knowing_nothing(spread, loss):
    assert abs(blind_loss(spread, ddpm) - loss) < .0006
    assert abs(blind_loss(torch.full((7,), spread), ddpm) - blind_loss(spread, ddpm)) < 1e-6

def test_the_schedule_of_the_source():
    assert abs(ddpm(torch.ones(1)).item() - 4.036e-5) < 1e-8 and abs(ddpm(torch.tensor([.001])).item() - .9999) < 1e-7

def test_knowing_more_costs_less():
    "Blind, look-up, optimal, all-knowing"
    torch.manual_seed(0)
    emb, ids = .3*torch.randn(V, 32), CORPUS.test[:32]
    knowing = lookup_denoiser(emb, CORPUS.train, ddpm), bayes_denoiser(CORPUS, emb, ddpm), lambda *_: (emb[ids], None)
    losses = [blind_loss(emb[CORPUS.train].flatten(0, 1).std(0), ddpm), *(eps_loss(f, emb, ids, ddpm) for f in knowing)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-9

def test_a_rounding_fits_random_vectors():
    torch.manual_seed(0)
    assert fit_rounding(LearnedRounding(256, V), LearnedEmbedding(V, 256)(), CORPUS.train[:500], 300, .3) < 1e-3

def test_the_three_plain_roundings_agree_on_a_sphere():
    torch.manual_seed(0)
    x, emb = torch.randn(50, 6), torch.nn.functional.normalize(torch.randn(9, 6), dim=-1)
    picks = [f(x, emb).argmax(-1) for f in (cosine_scores, l2_scores, dot_scores)]
    assert torch.equal(picks[0], picks[1]) and torch.equal(picks[1], picks[2])
    assert torch.equal(l2_scores(x, 3*emb).argmax(-1), torch.cdist(x, 3*emb).argmin(-1))

def test_clean_rounding_gives_the_network_no_gradient():
    torch.manual_seed(0)
    model = build(Arm(), CORPUS, CFG)
    d = draw(model, CORPUS.test[:4], ddpm, draw_t=lambda n, device: torch.full((n,), .1))
    def norm(term):
        parts = list(model.net.parameters())
        grads = torch.autograd.grad(term(model, d).mean(), parts, retain_graph=True, allow_unused=True)
        return sum(g.abs().sum().item() for g in grads if g is not None)
    assert norm(decoder_nll) == 0 < min(norm(eps_mse), norm(token_ce))

def test_collapse_sees_one():
    one, real = collapse(torch.full((5, L), 9), CORPUS), collapse(CORPUS.test, CORPUS)
    assert one['top'] == 1 and one['kl'] > 2 and real['kl'] < .01
    assert real['begin_first'] == 1 and abs(real['begin_anywhere'] - 1/L) < 1e-6

def test_arms_differ_in_what_their_name_says():
    arms = {k: vars(a) for k, a in arms_of().items()}
    def differ(a, b): return [k for k in arms[a] if arms[a][k] != arms[b][k]]
    assert list(arms)[:8] == LADDER and set(arms) - {'noise'} == set(PRESETS['smoke']['arms'])
    assert all(len(differ(a, b)) == 1 for a, b in zip(LADDER, LADDER[1:]))
    assert all(differ('all', f'no-{k}') == [k] for k in ('positions', 'head', 'scale', 'ce'))

def test_the_options_of_the_source():
    table = torch.randn(V, 16)
    def own(**how): return build(Arm(), CORPUS, SimpleNamespace(**SIZES | how), table).table
    assert own().weight.std() < .03 and own().weight.requires_grad
    tuned = own(init_from_pretrained=True).weight
    assert torch.equal(tuned, table) and tuned.requires_grad
    frozen = own(use_learned_embeddings=False).weight
    assert torch.equal(frozen, table) and not frozen.requires_grad
    assert own(init_from_pretrained=True, embed_dim=8).weight.shape == (V, 8)
    with pytest.raises(ValueError, match='rows'): LearnedEmbedding(V + 1, 16, table)

def test_the_true_noise_gives_the_true_vectors():
    torch.manual_seed(0)
    emb, eps, t = LearnedEmbedding(V, 16), torch.randn(4, L, 16), torch.tensor([.1, .4, .7, .9])
    model = Denoiser(emb, lambda x_t, t: eps, LearnedRounding(16, V))
    x0, ab = model.embed(CORPUS.test[:4]), ddpm(t)[:, None, None]
    assert (model(ab.sqrt()*x0 + (1-ab).sqrt()*eps, t)[0] - x0).abs().max() < 1e-3

def test_every_arm_trains_a_step():
    for arm in arms_of().values():
        model = build(arm, CORPUS, CFG, torch.randn(V, 16))
        loss = objective(arm.terms(1.), alpha_bar=arm.alpha_bar)(model, CORPUS.test[:4])['loss']
        loss.backward()
        assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.net.parameters())

def test_five_roundings_read_clean_vectors():
    torch.manual_seed(0)
    model = build(Arm(scale=True, x0=True), CORPUS, CFG).eval()
    five, words, emb = roundings_of(model, CORPUS.train[:200]), torch.arange(V), model.emb.detach()
    assert list(five) == ['learned', 'cosine', 'L2', 'dot', 'tied']
    assert all((five[k](emb).argmax(-1) == words).all() for k in ('cosine', 'L2', 'dot'))
    assert torch.equal(five['learned'](emb), model.head(emb)) and not five['tied'](emb).requires_grad

def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match='embed_dim must be a multiple of 4'):
        check(SimpleNamespace(embed_dim=30, heads=4), None)

# the command ------------------------------------------------------------------------------------------------------

def test_an_arm_alone_runs_to_its_end():
    record = smoke_run('04_learned_rounding', arms='frozen')                 # all others: test_arms
    assert {r['arm'] for r in record['rows']} >= {'frozen', 'real', '3-gram', 'language model'}

@needs_real_text
def test_on_real_text():
    found = dict(TEXTDIFFUSION_DATA=REAL_TEXT)
    record = smoke_run('04_learned_rounding', found, corpus='tiny_shakespeare', arms='all')
    assert all('teacher_nll' in r for r in record['rows']) and REAL_TEXT not in json.dumps(record)

def test_widths():
    assert {r['arm'] for r in smoke_run('04b_width')['rows']} == {16, 32}

BAD = [(['-p', 'step', '3'], ['step', 'steps']), (['--corpus', 'shakespeare'], ['tiny_shakespeare']),
       (['-p', 'arms', 'sauce'], ['source']), (['-p', 'arms', 'noise'], ['source']),
       (['-p', 'samples', '0'], ['samples']),
       (['-p', 'embed_dim', '0'], ['embed_dim']), (['-p', 'embed_dim', '30'], ['embed_dim', 'multiple']),
       (['-p', 'rounding_weight', 'much'], ['rounding_weight']),
       (['-p', 'rounding_weight', '-1.'], ['rounding_weight']),
       (['-p', 'init_from_pretrained', 'yes'], ['init_from_pretrained', 'True'])]

@pytest.mark.parametrize('args, words', BAD, ids=lambda x: ' '.join(x))
def test_a_wrong_parameter_is_refused(args, words):
    refused_at_once(words, 'run', '04_learned_rounding', *args)
