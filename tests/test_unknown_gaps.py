"Entry 07e and the blanks of `infilling`: which law they write, and what a reader may ask for"
from functools import partial

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.guiding import clean_words, noised_words
from textdiffusion.infilling import (gapped, infill_blanks, infill_vectors, inserted, open_gap, with_blanks,
                                     without_blanks)
from textdiffusion.oracles import listed_bayes
from textdiffusion.recipes import NOISE
from textdiffusion.shared_information import listed_denoiser
from textdiffusion.unknown_gaps import apart
from textdiffusion.unmasking import unmask

B, E, P, A, Z, C, D, M = 0, 1, 2, 3, 4, 5, 6, 7
TEXTS = torch.tensor([[B, A, Z, E, P, P], [B, A, C, Z, E, P], [B, A, D, Z, E, P], [B, A, C, C, Z, E],
                      [B, C, E, P, P, P]])
MANY = torch.cartesian_prod(torch.arange(5), torch.arange(1, 6), torch.arange(4))
LAYOUTS = inserted(TEXTS[MANY[:, 0]], *MANY.T[1:], 3, P)
LEFT, RIGHT = torch.tensor([B, A]), torch.tensor([Z, E])
def seeded(seed=0): return torch.Generator().manual_seed(seed)
def words(ids): return (ids != P).sum(1) - 4

@pytest.mark.parametrize('most', [1, 3, 11])
def test_blanks_come_and_go(most):
    ids = TEXTS.repeat(50, 1)
    rows = with_blanks(ids, most, P, seeded())
    assert rows.shape == (250, 6 + most) and (rows[:, 0] == B).all()
    assert torch.equal(without_blanks(rows, P)[:, :6], ids) and (without_blanks(rows, P)[:, 6:] == P).all()
    ends = (rows == E).int().argmax(1)
    inside = torch.stack([(row[:e] == P).sum() for row, e in zip(rows, ends)])
    assert inside.max() == most and .2 < (inside == 0).double().mean() < .8
    assert torch.equal(with_blanks(ids, most, P, seeded()), rows)

def test_with_a_given_blank_lengths_are_those_of_the_language():
    ids = infill_blanks(listed_denoiser(LAYOUTS, M), LEFT, RIGHT, 2, 4000, 9, M, P, generator=seeded())
    share, far = apart(words(ids), torch.tensor([.25, .5, .25]))
    assert far < .03 and share.sum() == 1

def test_without_it_longer_fills_are_commoner_as_counted():
    "One layout of nothing, two for each single word, all five places of an empty run for two words"
    z = gapped(LEFT, RIGHT, 2, 9, M, P)[-1].expand(4000, -1)
    ids = without_blanks(unmask(listed_denoiser(LAYOUTS, M), z, 2, M, generator=seeded(),
                                pick=lambda masked, *_: masked & (masked.cumsum(1) == 1))[0], P)
    assert apart(words(ids), torch.tensor([.1, .4, .5]))[1] < .03

@pytest.mark.parametrize('hold', [clean_words, partial(noised_words, alpha_bar=NOISE, generator=seeded(1))])
def test_a_perfect_continuous_denoiser_fills_with_sentences_and_leaves_what_is_given(hold):
    emb = torch.randn(7, 16, generator=seeded(1))
    denoiser = listed_bayes(LAYOUTS, emb, NOISE)
    denoiser.emb = emb
    row = open_gap(LEFT, RIGHT, 2, 9, M, P)
    ids, own = infill_vectors(denoiser, row, M, 200, NOISE, 25, P, hold, generator=seeded())
    good = (ids[:, None, :6] == TEXTS).all(-1).any(1)
    assert good.double().mean() > .8 and len(ids.unique(dim=0)) >= 4 and own.double().mean() > .9
    assert (ids[:, :2] == LEFT).all()

def test_distance_of_lengths():
    share, far = apart(torch.tensor([0, 0, 1, 3]), torch.tensor([.5, .5]))
    assert share.tolist() == [.5, .25, 0, .25] and far == pytest.approx(.25)
    assert apart(torch.tensor([1, 0]), torch.tensor([.5, .5]))[1] == 0

@pytest.mark.parametrize('option', ['gaps', 'fills', 'calls'])
def test_a_wrong_parameter_is_refused(option):
    refused_at_once([option], 'run', '07e_unknown_gaps', '-p', option, '0')
