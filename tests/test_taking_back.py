"Entry 07c: its ways of writing, how they are compared, and what a reader may ask for"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.records import Run
from textdiffusion.taking_back import REVISIONS, ahead, at_equal_calls, ways

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(corpus='restaurants', calls=[3, 9]))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
WAYS = {(w.family, w.setting): w for w in ways(RUN.cfg)}

def noise(z, share):
    "A denoiser that says something else of every place"
    scores = torch.randn(CORPUS.seq_len, CORPUS.vocab_size, generator=torch.Generator().manual_seed(0))
    return scores.expand(*z.shape, -1)

def test_names_tell_ways_apart_and_are_no_more_than_a_dozen():
    assert len(WAYS) == len(ways(RUN.cfg)) and len({family for family, _ in WAYS}) <= 12

@pytest.mark.parametrize('name', WAYS, ids=' '.join)
def test_every_way_fills_the_canvas_in_its_calls_and_again_with_its_seed(name):
    ids, calls = WAYS[name].write(RUN, noise, 6, 3)
    assert (ids[:, 0] == CORPUS.bos_id).all() and not (ids == CORPUS.mask_id).any() and (calls > 0).all()
    if 'steps' in name[1]: assert calls.max() <= int(name[1].split()[0])
    assert torch.equal(ids, WAYS[name].write(RUN, noise, 6, 3)[0])

def rows(points, **more):
    "Rows of one seed: (family, setting, calls, whole)"
    return [dict(arm='network', seed=0, family=f, setting=s, calls=c, whole=w) for f, s, c, w in points]

@pytest.mark.parametrize('calls, beside', [(8, .5), (11.5, .65), (15, .8), (50, .8), (2, .2)])
def test_equal_calls_lie_between_the_ways_of_random_places(calls, beside):
    record = dict(rows=rows([('random', '1 a call', 15, .8), ('random', '8 steps', 8, .5), ('random', '4 steps', 4, .2),
                             ('x', '1', calls, .6)]))
    assert at_equal_calls(record, 'x', '1').mean == pytest.approx(.6 - beside)

def test_the_best_of_those_that_take_back():
    names = [name for name in REVISIONS if name != 'ancestral']
    found = rows([(name, '8 steps', 8, i/10) for i, name in enumerate(names)] + [('ancestral', '8 steps', 8, 1.)])
    assert ahead(dict(rows=found), '8 steps') == names[-1]

def test_a_wrong_parameter_is_refused():
    refused_at_once(['exact'], 'run', '07c_taking_back', '-p', 'exact', '0')
