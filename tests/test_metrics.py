"""What a text is worth, against answers that are known before it is scored."""
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import row

from textdiffusion.corpora import build_stream
from textdiffusion.metrics import (bleu, characters, counted, distinct, exact_nll, longest_copy, nll_rates, novelty,
                                   oracle_scores, self_bleu, unigram_entropy, unseen)
from textdiffusion.streams import nll_row
from textdiffusion.tokenizing import bpe_tokenizer, char_tokenizer

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

def test_a_text_that_stops_early_gains_nothing_by_how_many_references_others_have():
    alone = bleu(['a b c d'], [['a b c d e f g h i']])
    assert alone == pytest.approx(100*math.exp(1 - 9/4))                                      # the brevity penalty
    others = bleu(['a b c d', 'v w x y'], [['a b c d e f g h i'], ['v w x y z z z z z']*3])
    assert others == pytest.approx(alone)
    for empty in ('', '  '):
        with pytest.raises(ValueError, match='reference of text 0 has no words'):
            bleu(['a b c d'], [['a b c d e f g h i', empty]])

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


TEXTS = {'Chinese': '道可道，非常道；名可名，非常名。无名天地之始，有名万物之母。故常无欲，以观其妙。\n',
         'Russian': 'Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n',
         'English': 'Call me Ishmael. Some years ago, never mind how long precisely, I went to sea.\n'}

@pytest.mark.parametrize('name', TEXTS)
def test_a_letter_counts_where_it_begins(name):
    "Byte pairs in rows of 32 cut letters in two; the rows of one text have its characters together, however it is cut"
    text = TEXTS[name]*60
    def stream(make, L): return build_stream(name, dict.fromkeys(('train', 'valid', 'test'), text), make, L)
    rows = stream(lambda texts: bpe_tokenizer(texts, 262), 32)
    told = rows.tokenizer.backend_tokenizer.decode(rows.test.flatten().tolist())       # the whole, cut once at its end
    assert characters(rows.test, rows) == len(told) and text.startswith(told.rstrip('\ufffd'))
    assert sum(characters(row[None], rows) for row in rows.test) == len(told)
    assert characters(rows.test[:, :16], rows) + characters(rows.test[:, 16:], rows) == len(told)
    pieces = sum(map(len, rows.decode(rows.test)))
    assert pieces == len(told) if name == 'English' else pieces > 1.005*len(told)
    nats = torch.full((len(rows.test),), math.log(2.)*len(told)/len(rows.test))
    assert math.isclose(nll_rates(nats, rows.test, rows)['bits_per_char'], 1., rel_tol=1e-6)
    def clueless(z, share): return torch.zeros(*z.shape, rows.vocab_size)
    cost = nll_row(clueless, rows.test[:4], rows, dict(nats=0), draws=2)['nats']
    assert math.isclose(cost, 4*32*math.log(rows.vocab_size)/characters(rows.test[:4], rows), rel_tol=1e-5)
    letters = stream(char_tokenizer, 32)
    assert characters(letters.test, letters) == letters.test.numel()
