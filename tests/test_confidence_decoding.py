"Entry 07: its ways of writing, how they are scored and compared, and what a reader may ask for"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.confidence_decoding import at_equal_calls, begun, calls_row, check, how, scored, way_row, ways
from textdiffusion.corpora import load_corpus
from textdiffusion.metrics import exact_nll
from textdiffusion.oracles import masked_oracle
from textdiffusion.records import Run
from textdiffusion.decoding_rules import sampler_nll
from textdiffusion.unmasking import unmask

CORPUS = load_corpus('restaurants')
RUN = Run(cfg=SimpleNamespace(corpus='restaurants', samples=6, exact=6, seq_len=None, data_dir=None))
RUN.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
WAYS = {(w.family, w.setting): w for w in ways(CORPUS)}

def noise(z, share):
    "A denoiser that says something else of every place"
    scores = torch.randn(CORPUS.seq_len, CORPUS.vocab_size, generator=torch.Generator().manual_seed(0))
    return scores.expand(*z.shape, -1)

def test_names_tell_ways_apart():
    assert len(WAYS) == len(ways(CORPUS)) and {w.price for w in WAYS.values()} == {'exact', 'bound', ''}

@pytest.mark.parametrize('name', WAYS, ids=' '.join)
def test_every_way_fills_the_canvas_and_is_priced_as_it_says(name):
    way, texts = WAYS[name], CORPUS.test[:4]
    row = way_row(RUN, noise, way, texts, 0)
    assert 1 <= row['calls_low'] <= row['calls'] <= row['calls_high'] <= CORPUS.seq_len
    assert ('kl' in row) == bool(way.price) and row['length'] >= 0
    if name[0] in ('drawn', 'drawn, ends last'):
        with pytest.raises(ValueError, match='drawn tokens'):
            sampler_nll(noise, texts, begun(RUN, way, 4, 0), **how(CORPUS, way, 0))

def test_one_place_a_call_loses_nothing_with_the_perfect_denoiser():
    exact, texts = masked_oracle(CORPUS), CORPUS.test[:8]
    for (family, setting), way in WAYS.items():
        if setting == '1 a call' and family in ('from the left', 'entropy, ends last', 'random'):
            nll, _ = sampler_nll(exact, texts, begun(RUN, way, 8, 0), **how(CORPUS, way, 0))
            assert (nll - exact_nll(texts, CORPUS)).abs().max() < 1e-9

def test_one_doubt_a_call_is_nearly_free_with_the_perfect_denoiser():
    exact, texts, way = masked_oracle(CORPUS), CORPUS.test[:48], WAYS['one doubt', '0.001 nats']
    nll, calls = sampler_nll(exact, texts, begun(RUN, way, 48, 0), **how(CORPUS, way, 0))
    assert (nll - exact_nll(texts, CORPUS)).mean().abs() < .01 and calls.double().mean() < 7

def test_given_lengths_are_kept():
    z = begun(RUN, WAYS['drawn, lengths given', '1 a call'], 40, 3)
    ends = (z == CORPUS.eos_id)
    assert (ends.sum(1) == 1).all() and (z[:, 0] == CORPUS.bos_id).all() and (z == CORPUS.mask_id).any(1).all()
    ids, _ = unmask(noise, z, **how(CORPUS, WAYS['drawn, lengths given', '1 a call'], 0))
    assert (ids[ends] == CORPUS.eos_id).all()
    assert not (begun(RUN, WAYS['drawn', '1 a call'], 2, 0)[:, 1:] != CORPUS.mask_id).any()

def test_real_sentences_score_as_real_ones():
    row = scored(CORPUS.test[:200], CORPUS)
    assert row['whole'] == row['valid'] == 1 and abs(row['nll_minus_entropy']) < 1 and 10 < row['length'] < 14

def test_calls_of_each_sentence():
    assert calls_row(torch.tensor([4, 4, 4, 8])) == pytest.approx(dict(calls=5, calls_low=4, calls_high=7.4))

def made(points, **more):
    "Rows of one seed: (family, setting, calls, whole)"
    return dict(rows=[dict(arm='network', seed=0, family=f, setting=s, calls=c, whole=w) for f, s, c, w in points])

@pytest.mark.parametrize('calls, beside', [(8, .5), (11.5, .65), (15, .8), (28, .8), (2, .2)])
def test_equal_calls_lie_between_the_ways_of_random_places(calls, beside):
    record = made([('random', '1 a call', 15, .8), ('random', '2 a call', 8, .5), ('random', '4 a call', 4, .2),
                   ('x', '1', calls, .6)])
    assert at_equal_calls(record, 'x', '1', 'whole').mean == pytest.approx(.6 - beside)

def test_real_text_is_refused():
    with pytest.raises(ValueError, match='e2e is real text.*restaurants'):
        check(None, SimpleNamespace(grammar=None, name='e2e'))

@pytest.mark.parametrize('args, words', [(['-p', 'exact', '0'], ['exact']),
                                         (['--corpus', 'e2f'], ['restaurants-large'])])
def test_a_wrong_parameter_is_refused(args, words):
    refused_at_once(words, 'run', '07_confidence_decoding', *args)
