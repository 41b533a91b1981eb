"Entry 07b: its ways of writing, what they are compared with, and what a reader may ask for"
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.decoding_rules import best, chance
from textdiffusion.confidence_decoding import Way
from textdiffusion.dependence import at_equal_calls, explained, grid_row, ways
from textdiffusion.shared_information import PairHead, Watched, listed_denoiser, sudoku_grids

GRIDS = sudoku_grids()
SOLVE = Watched(listed_denoiser(GRIDS, 4), 4)
WAYS = {(w.family, w.setting): w for w in ways(SOLVE)}

def test_ways_have_names_and_only_networks_have_heads():
    families = {w.family for w in ways(SOLVE, PairHead(4, 4))}
    assert len(WAYS) == len(ways(SOLVE)) and 'joint' not in families and 'head' in families
    assert {'pairs', 'joint'} < {name for name, _ in WAYS} and ('head', '0.1') not in WAYS

def test_one_place_a_call_writes_grids_exactly():
    row = grid_row(Way('one', '1', best(chance, 1), 'bound'), SOLVE, GRIDS)
    assert row['calls'] == 16 and row['whole'] == 1 and row['kl'] == pytest.approx(0)

def test_cosine_steps_are_as_many_as_they_say():
    row = grid_row(WAYS['cosine', '4 calls'], SOLVE, GRIDS)
    assert row['calls'] == 4 and row['whole'] < .5 and row['kl'] > 1

def test_a_budget_on_pairs_takes_fewer_calls_than_one_doubt():
    pairs, doubt = (grid_row(WAYS[name, '0.02'], SOLVE, GRIDS) for name in ('pairs', 'one doubt'))
    assert pairs['whole'] == doubt['whole'] == 1 and pairs['kl'] == pytest.approx(0) and pairs['calls'] < doubt['calls']

def made(points):
    "Rows of one seed: (family, setting, calls, whole)"
    return dict(rows=[dict(arm='network', seed=0, family=f, setting=s, calls=c, whole=w) for f, s, c, w in points])

@pytest.mark.parametrize('calls, beside', [(6, .5), (7, .6), (8, .7), (20, .7), (2, .5)])
def test_another_family_is_taken_at_as_many_calls(calls, beside):
    record = made([('one doubt', 'a', 8, .7), ('one doubt', 'b', 6, .5), ('head', '0.1', calls, .9)])
    assert at_equal_calls(record, 'head', '0.1', 'whole', 'one doubt').mean == pytest.approx(.9 - beside)

def test_what_is_explained():
    true = torch.tensor([0., 1., 2.])
    assert explained(true, true) == 1 and explained(true, torch.ones(3)) == 0

def test_a_wrong_parameter_is_refused():
    refused_at_once(['exact'], 'run', '07b_dependence', '-p', 'exact', '0')
