"Entry 08h: levels place by place, places that are held, what counts as asked, and what is refused"
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.guiding import AtLevels, Held, by_steps, clean_at, clean_words
from textdiffusion.models import DiffusionLMConfig, DiffusionLMDenoiser, GaussianConfig, GaussianDenoiser
from textdiffusion.noisy_readers import Reader, kinds_of
from textdiffusion.objectives import (draw, eps_mse, objective, some_places, stratified_t, t0_mse, token_ce, x0_mse)
from textdiffusion.own_levels import MET
from textdiffusion.recipes import NOISE, RECIPES
from textdiffusion.sampling import sample
from textdiffusion.schedules import sqrt
from textdiffusion.steering import known_words, wishes
from textdiffusion.tokenizing import encode, sentence_rows

CORPUS = load_corpus('restaurants')
L = CORPUS.seq_len

def stirred():
    "A network whose output depends on everything"
    torch.manual_seed(0)
    model = RECIPES['continuous'].model(CORPUS, d_model=32, n_layers=2, n_heads=2)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    return model.eval()

MODEL = stirred()

def generator(): return torch.Generator().manual_seed(1)

def written(model, n=3, calls=6, **how):
    return sample(model, (n, L, 16), NOISE, calls, generator=generator(), **how)[0]

@pytest.mark.parametrize('head', ['regress_x0', 'mean_embedding', 'predict_eps'])
def test_places_of_one_time_are_a_text_of_that_time(head):
    torch.manual_seed(0)
    model = GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=2, n_heads=2, head=head))
    for layer in [*(block.out for block in model.blocks), model.head.out]: torch.nn.init.normal_(layer.weight)
    x, t = torch.randn(4, 6, 8), torch.rand(4)
    for a, b in zip(model(x, t), model(x, t[:, None].expand(4, 6))): torch.testing.assert_close(a, b)
    apart = t[:, None].expand(4, 6).clone()
    apart[:, 2] = 0.
    assert not torch.allclose(model(x, t)[0], model(x, apart)[0])

def test_the_same_holds_for_the_published_network_and_for_readers():
    net = DiffusionLMDenoiser(DiffusionLMConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=1, n_heads=2,
                                                max_len=6)).eval()
    reader = Reader(torch.randn(11, 8), kinds_of(CORPUS.grammar), 16, 1, 2, 8)
    x, t = torch.randn(4, 6, 8), torch.rand(4)
    for f in (lambda t: net(x, t)[0], lambda t: reader(x, t)):
        torch.testing.assert_close(f(t), f(t[:, None].expand(4, 6)))

@pytest.mark.parametrize('shape', [(), (1,), (6,), (4, 1), (6, 4), (4, 6, 1)])
def test_a_time_of_another_shape_is_refused_in_a_sentence(shape):
    model = GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=1, n_heads=2))
    with pytest.raises(ValueError, match=r'one time a text or one a place, \(4,\) or \(4, 6\), got'):
        model(torch.randn(4, 6, 8), torch.rand(shape))

@pytest.mark.parametrize('term', [x0_mse, t0_mse, eps_mse, token_ce])
def test_terms_of_places_of_one_time_are_those_of_the_text(term):
    model = GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=1, n_heads=2))
    ids, t = torch.randint(11, (5, 5)), torch.tensor([1/2000, .2, .4, .7, 1.])    # as many texts as places
    def of(t):
        torch.manual_seed(0)
        return term(model, draw(model, ids, sqrt, draw_t=lambda n, device: t))
    torch.testing.assert_close(of(t), of(t[:, None].expand(5, 5)))

def test_a_term_counts_the_places_that_are_at_its_times():
    model = GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=1, n_heads=2))
    t = torch.full((4, 6), .5)
    t[:, :3] = 0.
    torch.manual_seed(0)
    d = draw(model, torch.randint(11, (4, 6)), sqrt, draw_t=lambda n, device: t)
    error = (d.x0 - d.x0_hat).square()
    torch.testing.assert_close(t0_mse(model, d), error[:, :3].mean((1, 2))/2)
    torch.testing.assert_close(x0_mse(model, d), error[:, 3:].mean((1, 2))/2)
    assert torch.equal(d.x_t[:, :3], d.x0[:, :3])                                 # a place at 0 is its word

def test_a_loss_of_places_trains_and_says_the_mean_time_of_a_text():
    loss = objective({token_ce: 1.}, p_self=.5, alpha_bar=NOISE, draw_t=some_places(stratified_t, L))
    out = loss(stirred(), CORPUS.train[:8])
    assert out['t'].shape == out['token_ce'].shape == (8,) and out['loss'].isfinite()

def test_no_share_of_places_is_the_usual_draw():
    torch.manual_seed(0); usual = stratified_t(16)
    torch.manual_seed(0); places = some_places(stratified_t, L, share=0.)(16)
    assert torch.equal(places, usual[:, None].expand(16, L))
    with pytest.raises(ValueError, match='share'): some_places(stratified_t, L, share=1.5)

def test_holding_nothing_is_the_plain_sampler_bit_by_bit():
    def pull(x, t): return (x - 1).square().sum((1, 2))
    steps = by_steps(pull, lr=.1)
    for guide in (None, steps):
        held = Held(MODEL, lambda ids: torch.ones_like(ids, dtype=torch.bool), NOISE, guide, sure=2.)
        assert torch.equal(written(held, guide=held.hold), written(MODEL, guide=guide))
        held = Held(MODEL, lambda ids: torch.zeros_like(ids, dtype=torch.bool), NOISE, guide)
        assert torch.equal(written(held, guide=held.hold), written(MODEL, guide=guide)) and (held.undone == 0).all()

def test_what_is_held_stays():
    "Every guess is as asked: the first one's words are held to the end"
    seen = []
    def met(ids):
        seen.append(ids)
        return torch.ones_like(ids, dtype=torch.bool)
    held = Held(lambda x_t, t, x0_prev: (x_t, x_t @ MODEL.emb.T), met, NOISE, sure=0.)
    held.denoiser.emb = MODEL.emb
    ids = sample(held, (2, L, 16), NOISE, 6, generator=generator(), guide=held.hold)[0]
    assert torch.equal(ids, seen[0]) and all(torch.equal(s, seen[0]) for s in seen) and held.held.all()

def test_nothing_given_is_the_plain_sampler_and_everything_given_comes_back():
    parts = wishes(CORPUS.grammar, 'infilling', 3, 0)
    ids, given = known_words(CORPUS, parts[0])
    none, every = torch.zeros_like(given), torch.ones_like(given)
    told = AtLevels(MODEL, clean_at(none))
    assert torch.equal(written(told, project=clean_words(MODEL.emb, ids, none)), written(MODEL))
    levels = clean_at(given)(torch.tensor([.9, .5, .1]))
    assert (levels[given] == 0).all() and torch.equal(levels[1][~given[1]], torch.full_like(levels[1][~given[1]], .5))
    assert not clean_at(every)(torch.rand(3)).any()

@pytest.mark.parametrize('task', MET)
def test_what_is_as_asked_is_what_the_judge_says(task):
    sentences = CORPUS.grammar.sample(12, 1000)
    rows = sentence_rows(encode(CORPUS.tokenizer, [' '.join(s) for s in sentences]), CORPUS.special, L)
    wanted = wishes(CORPUS.grammar, task, 12, 0)[0]
    met = MET[task](CORPUS, wanted)
    assert met(rows).any(1).all()
    whole = dict(tags=lambda t: L, infilling=lambda t: 1 + sum(w is not None for w in t.asked),
                 spans=lambda t: t.asked[2] - t.asked[1] + 1, content=lambda t: len(t.asked[1].split()))[task]
    for n in range(1, 6):
        there = met(rows.roll(n, 0)).sum(1)
        for t, words, found in zip(wanted, sentences[-n:] + sentences[:-n], there):
            if task != 'infilling': assert (found == whole(t)) == t.met(words)
            elif found == whole(t): assert t.met(words)

@pytest.mark.parametrize('name, value', [('targets', '0'), ('arms', 'both'), ('calls', '0'), ('steps', '-1')])
def test_what_cannot_be_run_is_refused_at_once(name, value):
    refused_at_once([name], 'run', '08h_own_levels', '-p', name, value)
