"""Rules of unmasking: exact where the canvas alone decides, and with what probability a sampler writes a text"""
import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from helpers import FEW, overhead
from textdiffusion.corpora import oracle
from textdiffusion.grammar import load_grammar
from textdiffusion.metrics import exact_nll
from textdiffusion.oracles import masked_oracle
from textdiffusion.decoding_rules import (
    at_least, best, best_share, certainty, chance, drawn, drawn_from, entropy_budget, factor, from_left, held_back,
    klass, leftmost, likeliest, margin, nucleus, padded, sampler_nll, tallied, tempered)
from textdiffusion.unmasking import Prediction, ancestral, canvas, greedy, unmask

def seeded(seed=0): return torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def few():
    "A sub-language of a few hundred sentences as a corpus"
    part = load_grammar('restaurants').sub_language(rules=FEW['restaurants'])
    assert 100 < part.n_sentences() < 2000
    return oracle(part)

def blank(corpus, n): return canvas(torch.full((n, 1), corpus.bos_id), corpus.seq_len, corpus.mask_id)
def settled(corpus): return padded(corpus.eos_id, corpus.pad_id, corpus.mask_id)

ONE_BY_ONE = {'random': best(chance, 1), 'from the left': best(leftmost, 1), 'likeliest': best(likeliest, 1),
              'margin': best(margin, 1), 'entropy': best(certainty, 1), 'blocks': from_left(best(certainty, 1), 5),
              'never sure': at_least(margin, 1.)}

# one place per call ---------------------------------------------------------------------------------------------------

def surprise(corpus, ids):
    "Chi-square of samples against the language, and its degrees of freedom; rare sentences are put together"
    law = {tuple(words): p for words, p in corpus.grammar.enumerate_sentences()}
    count, n = dict.fromkeys(law, 0), len(ids)
    for words in map(tuple, corpus.words(ids)): count[words] += 1          # KeyError: not a sentence
    usual = [w for w in law if law[w]*n >= 5]
    rest = 1 - sum(law[w] for w in usual), n - sum(count[w] for w in usual)
    cells = [(law[w], count[w]) for w in usual] + [rest]*(rest[0]*n >= 5)
    return sum((seen - p*n)**2/(p*n) for p, seen in cells), len(cells) - 1

@pytest.mark.parametrize('name', ['from the left', 'entropy', 'blocks'])
def test_an_order_that_does_not_look_at_the_drawn_token_writes_the_language(few, name):
    ids, _ = unmask(masked_oracle(few, 512), blank(few, 500), few.seq_len, few.mask_id, pick=ONE_BY_ONE[name],
                    settle=settled(few), generator=seeded())
    chi, free = surprise(few, ids)
    assert free > 15 and abs(chi - free) < 4*(2*free)**.5

def test_an_order_that_does_look_writes_another_language(few):
    ids, _ = unmask(masked_oracle(few, 512), blank(few, 300), few.seq_len, few.mask_id, pick=best(drawn, 1),
                    settle=settled(few), generator=seeded())
    chi, free = surprise(few, ids)
    assert chi > 5*free

@pytest.mark.parametrize('name', ONE_BY_ONE)
def test_the_samplers_likelihood_is_the_grammars(few, name):
    text = few.test[:12]
    for settle in (settled(few), lambda z: z):
        nll, _ = sampler_nll(masked_oracle(few), text, blank(few, 12), few.seq_len, few.mask_id, settle=settle,
                             pick=ONE_BY_ONE[name], generator=seeded())
        assert (nll - exact_nll(text, few)).abs().max() < 1e-9

def test_fewer_calls_cost_more(few):
    text = few.test[:128]
    def lost(k):
        nll, calls = sampler_nll(masked_oracle(few, 128), text, blank(few, 128), few.seq_len, few.mask_id,
                                 pick=best(certainty, k))
        assert (calls == -(-(few.seq_len-1)//k)).all()
        return (nll - exact_nll(text, few)).mean().item()
    found = [lost(k) for k in (1, 2, 7, few.seq_len-1)]
    assert abs(found[0]) < 1e-9 and found == sorted(found) and found[1] > .1

# languages of a few letters -------------------------------------------------------------------------------------------

STRINGS = torch.tensor(list(product(range(5), repeat=3)))

def of_sentences(sentences, p):
    "The perfect denoiser of a list of sentences over 5 letters; 5 is the mask"
    def exact(z, share):
        agrees = ((z[:, None] == 5) | (z[:, None] == sentences)).all(-1).double()
        w = (p*agrees).where(agrees.any(-1, keepdim=True), p)
        return torch.einsum('bk,klv->blv', w/w.sum(-1, keepdim=True), F.one_hot(sentences, 5).double()).log()
    return exact

four = of_sentences(torch.tensor([[0, 1, 2], [0, 3, 4], [1, 1, 3], [4, 2, 0]]), torch.tensor([.4, .3, .2, .1]).double())
CANVAS_ONLY = {'two likeliest': best(likeliest, 2), 'two of lowest entropy': best(certainty, 2), 'threshold':
               at_least(likeliest, .45), 'factor': factor(1.), 'budget': entropy_budget(.7), 'blocks': from_left(
               best(margin, 2), 2), 'KLASS': klass(.4, .5, calls=1), 'schedule': best_share(certainty), 'held':
               best(held_back(certainty, [4]), 2), 'all': best(margin, 3)}

@pytest.mark.parametrize('name', CANVAS_ONLY)
def test_the_probabilities_of_all_texts_add_up_to_one_and_are_those_of_samples(name):
    how = dict(steps=3, mask_id=5, pick=CANVAS_ONLY[name])
    p = (-sampler_nll(four, STRINGS, torch.full((125, 3), 5), **how)[0]).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    ids, _ = unmask(four, torch.full((20_000, 3), 5), generator=seeded(), **how)
    counted = (ids @ torch.tensor([25, 5, 1])).bincount(minlength=125)/20_000
    assert (counted - p).abs().max() < .015

@pytest.mark.parametrize('change', [tempered(.5), nucleus(.6)])
def test_changed_scores_are_charged_as_they_are_drawn(change):
    how = dict(steps=3, mask_id=5, pick=best(certainty, 1))
    p = (-sampler_nll(four, STRINGS, torch.full((125, 3), 5), change=change, **how)[0]).exp()
    ids, _ = unmask(four, torch.full((20_000, 3), 5), choose=drawn_from(change), generator=seeded(), **how)
    counted = (ids @ torch.tensor([25, 5, 1])).bincount(minlength=125)/20_000
    assert p.sum().item() == pytest.approx(1, abs=1e-12) and (counted - p).abs().max() < .015

def test_two_bits_that_must_agree():
    "One call loses ln 2, two calls nothing"
    same, text = of_sentences(torch.tensor([[0, 0], [1, 1]]), torch.tensor([.5, .5]).double()), torch.tensor([[0, 0]])
    def nll(k): return sampler_nll(same, text, torch.full((1, 2), 5), 2, 5, pick=best(leftmost, k))[0].item()
    assert nll(1) == pytest.approx(math.log(2)) and nll(2) == pytest.approx(2*math.log(2))

@pytest.mark.parametrize('rule', [*CANVAS_ONLY.values(), best(chance, 2), ancestral])
def test_words_that_know_nothing_of_each_other_cost_the_same_in_any_order(rule):
    law = torch.tensor([.4, .3, .15, .1, .05]).double()
    nll, _ = sampler_nll(lambda z, share: law.log().expand(*z.shape, 5), STRINGS, torch.full((125, 3), 5), 3, 5,
                         pick=rule, generator=seeded())
    torch.testing.assert_close(nll, -law.log()[STRINGS].sum(1))

# how many -------------------------------------------------------------------------------------------------------------

def table(*rows): return torch.tensor(rows, dtype=torch.float64)

def filled(rule, *tables):
    "Places that a rule fills at each call, given what is said at each call"
    masked, memory, found = torch.ones(1, len(tables[0]), dtype=torch.bool), {}, []
    for p in tables:
        now = rule(masked, Prediction(p.log()[None], masked, 99, greedy, seeded(), memory), .5, seeded())
        assert now.any() and not (now & ~masked).any()
        found.append(now[0].nonzero()[:, 0].tolist())
        masked = masked & ~now
    return found

SURE = table([.9, .1], [.6, .4], [.97, .03], [.8, .2])

@pytest.mark.parametrize('one, other', [
    (at_least(likeliest, 1.), best(likeliest, 1)), (at_least(likeliest, .01), best(chance, 4)),
    (factor(1e9), best(chance, 4)), (factor(1e-9), best(likeliest, 1)), (entropy_budget(math.inf), best(chance, 4)),
    (entropy_budget(0.), best(certainty, 1)),
    (klass(.7, math.inf, calls=1), at_least(likeliest, .7)), (klass(.999, 1., k=2), best(likeliest, 2)),
    (from_left(best(margin, 2), 4), best(margin, 2)), (best(margin, 2), best(certainty, 2)),
    (entropy_budget(.2, leftmost), best(leftmost, 1)), (from_left(best(margin, 9), 1), best(leftmost, 1))])
def test_rules_that_agree(one, other):
    assert filled(one, SURE) == filled(other, SURE)

def test_a_place_that_moves_is_not_filled_by_klass():
    moved = table([.9, .1], [.6, .4], [.97, .03], [.2, .8])
    assert filled(klass(.7, .01, calls=1), SURE, SURE) == [[2], [0, 3]]
    assert filled(klass(.7, .01, calls=1), SURE, moved) == [[2], [0]]
    assert filled(klass(.7, .01), SURE, SURE, SURE) == [[2], [0], [3]]

def test_memory_ends_with_the_text():
    "A rule that remembers begins anew with each canvas"
    rule, how = klass(.4, .5), dict(steps=3, mask_id=5)
    first, _ = unmask(four, torch.full((40, 3), 5), pick=rule, generator=seeded(), **how)
    again, _ = unmask(four, torch.full((40, 3), 5), pick=rule, generator=seeded(), **how)
    assert torch.equal(first, again)

def test_equals_go_from_the_left():
    flat = torch.full((4, 3), 1/3).double()
    for rule in (best(likeliest, 2), best(certainty, 2), best(margin, 2)): assert filled(rule, flat) == [[0, 1]]

# what costs nothing ---------------------------------------------------------------------------------------------------

def test_padding_is_free_and_changes_no_probability(few):
    text, how = few.test[:24], dict(pick=best(chance, 1))
    def run(**more): return sampler_nll(masked_oracle(few), text, blank(few, 24), few.seq_len, few.mask_id, **how,
                                        **more, generator=seeded())
    (paid, all_calls), (free, calls) = run(), run(settle=settled(few))
    assert (paid - free).abs().max() < 1e-9 and (all_calls == few.seq_len-1).all()   # first hitting: one call a place
    words = torch.tensor([len(w) for w in few.words(text)])
    assert (calls > words).all() and calls.double().mean() < .8*(few.seq_len-1)

def test_from_the_left_costs_a_call_a_word(few):
    calls = torch.zeros(50, dtype=torch.long)
    ids, _ = unmask(masked_oracle(few), blank(few, 50), few.seq_len, few.mask_id, pick=best(leftmost, 1),
                    settle=settled(few), write=tallied(calls), generator=seeded())
    assert calls.tolist() == [min(len(w)+1, few.seq_len-1) for w in few.words(ids)]

def test_a_row_is_asked_about_only_as_long_as_it_holds_a_mask():
    asked, z = [], torch.full((3, 6), 5)
    z[0, 1:], z[1, 3:] = 0, 0
    def denoiser(z, share): asked.append(z.clone()); return torch.zeros(*z.shape, 5)
    unmask(denoiser, z, 6, 5, pick=best(leftmost, 1), generator=seeded())
    assert [len(a) for a in asked] == [3, 2, 2, 1, 1, 1] and all((a == 5).any(1).all() for a in asked)

def test_a_text_costs_the_same_alone_and_among_others(few):
    text = few.test[:5]
    for rule in (entropy_budget(.3), klass(.7, .01), from_left(best(certainty, 2), 6)):
        def nll(part): return sampler_nll(masked_oracle(few), part, blank(few, len(part)), few.seq_len, few.mask_id,
                                          pick=rule, settle=settled(few))[0]
        torch.testing.assert_close(nll(text), torch.cat([nll(part) for part in text.split(1)]))

def test_what_the_sampler_never_writes_has_no_probability(few):
    debris = few.test[:2].clone()
    debris[0, -1] = few.bos_id
    nll, _ = sampler_nll(masked_oracle(few), debris, blank(few, 2), few.seq_len, few.mask_id, pick=best(leftmost, 1),
                         settle=settled(few))
    assert nll.isinf().tolist() == [True, False]

@pytest.mark.parametrize('rule', [best(certainty, 4), entropy_budget(.5), at_least(likeliest, .9)])
def test_a_rule_costs_little_beside_the_forward_passes(rule):
    assert overhead(lambda denoiser, z: unmask(denoiser, z, 6, 78, pick=rule, generator=seeded())) <= .25

# refusals -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('make, words', [
    (lambda: best(chance, 0), 'k must be a whole number'), (lambda: at_least(drawn, 0), r'tau must lie in \(0, 1\]'),
    (lambda: at_least(drawn, 1.1), 'tau'), (lambda: factor(0), 'f must be above 0'),
    (lambda: entropy_budget(-.1), 'gamma must be 0 nats or more'), (lambda: entropy_budget(math.nan), 'gamma'),
    (lambda: klass(0, .1), 'tau'), (lambda: klass(.5, .1, calls=0), 'whole number'),
    (lambda: from_left(ancestral, 0), 'whole number'), (lambda: nucleus(0), r'p must lie in \(0, 1\]'),
    (lambda: tempered(0), 'temperature must be above 0')])
def test_a_rule_that_cannot_be(make, words):
    with pytest.raises(ValueError, match=words): make()

def test_a_rule_that_looks_at_the_drawn_tokens_has_no_product():
    with pytest.raises(ValueError, match='looks at the drawn tokens.*likeliest, margin, certainty'):
        sampler_nll(four, STRINGS[:2], torch.full((2, 3), 5), 3, 5, pick=best(drawn, 1))
