"""Denoisers whose scores are known."""
import math

import torch

from textdiffusion.denoising import denoising_table, input_sensitivity
from textdiffusion.schedules import sqrt

def test_perfect_and_blind_denoisers(corpus):
    ids, V = corpus.test[:16], corpus.vocab_size
    emb = torch.randn(V, 8, generator=torch.Generator().manual_seed(0))
    x0 = emb[ids]
    perfect = lambda x_t, t: (x0, torch.nn.functional.one_hot(ids, V).float())
    shrunk = lambda x_t, t: (x0/2, torch.zeros(*ids.shape, V))
    reader = lambda x_t, t: (x_t, -torch.cdist(x_t, emb))
    for r in denoising_table(perfect, x0, ids, corpus, sqrt, ts=(.1, .9)):
        assert r['accuracy'] == 1 and r['mse'] == 0 and r['ratio'] == 1 and math.isclose(r['cosine'], 1, rel_tol=1e-5)
    for r in denoising_table(shrunk, x0, ids, corpus, sqrt, ts=(.1, .9)):
        assert math.isclose(r['ratio'], .5, rel_tol=1e-5) and math.isclose(r['cosine'], 1, rel_tol=1e-5)
        assert r['accuracy'] == (r['kind'] == 'PAD')         # always says id 0
    assert [r['sensitivity'] for r in input_sensitivity(shrunk, x0, ids, corpus, sqrt, ts=(0., .5))] == [0, 0]
    assert input_sensitivity(reader, x0, ids, corpus, sqrt, ts=(0.,))[0]['sensitivity'] == 1
