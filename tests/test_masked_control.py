"Entry 08b: with perfect parts every way writes what was asked; drafts and passes are counted; what is refused"
import math

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.masked_control import PERFECT, WAYS, Job, drafted, way_rows
from textdiffusion.oracles import language_tokens, masked_oracle
from textdiffusion.targets import JUDGES, by_rejection
from textdiffusion.wish_boards import Board

CORPUS = load_corpus('restaurants')

@pytest.fixture(scope='module')
def board():
    return Board(CORPUS, language_tokens(CORPUS, 'test'), 2, 2)

def job(board, task):
    wishes = board.wishes[task]
    numbers = torch.arange(2)[:, None] + board.first + 1
    return Job(board, task, masked_oracle(CORPUS), wishes, numbers, wishes.log_p)

@pytest.mark.parametrize('task', JUDGES)
def test_perfect_parts_one_place_a_call_write_what_was_asked(board, task):
    rows = [r for r in way_rows(job(board, task), [w for w in PERFECT if w != 'particles']) if r['rule'] == 'one place']
    assert rows and all(r['both'] == r['given'] == 1 for r in rows)
    told = {r['way']: r['forward'] for r in rows}
    if 'told' in told: assert told['told, γ = 2'] > 1.5*told['told']

def test_every_way_names_itself_and_its_tasks(board):
    assert set(PERFECT) < set(WAYS) and all(set(tasks) <= set(JUDGES) for _, tasks, _ in WAYS.values())
    rows = way_rows(job(board, 'length'), WAYS)
    assert [(r['way'], r['rule']) for r in rows] == [('canvas', 'one place'), ('canvas', 'one doubt')]

def test_drafts_are_held_against_the_wishes_of_every_task(board):
    rows = drafted(job(board, 'tags'), 24)
    assert {r['task'] for r in rows} == set(JUDGES) and all(r['valid'] == 1 for r in rows if 'valid' in r)
    for task in JUDGES:
        once, twice, often = (next(r for r in rows if r['task'] == task and r['way'] == way)
                              for way in ('unguided', 'best of 2 drafts', 'best of 8 drafts'))
        assert once['both'] <= twice['both'] <= often['both'] and often['forward'] == 8*once['forward']

def test_base_rates_of_the_language_are_the_mass_of_the_wish(board):
    rates = [math.exp(law.log_mass) for law in board.wishes['length'].laws[1:]]
    exact = [sum(p for words, p in zip(board.law.ids, board.law.p.tolist())
                 if int((words == CORPUS.eos_id).nonzero()[0]) - 1 == t.asked) for t in board.targets['length'][:1]]
    assert rates[0] == pytest.approx(exact[0]) and 0 < by_rejection(rates, 1) < 1

@pytest.mark.parametrize('name, value', [('targets', '0'), ('drafts', '-1'), ('reader_steps', 'many')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name], 'run', '08b_masked_control', '-p', name, value)
