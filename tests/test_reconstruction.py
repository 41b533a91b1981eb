"Entry 02b as a reader runs it, and what its parts promise"
import pytest
import torch
from helpers import refused_at_once, smoke_run
from test_weight_tying import DATA, a_model

from textdiffusion.latents import LEVELS
from textdiffusion.reconstruction import ARMS, PRESETS, STAGES, by_level, related, watching

def test_two_arms_run_and_a_wrong_one_is_refused():
    record = smoke_run('02b_reconstruction', arms='mse,shared')
    assert {r['arm'] for r in record['rows']} == {'shuffled', '3-gram', '5-gram', 'real', 'mse', 'shared'}
    for arm in ('mse', 'shared'): assert [r['stage'] for r in record['stages'] if r['arm'] == arm] == list(STAGES)
    refused_at_once(['tied'], 'run', '02b', '--preset', 'smoke', '-p', 'arms', 'tide')

@pytest.mark.parametrize('steps', [1, 3, 42, 100, 840])
def test_every_stage_is_looked_at_once(steps):
    every, watch, seen = watching(steps, lambda avg, stage: stage)
    looks = [watch(None) for step in range(1, steps + 1) if step % every == 0 or step == steps]      # as `fit` does
    assert seen == list(STAGES) and looks == sorted(looks, reverse=True)          # never a reason to stop

def test_look_up_knows_clean_vectors():
    model, text = a_model('tied').eval(), DATA.test[:8]
    rows = by_level(model, text, DATA)
    assert [r['level'] for r in rows] == list(LEVELS) and rows[0]['look_up'] == 1 > rows[-1]['look_up']
    assert all(0 <= r['right'] <= 1 for r in rows)

def test_a_related_error_is_a_near_one():
    places = torch.arange(201.)[:, None]
    assert related(torch.tensor([101, 99, 110, 150]), torch.tensor([100]*4), places) == (.75, 4)

def test_presets_are_of_one_make():
    assert all(set(p) == set(PRESETS['cpu']) for p in PRESETS.values())
    assert PRESETS['long']['steps'] % 42 == 0 and STAGES[-1] == 42 and set(PRESETS['long']['arms']) == set(ARMS)
