"""The teacher: what it charges where that is known, and that its training can be repeated."""
import math

import torch

from textdiffusion.judges import fit_teacher, new_teacher, teacher_nll
from textdiffusion.metrics import behind_end

def test_a_teacher_that_knows_nothing_costs_ln_v(corpus):
    teacher = new_teacher(corpus, width=16, layers=1, heads=2).eval()
    with torch.no_grad(): [p.zero_() for p in teacher.parameters()]
    mean, per_row = teacher_nll(teacher, corpus.test[:40], corpus, batch_size=16)
    assert math.isclose(mean, math.log(corpus.vocab_size), rel_tol=1e-5) and torch.allclose(per_row, torch.tensor(mean))

def test_padding_and_tails_are_free_and_rows_are_independent(corpus):
    teacher = new_teacher(corpus, width=16, layers=1, heads=2).eval()
    ids = corpus.test[:16]
    other = ids.masked_fill(behind_end(ids, corpus), 9)
    mean, per_row = teacher_nll(teacher, ids, corpus)
    assert math.isclose(teacher_nll(teacher, other, corpus)[0], mean, rel_tol=1e-6)
    assert torch.allclose(teacher_nll(teacher, ids[5:6], corpus)[1], per_row[5:6], rtol=1e-5)

def test_fit_teacher_learns_is_repeatable_and_keeps_the_best(corpus):
    how = dict(steps=20, batch_size=16, width=32, layers=1, evaluations=4, held_out=64)
    (teacher, curve), (again, _) = fit_teacher(corpus, **how), fit_teacher(corpus, **how)
    assert [r['step'] for r in curve] == [5, 10, 15, 20]
    kept = teacher_nll(teacher, corpus.valid[:64], corpus)[0]
    assert math.isclose(kept, min(r['held_out'] for r in curve), rel_tol=1e-5) and kept < math.log(corpus.vocab_size)
    assert all(torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), again.state_dict().values()))
