"Entry 10d: seconds until a bar, known answers, and what a reader may ask for"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.lengths import lengths_of
from textdiffusion.recipe import (ARMS, CONTINUOUS, LOOKS, MASKED, PRESETS, looks_of, network, plan_of, ratio, scores,
                                  seconds, sizes_of, trained)
from textdiffusion.records import Run
from textdiffusion.statistics import crossed

CORPUS = load_corpus('restaurants')

def run_at(kind=Run, **changed):
    "A smoke run, changed here and there"
    run = kind(cfg=SimpleNamespace(**PRESETS['smoke'] | changed))
    run.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
    return run

RUN = run_at()

def rows_of(arm, curve, ms, seed=0):
    return [dict(arm='step', setting=arm, seed=seed, ms=ms)] + [
        dict(arm=arm, seed=seed, look=i, steps=n, valid=v, whole=v) for i, (n, v) in enumerate(curve)]

def test_a_bar_is_crossed_on_straight_lines():
    assert crossed([(100, .4), (200, .9)], .8) == 180 and crossed([(100, .8)], .8) == 100
    assert crossed([(100, .4), (200, .7)], .8) == float('inf')
    assert crossed([(100, .4), (200, .7)], .55) == pytest.approx(150)

def test_seconds_are_steps_times_their_cost_and_a_plan_that_ends_below_counts_as_a_whole():
    rows = rows_of('both', [(100, .4), (200, .9)], 10.) + rows_of('as-in-05', [(300, .2), (400, .5)], 20.)
    assert seconds(rows, 'both') == {0: (pytest.approx(1.8), True)}
    assert seconds(rows, 'as-in-05') == {0: (8., False)} and ratio(rows, 'both', 'as-in-05').mean == pytest.approx(.225)

def test_a_masked_score_stands_beside_the_perfect_one_of_its_own_way():
    rows = rows_of('masked-larger', [(10, .3)], 1.) + [
        dict(arm='perfect', setting=way, seed=0, whole=top) for way, top in dict(sorted=.6, padded=.5).items()]
    assert scores(rows, 'masked-larger') == {0: [(10, .5)]}
    assert scores(rows, 'masked-larger', 'padded') == {0: [(10, .6)]}

def test_plans_and_looks():
    assert set(LOOKS) == set(ARMS) == set(CONTINUOUS) | set(MASKED)
    for arm in ARMS.values():
        looks = looks_of(RUN, arm)
        assert looks[-1] == plan_of(RUN, arm) and looks == sorted(set(looks)) and looks[0] >= 1

def test_training_to_a_look_and_on_is_training_at_once(tmp_path):
    class Here(Run):
        def folder_of(self, name): return tmp_path/name
    run = run_at(Here, share=.02)
    first, *_, last = looks_of(run, ARMS['both'])
    trained(run, 'both', 0, first)
    assert trained(run, 'both', 0, last).weights_hash() == trained(run_at(share=.02), 'both', 0, last).weights_hash()

def test_networks_and_lengths():
    assert not network(RUN, ARMS['no-guess']).config.self_condition and network(RUN, ARMS['both']).config.self_condition
    full, drawn = (sizes_of(RUN, way, 200, 0) for way in ('padded', 'sorted'))
    assert (full == 29).all() and set(drawn.tolist()) <= set(lengths_of(CORPUS.train, CORPUS.pad_id).tolist())

@pytest.mark.parametrize('name, value', [('share', '0'), ('share', '-1'), ('samples', '0'), ('arms', 'best')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name], 'run', '10d_recipe', '-p', name, value)
