"Entry 03c: where the cliff of a table is, what is read of published ones, Difformer's F, and what is refused"
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import WEIGHTS, needs_weights, refused_at_once, smoke_run
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from textdiffusion.lookup import cliff, look_up_rate
from textdiffusion.real_tables import (ARMS, LEVELS, OTHERS, crossing, counted_rows, facts, factor_before, look_ups,
                                       octaves, ours_over_theirs, own_cliff, read_shares, shape_of, standard)
from textdiffusion.schedules import grid, rescale, sqrt
from textdiffusion.word_vectors import read_vectors, word_vectors

def drawn(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

# published tables -----------------------------------------------------------------------------------------------------

@pytest.fixture
def padded(tmp_path):
    "A saved model whose tokenizer's file asks for eight pieces and cuts after two, as MiniLM's asks for 128"
    words = Tokenizer(WordLevel(dict(pad=0, rice=1, boat=2, near=3), unk_token='pad'))
    words.pre_tokenizer = Whitespace()
    words.enable_padding(length=8, pad_id=0, pad_token='pad')
    words.enable_truncation(2)
    words.save(f'{tmp_path}/tokenizer.json')
    save_file({'embeddings.word_embeddings.weight': torch.eye(4)}, tmp_path/'model.safetensors')
    return tmp_path

def test_padding_is_no_piece_of_a_word(padded):
    table, rows_of = read_vectors(padded)
    assert rows_of('rice') == [1] and rows_of('rice boat near') == [1, 2, 3]
    vectors, share = word_vectors(padded, ['boat', 'rice near'])
    assert vectors.tolist() == [[0, 0, 1, 0], [0, .5, 0, .5]] and share == 1
    assert counted_rows(rows_of, ['rice rice', 'boat <unk>'], 4).tolist() == [0, 2, 1, 0]

def test_a_table_of_words_below_the_variable_is_an_arm(tmp_path):
    folder = tmp_path/'weights/glove'
    folder.mkdir(parents=True)
    np.save(folder/'vectors.npy', drawn(40, 8).numpy())
    pd.DataFrame(dict(word=['the', 'near', *map(str, range(38))])).to_parquet(folder/'words.parquet')
    found = dict(TEXTDIFFUSION_WEIGHTS=str(folder.parent))
    record = smoke_run('03c_real_tables', found, arms='glove,table', draws=200)
    by = {r['arm']: r for r in record['rows']}
    assert by['glove']['V'] == 40 and by['glove']['used'] == pytest.approx(2/40) and by['table']['V'] == 82
    assert [r['name'] for r in record['pretrained']] == ['glove', 'random']
    assert 'stands in' in record['pretrained'][1]['note'] and str(tmp_path) not in json.dumps(record)

@needs_weights
def test_bert_tiny_is_read_whole():
    found = dict(TEXTDIFFUSION_WEIGHTS=WEIGHTS)
    record = smoke_run('03c_real_tables', found, base_model='bert-tiny', arms='table', draws=32)
    row, = record['rows']
    assert (row['V'], row['D']) == (30522, 128) and row['common'] == pytest.approx(.172, abs=.001)
    assert record['pretrained'][0]['name'] == 'bert-tiny' and WEIGHTS not in json.dumps(record)

REFUSED = [(['-p', 'arms', 'glove'], ['the table glove', 'TEXTDIFFUSION_WEIGHTS']),
           (['-p', 'base_model', 'bert-base-uncased'], ['base_model must be a folder', 'bert-base-uncased']),
           (['-p', 'arms', 'bert'], ['choose from random, lengths']), (['-p', 'draws', '0'], ['draws'])]

@pytest.mark.parametrize('given, says', REFUSED)
def test_what_is_not_at_hand_is_refused_before_a_kernel_starts(given, says):
    refused_at_once(says, 'run', '03c_real_tables', *given)

# look-up --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('D, V', [(8, 200), (32, 1000), (96, 3000)])
def test_an_even_table_has_the_cliff_of_theory(D, V):
    assert own_cliff(3*drawn(V, D) - 1) == pytest.approx(cliff(D, V), rel=.05)

def test_unused_directions_move_the_cliff_as_a_narrower_table_would():
    for used in (4, 8, 16):
        table = torch.cat([drawn(2000, used), torch.zeros(2000, 32 - used)], 1)
        assert own_cliff(table) == pytest.approx(cliff(used, 2000, (32/used)**.5), rel=.05)

def test_look_up_in_a_random_table_is_that_of_theory():
    x, made = standard(drawn(400, 24)), torch.Generator().manual_seed(1)
    rows = look_ups(x, torch.ones(400), 2000, made)
    assert [r['multiple'] for r in rows] == LEVELS and 1. in LEVELS
    for r in rows:
        known = look_up_rate(r['multiple']*cliff(24, 400), 24, 400).item()
        assert abs(r['alike'] - known) < .05 and abs(r['text'] - known) < .05 and r['bayes'] == r['text']

def test_knowing_what_is_frequent_never_hurts_much_and_helps_in_heavy_noise():
    x, often = standard(drawn(300, 16)), 1/torch.arange(1., 301.)
    ids = torch.multinomial(often, 4000, True, generator=torch.Generator().manual_seed(0))
    for snr in (.05, .3, 1., 5.):
        found = read_shares(x, ids, drawn(4000, 16, seed=1), snr, often)
        assert found['bayes'] > found['nearest'] - .02
    heavy = read_shares(x, ids, drawn(4000, 16, seed=1), .05, often)
    assert heavy['bayes'] > heavy['nearest'] + .05

@pytest.mark.parametrize('shares, goal, at', [
    ([0., .2, .6, 1.], .4, 2*2**.5), ([0., .5, .5, 1.], .5, 2.), ([.6, .7, .8, .9], .5, math.nan),
    ([0., .1, .2, .3], .5, math.nan), ([.5, .2, .6, .9], .4, 2*2**.5)])
def test_where_a_share_reaches_a_goal(shares, goal, at):
    assert crossing([1., 2., 4., 8.], shares, goal) == pytest.approx(at, nan_ok=True)

def test_the_made_tables_have_what_they_are_called_by():
    table = drawn(3000, 12)*torch.arange(1., 13.)*(1 + drawn(3000, 1, seed=2).abs())
    x, made = standard(table), torch.Generator().manual_seed(3)
    got = {name: standard(make(x, made)) for name, make in ARMS.items() if name not in OTHERS}
    ids, often = torch.arange(50), torch.ones(3000)
    shape = {name: shape_of(y, often, ids) for name, y in got.items()}
    uneven = shape['table']['dimension']
    assert uneven < 9 and shape['directions']['dimension'] == pytest.approx(uneven, rel=.05)
    assert min(shape[k]['dimension'] for k in ('random', 'lengths')) > 11.8 and shape['equal']['lengths'] < .05
    for k in ('lengths', 'both'): assert shape[k]['lengths'] == pytest.approx(shape['table']['lengths'], rel=.02)
    assert all(s['text_power'] == pytest.approx(1., abs=1e-3) for s in shape.values())     # all words alike: its own

def test_facts_of_a_few_arms_are_those_there_are():
    row = dict(seed=0, D=16, V=82, own=1., common=0., text_power=1., read_uniform=.5, used=.7)
    rows = [row | dict(arm=a, alike=r, text=r, bayes=r) for a, r in (('random', 1.), ('table', 4.))]
    curves = [dict(arm='table', seed=0, multiple=m, alike=m/2) for m in (.5, 1., 2.)]
    f = facts(dict(rows=rows, curves=curves, rule=dict(c=.93)))
    assert octaves(4.) == 1 and f.alike_table.mean == 4 and f.worst.mean == 1
    assert f.first_look.mean == .5
    assert f.F_table.mean == pytest.approx(2*f.asked_table.mean) and "alike_minilm" not in f

# whose F --------------------------------------------------------------------------------------------------------------

def difformer(F, T=2000):
    "alpha_bar of a T-step table as Difformer's code makes it: betas of the rescaled square root, capped"
    def f(t):
        a = 1 - math.sqrt(t + 1e-4)
        return a/(F**2 - (F**2 - 1)*a)
    betas = [min(1 - f((i + 1)/T)/f(i/T), .999) for i in range(T)]
    return torch.tensor([1 - b for b in betas], dtype=torch.float64).cumprod(0)

@pytest.mark.parametrize('F, most', [(1., 0.), (2., .03), (4., .13)])
def test_difformers_factor_is_applied_before_its_schedule_is_divided(F, most):
    t, theirs = grid(2000)[:-2], difformer(F)[:-2]
    torch.testing.assert_close(factor_before(F)(t), theirs, rtol=1e-9, atol=0)
    assert abs((1 - rescale(sqrt, F)(t)/theirs).max() - most) < .002
    assert abs(1 - ours_over_theirs(t, F).min() - most) < .002
