"""One row per sample: what must be in it, what must not, and what is refused."""
import json, math

import pytest, torch
from helpers import row

from textdiffusion.judges import new_teacher
from textdiffusion.metrics import behind_end, counted
from textdiffusion.scoring import evaluate, reference_rows

N = 512

def test_what_stands_behind_the_end_moves_nothing_but_tail(corpus):
    clean, dirty = corpus.test[:64], corpus.test[:64].clone()
    dirty[behind_end(dirty, corpus)] = 9
    assert torch.equal(counted(clean, corpus), counted(dirty, corpus))
    a, b = evaluate(clean, corpus), evaluate(dirty, corpus)
    assert a.pop('tail') == 0 and b.pop('tail') > .9 and a == b

def test_random_ids_are_never_valid_and_leave_no_undefined_number(corpus):
    ids = torch.randint(4, corpus.vocab_size, (N, corpus.seq_len), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 12], ids[:, 13:] = corpus.bos_id, corpus.eos_id, corpus.pad_id
    scores = evaluate(ids, corpus)
    assert scores['valid'] == 0 and 'nll' not in scores and 'new' not in scores
    json.dumps(scores, allow_nan=False)

def test_a_training_sentence_repeated_is_valid_and_caught(corpus):
    scores = evaluate(corpus.train[:1].repeat(N, 1), corpus)
    assert scores['valid'] == 1 and scores['new'] == 0 and scores['distinct'] == 1/N and scores['copy_share'] == 1
    assert math.isclose(scores['self_bleu'], 100)

def test_evaluate_refuses_masks_and_nothing(corpus):
    unfinished = torch.full((2, corpus.seq_len), corpus.mask_id)
    with pytest.raises(ValueError, match='mask token'): evaluate(unfinished, corpus)
    with pytest.raises(ValueError, match='no samples'): evaluate(corpus.test[:0], corpus)

def test_empty_and_single_samples_are_scored(corpus):
    teacher, L = new_teacher(corpus, width=16, layers=1, heads=2).eval(), corpus.seq_len
    for ids in (torch.full((3, L), corpus.pad_id), torch.tensor([row(corpus, L=L)]), corpus.test[:1]):
        json.dumps(evaluate(ids, corpus, teacher), allow_nan=False)

def test_reference_rows_are_ordered_as_they_must_be(corpus):
    rows = {r['arm']: r for r in reference_rows(corpus, n=256, seed=2)}
    assert list(rows) == ['shuffled', '3-gram', '5-gram', 'real'] and {r['n'] for r in rows.values()} == {256}
    shuffled, three, five, real = (r['valid'] for r in rows.values())
    assert shuffled < .02 < three < five < real == 1
    json.dumps(list(rows.values()), allow_nan=False)

@pytest.mark.parametrize('n', [0, -1, 2.5])
def test_a_number_of_rows_is_a_whole_number(corpus, n):
    for scored in (lambda: evaluate(corpus.test, corpus, n=n), lambda: reference_rows(corpus, n=n)):
        with pytest.raises(ValueError, match=f'n must be a whole number of at least 1, got {n}'): scored()

def test_narrow_integers_are_scored_alike(corpus):
    assert evaluate(corpus.test[:64].int(), corpus) == evaluate(corpus.test[:64], corpus)
