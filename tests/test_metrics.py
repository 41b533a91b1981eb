"""What a text is worth, against answers that are known before it is scored."""
import math
from types import SimpleNamespace

import torch
from helpers import row

from textdiffusion.metrics import (counted, distinct, exact_nll, longest_copy, nll_rates, novelty, oracle_scores,
                                   self_bleu, unigram_entropy, unseen)

N = 512

def test_counted_agrees_with_the_corpus_on_clean_text(corpus):
    assert torch.equal(counted(corpus.test, corpus), corpus.real(corpus.test))

def test_a_hole_in_a_sentence_counts_and_padding_behind_an_endless_one_does_not(corpus):
    bos, eos, pad = corpus.bos_id, corpus.eos_id, corpus.pad_id
    ids = torch.tensor([[bos, 7, pad, 8, eos], [bos, 7, 8, pad, pad]])
    assert counted(ids, corpus).tolist() == [[False, True, True, True, True], [False, True, True, False, False]]
    assert exact_nll(ids, corpus).isinf().all()

def test_true_sentences_score_one_and_the_entropy(corpus):
    ids = corpus.batch(10**6, N, seed=7)     # fresh draws
    scores, nll = oracle_scores(ids, corpus), exact_nll(ids, corpus)
    assert scores['valid'] == 1
    assert abs(scores['nll_minus_entropy']) < 4 * nll.std().item() / N**.5
    assert .2 < scores['new'] < .8

def test_a_valid_sentence_without_its_end_or_beginning_is_invalid(corpus):
    ids = corpus.test[:8].clone()
    no_end = ids.masked_fill(ids == corpus.eos_id, corpus.pad_id)
    ids[:, 0] = 5
    assert oracle_scores(no_end, corpus) == oracle_scores(ids, corpus) == dict(valid=0.)


def test_distinct_and_entropy_by_hand():
    rows = [[5, 6, 5], [5, 6]]               # words 5 6 5 5 6; pairs 56 65 56; triple 565
    assert [distinct(rows, k) for k in (1, 2, 3, 4)] == [2/5, 2/3, 1, 0]
    assert math.isclose(unigram_entropy(rows), -(.6*math.log(.6) + .4*math.log(.4)))

def test_self_bleu_of_equal_and_of_disjoint_rows():
    assert math.isclose(self_bleu([[5, 6, 7, 8]]*20), 100)
    assert self_bleu([[5*i + j for j in range(5)] for i in range(20)]) < 1

def test_longest_copy_by_hand(corpus):
    train = torch.tensor([row(corpus, 10, 11, 12, 13), row(corpus, 14, 15), row(corpus, 11, 12, 20)])
    small = SimpleNamespace(train=train, pad_id=corpus.pad_id, bos_id=corpus.bos_id, eos_id=corpus.eos_id)
    samples = torch.tensor([row(corpus, 10, 11, 12, 20),        # 10 11 12 in the first, 11 12 20 in the third
                            row(corpus, 13, 14, 15),            # 13 | 14 15: no run over two rows
                            row(corpus, 30, 31), row(corpus, 10, 11, 12, 13), row(corpus)])
    assert longest_copy(samples, small).tolist() == [3, 2, 0, 4, 0]
    assert unseen(samples, small).tolist() == [True, True, True, False, True]
    assert novelty(samples[:4], small) == dict(new=.75, copy=9/4, copy_max=4, copy_share=(3/4 + 2/3 + 0 + 1)/4)

def test_rates_of_a_uniform_guess(corpus):
    ids = corpus.test[:50]
    rates = nll_rates(math.log(corpus.vocab_size) * counted(ids, corpus).sum(1), ids, corpus)
    assert math.isclose(rates['nats_per_token'], math.log(corpus.vocab_size), rel_tol=1e-6)
    characters, tokens = sum(map(len, corpus.decode(ids))), counted(ids, corpus).sum().item()
    assert math.isclose(rates['bits_per_char'], math.log2(corpus.vocab_size) * tokens / characters, rel_tol=1e-6)
