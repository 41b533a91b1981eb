"Entry 07d: its ways of writing on sentences and on running text, curves over temperature and how they are compared"
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.judges import fit_teacher
from textdiffusion.metrics import distinct, unigram_entropy, word_rows
from textdiffusion.reading import Facts
from textdiffusion.real_text import (BELIEFS, LINES, ONE, as_varied, beside_random, empty, facts, reached, references,
                                     scored, ways, written)
from textdiffusion.records import Run, headline, pinned
from textdiffusion.streams import running_text

TEXTS = dict(sentences=load_corpus('restaurants'), running=running_text('restaurants', 24, lines=200))
WAYS = {(w.family, w.setting): w for w in ways([3, 9])}

def run_on(corpus, **cfg):
    "A run on a text at hand"
    run = Run(cfg=SimpleNamespace(samples=5, seeds=2, **cfg))
    run.__dict__.update(corpus=corpus, device=torch.device('cpu'))
    return run

def noise(corpus):
    "A denoiser that says something else of every place"
    scores = torch.randn(corpus.seq_len, corpus.vocab_size, generator=torch.Generator().manual_seed(0))
    return lambda z, share: scores.expand(*z.shape, -1)

@pytest.fixture(scope='module', params=TEXTS)
def judged(request):
    "A text, and a judge of it"
    corpus = TEXTS[request.param]
    return corpus, fit_teacher(corpus, steps=2, width=16, layers=1, held_out=8)[0]

def test_names_tell_ways_apart_and_are_drawn():
    assert len(WAYS) == len(ways([3, 9])) and {family for family, _ in WAYS} == set(LINES)

@pytest.mark.parametrize('name', WAYS, ids=' '.join)
def test_every_way_fills_both_kinds_of_text_in_its_calls_and_again_with_its_seed(name, judged):
    corpus, judge = judged
    run, model = run_on(corpus), noise(corpus)
    row, ids = written(run, model, judge, WAYS[name], 1.3, 3)
    assert not (ids == corpus.mask_id).any() and row['temperature'] == 1.3 and row['calls'] > 0
    if 'calls' in name[1]: assert row['calls'] <= int(name[1].split()[0])
    again, same = written(run, model, judge, WAYS[name], 1.3, 3)
    assert torch.equal(ids, same) and row == again

def test_a_temperature_acts_on_the_draw(judged):
    corpus, judge = judged
    cold, hot = (written(run_on(corpus), noise(corpus), judge, WAYS['random', ONE], t, 0)[0] for t in (.1, 5.))
    assert cold['unigram'] < hot['unigram'] and cold['distinct_3'] < hot['distinct_3']

def test_texts_are_scored_with_the_words_alone(judged):
    corpus, judge = judged
    row, rows = scored(corpus.test[:6], corpus, judge), word_rows(corpus.test[:6], corpus)
    assert row['unigram'] == unigram_entropy(rows) and row['distinct_3'] == distinct(rows, 3)
    assert row['length'] == sum(map(len, rows))/6

def test_a_canvas_is_empty(judged):
    z = empty(judged[0], 3)
    assert z.shape == (3, judged[0].seq_len) and (z != judged[0].mask_id).sum() == 3*(judged[0].bos_id is not None)

def test_references_have_every_seed(judged):
    rows = references(run_on(judged[0]), judged[1])
    assert sorted((r['arm'], r['seed']) for r in rows) == [(a, s) for a in ('5-gram', 'real') for s in (0, 1)]

def row(temperature, unigram, price, family='x', setting='1', calls=5., seed=0):
    "A row of a curve"
    return dict(arm='network', seed=seed, family=family, setting=setting, temperature=temperature, unigram=unigram,
                teacher_nll=price, calls=calls, distinct=1., distinct_2=.5, distinct_3=unigram/10, length=7.)

def test_a_curve_is_read_where_it_first_gets_there():
    up_and_down = [row(3., 3., 9.), row(1., 2., 1.), row(2., 4., 2.)]                       # in any order
    found = reached(up_and_down, 'unigram', 3.)
    assert (found['temperature'], found['teacher_nll'], found['unigram']) == (1.5, 1.5, 3.)
    assert reached(up_and_down, 'unigram', 4.)['temperature'] == 2.
    assert reached(up_and_down, 'unigram', 4.1) is None and reached(up_and_down, 'unigram', 1.9) is None
    assert reached([row(1., 2., 1.), row(2., 2., 1.), row(3., 4., 5.)], 'unigram', 3.)['teacher_nll'] == 3.

@pytest.mark.parametrize('shift', [-.4, 0., .7])
@pytest.mark.parametrize('calls', [4., 8., 11., 16., 30.])
def test_a_rule_that_is_dearer_by_so_much_is_found_so(shift, calls):
    "Price = entropy + 20/calls + shift, at temperatures that differ: what is left at equal variety and calls is shift"
    def curve(n, moved, shift=0., **name):
        return [row(t, 2 + t + moved, 2 + t + moved + shift, calls=n, seed=s, **name) for t in (1., 2., 4.)
                for s in range(3)]
    known = {4.: 0., 8.: -1., 16.: -1.5}
    record = dict(rows=[r for n, p in known.items() for r in curve(n, .3, p, family='random', setting=f'{n}')] +
                  [dict(row(1., 4.2, 9.), arm='real', seed=s) for s in range(3)])
    base = float(np.interp(calls, list(known), list(known.values())))
    record['rows'] += curve(calls, -.5, base + shift)
    found = beside_random(as_varied(record), 'x', '1')
    assert found.mean == pytest.approx(shift, abs=1e-6) and found.sd < 1e-6

def test_seeds_in_which_random_places_are_never_so_varied_are_left_out():
    def point(seed, **name): return row(1., 3., 1. + seed, seed=seed, **name)
    ways = [point(s, family='random', setting=n) for s, n in ((0, '4'), (0, '8'), (1, '4'))]
    varied = dict(rows=[*ways, *(dict(point(s), teacher_nll=9.) for s in (0, 1))])
    assert beside_random(varied, 'x', '1').mean == 8. and beside_random(varied, 'random', '8').mean == 0.
    for nothing in (beside_random(varied, 'y', '1'), beside_random(dict(rows=varied['rows'][2:]), 'x', '2')):
        assert nothing.mean != nothing.mean and not nothing.clear

def test_what_is_never_so_varied_has_no_row():
    record = dict(rows=[row(1., 2., 1.), row(2., 3., 2.), dict(row(1., 9., 1.), arm='real', family='real')])
    assert [r['arm'] for r in as_varied(record)['rows']] == ['real']
    assert as_varied(record, 'distinct_3')['rows'][0]['arm'] == 'real'

def test_every_belief_has_its_fact():
    plays = facts(pinned('07d_real_text', 'long', 'tiny_shakespeare'))
    f = Facts(facts(headline('07d_real_text')), **{f'play_{k}': v for k, v in plays.items()})
    assert all(b.fact in f for b in BELIEFS) and len(BELIEFS) <= 5

def test_a_wrong_parameter_is_refused():
    refused_at_once(['samples'], 'run', '07d_real_text', '-p', 'samples', '0')
