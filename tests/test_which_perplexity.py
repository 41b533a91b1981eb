"Entry 06i: prices that are likelihoods, and numbers that only look like them"
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from textdiffusion.corpora import load_corpus
from textdiffusion.metrics import exact_nll
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.oracles import masked_oracle
from textdiffusion.which_perplexity import (chain_nll, check, left_to_right, per_token, pseudo_nll, random_order,
                                            unweighted_ce)

CORPUS = load_corpus('restaurants')
MASK, FIRST = CORPUS.mask_id, torch.arange(CORPUS.seq_len) == 0
WORDS, PLACES = 3, 3
ALL = torch.tensor(list(itertools.product(range(WORDS), repeat=PLACES)))   # every text of the small world

def network():
    "An untrained network whose guesses contradict each other"
    torch.manual_seed(0)
    model = MaskedDenoiser(MaskedConfig(vocab_size=WORDS+1, d_model=16, n_layers=1, n_heads=2))
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p))
    return model

def order_of(*calls): return torch.tensor(calls).expand(len(ALL), -1)

@pytest.mark.parametrize('calls', list(itertools.permutations(range(PLACES))))
def test_a_chain_is_a_distribution_in_every_order(calls):
    total = chain_nll(network(), ALL, WORDS, order_of(*calls)).sum(1).neg().exp().sum()
    assert abs(total - 1) < 1e-5

def test_a_chain_given_a_prefix_is_a_distribution_over_the_rest():
    given = chain_nll(network(), ALL, WORDS, order_of(-1, 1, 0))
    assert (given[:, 0] == 0).all()
    for word in range(WORDS): assert abs(given[ALL[:, 0] == word].sum(1).neg().exp().sum() - 1) < 1e-5

def test_contradicting_guesses_have_a_price_in_every_order():
    prices = [chain_nll(network(), ALL, WORDS, order_of(*calls)).sum(1) for calls in ((0, 1, 2), (2, 1, 0))]
    assert (prices[0] - prices[1]).abs().max() > .1

def test_pseudo_perplexity_is_no_distribution():
    "Two places that agree: both texts have pseudo-probability 1"
    def same(z, share):
        seen = (z[..., None] == torch.arange(2)).any(1, keepdim=True)
        return seen.float().log().where(seen.any(-1, keepdim=True), torch.zeros(())).expand(-1, 2, -1)
    texts = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert pseudo_nll(same, texts, 2).sum(1).neg().exp().tolist() == [1, 0, 0, 1]
    assert chain_nll(same, texts, 2, left_to_right(texts)).sum(1).neg().exp().tolist() == pytest.approx([.5, 0, 0, .5])

def test_the_perfect_denoiser_has_the_grammars_price_in_any_order():
    ids, exact = CORPUS.test[:6], masked_oracle(CORPUS)
    for order in (left_to_right(ids, FIRST), random_order(ids, FIRST, 3)):
        assert (chain_nll(exact, ids, MASK, order).sum(1) - exact_nll(ids, CORPUS)).abs().max() < 1e-9

def test_every_number_is_the_logarithm_of_the_words_for_a_blind_guess():
    ids = CORPUS.test[:8]
    def blind(z, share): return torch.zeros(*z.shape, CORPUS.vocab_size)
    one = math.log(CORPUS.vocab_size)
    assert chain_nll(blind, ids, MASK, random_order(ids, FIRST))[:, 1:].sub(one).abs().max() < 1e-5
    assert pseudo_nll(blind, ids, MASK, FIRST)[:, 1:].sub(one).abs().max() < 1e-5
    for how in (dict(), dict(draw_t=lambda n, device: torch.full((n,), .15)), dict(count=ids != CORPUS.pad_id)):
        assert unweighted_ce(blind, ids, MASK, keep=FIRST, draws=2, **how) == pytest.approx(one, abs=1e-5)

def test_rows_do_not_depend_on_the_rows_beside_them():
    model = network()
    order = random_order(ALL, seed=1)
    torch.testing.assert_close(chain_nll(model, ALL, WORDS, order, 4), chain_nll(model, ALL, WORDS, order))
    torch.testing.assert_close(pseudo_nll(model, ALL, WORDS, batch=4), pseudo_nll(model, ALL, WORDS))

def test_orders_write_every_free_place_once():
    ids = CORPUS.test[:16]
    for order in (left_to_right(ids, FIRST), random_order(ids, FIRST), random_order(ids, FIRST, 1)):
        assert (order.sort(1).values == torch.arange(-1, CORPUS.seq_len-1)).all() and (order[:, 0] == -1).all()
    assert not torch.equal(random_order(ids), random_order(ids, seed=1))
    assert torch.equal(random_order(ids), random_order(ids.flip(0)))     # drawn without a look at the text

def test_chance_is_left_as_it_was():
    ids, model = CORPUS.test[:4], lambda z, share: torch.zeros(*z.shape, CORPUS.vocab_size)
    torch.manual_seed(5); before = torch.rand(3)
    torch.manual_seed(5); unweighted_ce(model, ids, MASK); random_order(ids)
    assert torch.equal(before, torch.rand(3))

def test_a_price_is_shared_among_words_and_ends():
    ids = CORPUS.test[:5]
    tokens = sum(len(words)+1 for words in CORPUS.words(ids))
    assert per_token(torch.full((5,), 2.), ids, CORPUS) == pytest.approx(10/tokens)

def test_what_cannot_be_is_one_sentence():
    ids, model = CORPUS.test[:2], lambda z, share: torch.zeros(*z.shape, CORPUS.vocab_size)
    with pytest.raises(ValueError, match='a call of its own'):
        chain_nll(model, ids, MASK, torch.zeros_like(ids))
    with pytest.raises(ValueError, match='no token that counts'):
        unweighted_ce(model, ids, MASK, count=torch.zeros_like(ids, dtype=torch.bool))
    with pytest.raises(ValueError, match='choose restaurants'):
        check(SimpleNamespace(temperature=.5), SimpleNamespace(grammar=None, name='e2e'))
    with pytest.raises(ValueError, match='temperature must be above 0'):
        check(SimpleNamespace(temperature=0), CORPUS)
