"""What places share: exact on listed languages, rules that charge for it, a head that foresees it."""
import math

import pytest
import torch

from textdiffusion.decoding_rules import sampler_nll
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.optimizers import adamw
from textdiffusion.shared_information import (Hidden, PairHead, Watched, asked_pairs, change, foreseen_pairs,
                                              joint_budget, listed_denoiser, pair_loss, shared_budget, sudoku_grids)
from textdiffusion.training import fit
from textdiffusion.unmasking import Prediction, greedy, unmask

LAW = torch.randint(3, (40, 4), generator=torch.Generator().manual_seed(0))        # 40 texts, some of them twice
TIED = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])                  # two equal bits and a free one

def seeded(): return torch.Generator().manual_seed(0)

def guess_of(watched, z):
    "What one call says about a canvas; finished rows are not asked about"
    masked = z == watched.mask_id
    live = z[masked.any(1)]
    return Prediction(watched(live, torch.ones(len(live))), masked, watched.mask_id, greedy, seeded(), {})

def taken(rule, watched, z): return rule(z == watched.mask_id, guess_of(watched, z), .5, None)

def entropy(*columns):
    "Of the joint law of these places, counted"
    code = sum(c*10**i for i, c in enumerate(columns))
    return torch.special.entr(code.unique(return_counts=True)[1].double()/len(code)).sum().item()

def test_pairs_are_the_mutual_information_of_the_law():
    watched = Watched(listed_denoiser(LAW, 3), 3)
    shared = asked_pairs(watched, least=1e-9)(guess_of(watched, torch.full((1, 4), 3)))[0]
    for i in range(4):
        for j in range(4):
            a, b = LAW[:, i], LAW[:, j]
            assert shared[i, j].item() == pytest.approx(0 if i == j else entropy(a) + entropy(b) - entropy(a, b))

def test_likely_tokens_are_weighed_up_to_one():
    watched = Watched(listed_denoiser(TIED, 2), 2)
    shared = asked_pairs(watched, top=1)(guess_of(watched, torch.full((1, 3), 2)))[0]
    assert shared[0, 1].item() == pytest.approx(math.log(2)) and shared[0, 2] == shared[1, 2] == 0

def test_the_same_canvas_is_asked_about_once():
    watched = Watched(listed_denoiser(LAW, 3), 3)
    guess = guess_of(watched, torch.full((6, 4), 3))
    shared = asked_pairs(watched)(guess)
    assert watched.passes == 12 and all(torch.equal(shared[0], row) for row in shared)

def test_independent_places_go_together_and_tied_ones_do_not():
    watched = Watched(listed_denoiser(TIED, 2), 2)
    for rule in (shared_budget(.01, asked_pairs(watched)), joint_budget(.01, watched)):
        assert taken(rule, watched, torch.full((1, 3), 2)).tolist() == [[True, False, True]]
    free = Watched(listed_denoiser(torch.cartesian_prod(*[torch.arange(2)]*4), 2), 2)
    for rule in (shared_budget(0., asked_pairs(free)), joint_budget(1e-6, free)):
        assert taken(rule, free, torch.full((1, 4), 2)).all()

def test_a_large_budget_takes_all_and_what_is_certain_is_free():
    watched = Watched(listed_denoiser(TIED, 2), 2)
    assert taken(shared_budget(9., asked_pairs(watched)), watched, torch.full((1, 3), 2)).all()
    assert taken(shared_budget(0., asked_pairs(watched)), watched, torch.tensor([[0, 2, 2]])).tolist() == [
        [False, True, True]]

def test_finished_rows_take_nothing_and_move_no_other():
    watched = Watched(listed_denoiser(TIED, 2), 2)
    z = torch.tensor([[0, 0, 1], [2, 2, 2], [1, 1, 1], [2, 1, 2]])
    for rule in (shared_budget(.01, asked_pairs(watched)), joint_budget(.01, watched)):
        assert taken(rule, watched, z).tolist() == [[False]*3, [True, False, True], [False]*3, [True, False, True]]

def test_three_bits_of_even_parity_are_a_trap_for_pairs_alone():
    watched = Watched(listed_denoiser(torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]), 2), 2)
    texts, z = torch.tensor([[0, 1, 1]]), torch.full((1, 3), 2)
    def price(rule): return sampler_nll(watched, texts, z, 3, 2, pick=rule, generator=seeded())[0].item()
    assert price(shared_budget(.01, asked_pairs(watched))) == pytest.approx(3*math.log(2))       # ln 2 lost
    assert price(joint_budget(.01, watched)) == pytest.approx(2*math.log(2))

def test_every_call_fills_something():
    grids = sudoku_grids()
    watched = Watched(listed_denoiser(grids, 4), 4)
    for gamma in (0., .1):
        ids, _ = unmask(watched, torch.full((4, 16), 4), 16, 4, pick=shared_budget(gamma, asked_pairs(watched)),
                        generator=seeded())
        assert (ids[:, None] == grids).all(-1).any(1).all()

def test_where_no_text_agrees_all_tokens_are_equally_likely():
    said = listed_denoiser(TIED, 2)(torch.tensor([[0, 1, 2], [0, 2, 2]]), None).exp()
    assert torch.allclose(said[0], torch.tensor(.5).double()) and said[1, 1].tolist() == [1, 0]

def test_change_of_what_becomes_certain():
    half = torch.tensor([.5, .5]).double().log()
    assert change(torch.tensor([0., -math.inf]).double(), half).item() == pytest.approx(math.log(2))
    assert change(half, half) == 0

# from hidden states ---------------------------------------------------------------------------------------------------

def network():
    torch.manual_seed(0)
    return MaskedDenoiser(MaskedConfig(vocab_size=4, d_model=16, n_layers=1, n_heads=2))

def test_the_head_costs_no_pass_and_sees_the_last_layers_input():
    watched, head = Hidden(network(), 4), PairHead(16, 6)
    shared = foreseen_pairs(watched, head)(guess_of(watched, torch.full((2, 6), 4)))
    assert watched.passes == 0 and watched.hidden.shape == (2, 6, 16) and torch.equal(shared, shared.mT)

def test_shared_information_is_at_most_the_smaller_doubt():
    doubt = torch.rand(3, 5)
    shared = PairHead(8, 5)(100*torch.randn(3, 5, 8), doubt)
    assert (shared <= torch.minimum(doubt[:, :, None], doubt[:, None])).all() and (shared >= 0).all()

def test_training_the_head_leaves_the_network_as_it_is():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    head = PairHead(16, 6)
    start = head.out.weight.detach().clone()
    fit(head, pair_loss(Hidden(model, 4)), lambda step: torch.randint(4, (8, 6), generator=seeded()), 3,
        optimizer=adamw, ema=0.)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.equal(head.out.weight, start)

class Told(Hidden):
    "The perfect denoiser of a law; its hidden states say which place it is"
    def __init__(self, law, mask_id): Watched.__init__(self, listed_denoiser(law, mask_id), mask_id)
    def again(self, z):
        self.hidden = torch.eye(z.shape[1]).expand(len(z), -1, -1)
        return super().again(z)

def test_the_head_learns_what_is_shared():
    law = torch.cat([torch.zeros(4, 1).long(), TIED], 1)                           # a begin, which is never hidden
    told, head = Told(law, 2), PairHead(4, 4, 16)
    torch.manual_seed(0)
    fit(head, pair_loss(told), lambda step: law.repeat(8, 1), 300, optimizer=lambda m: adamw(m, lr=3e-2), ema=0.)
    shared = head(told.hidden[:1], torch.tensor([[0.] + [math.log(2)]*3]))[0]
    assert shared[1, 2] > .4 and shared[1, 3] < .1 > shared[2, 3]

@pytest.mark.parametrize('make', [lambda: shared_budget(-.1, None), lambda: joint_budget(float('nan'), None)])
def test_a_negative_budget_is_refused(make):
    with pytest.raises(ValueError, match='gamma must be 0 nats or more'): make()
