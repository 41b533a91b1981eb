"Entry 08c: known answers of its measures, sources that stand still while every kind writes, what is refused"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.judges import fit_teacher
from textdiffusion.metrics import bleu
from textdiffusion.pairs import as_words, load_pairs, read_back, spoken
from textdiffusion.recipes import RECIPES
from textdiffusion.source_to_target import (BELIEFS, PRESETS, SLOTS, WRITERS, Task, check, covered, left_out,
                                            nearest, right, worth, written)
from textdiffusion.steering import most_alike
from textdiffusion.tokenizing import encode, sentence_rows

PAIRS = load_pairs('restaurants')

@pytest.fixture(scope='module')
def task():
    groups = dict(list(PAIRS.groups['test'].items())[:6])
    words = [[as_words(PAIRS.tokenizer, text) for text in texts] for texts in groups.values()]
    cfg = SimpleNamespace(calls=3, candidates=2)
    return Task(PAIRS, fit_teacher(PAIRS.plain, steps=2, held_out=8)[0], list(groups), words, cfg, torch.device('cpu'))

def rows_of(texts): return sentence_rows(encode(PAIRS.tokenizer, texts), PAIRS.special, PAIRS.seq_len)

def test_a_copy_has_all_of_it_and_another_text_has_not(task):
    own, other = worth(task, rows_of([r[0] for r in task.references])), worth(task, rows_of(
        [r[0] for r in task.references[1:] + task.references[:1]]))
    assert own['bleu'] > 99.99 and own['right'] == own['valid'] == 1 and other['valid'] == 1
    assert other['right'] < .5 and other['bleu'] < own['bleu'] and other['covered'] < own['covered']

def test_bleu_is_that_of_sacrebleu_with_as_many_references_as_there_are():
    import sacrebleu
    texts, refs = ['the mill is a pub', 'zizzi serves food'], [['the mill is a pub .'], ['zizzi has food', 'x y z w']]
    streams = [[refs[0][0], refs[1][0]], [refs[0][0], refs[1][1]]]          # a reference twice counts once
    assert bleu(texts, refs) == pytest.approx(sacrebleu.corpus_bleu(texts, streams, tokenize='none').score)
    with pytest.raises(ValueError, match='as many'): bleu(texts, refs[:1])
    with pytest.raises(ValueError, match='as many'): bleu([], [])

def test_an_unknown_word_matches_nothing():
    "A text in which a word is unknown says [UNK]; what people wrote keeps its word"
    assert as_words(PAIRS.tokenizer, 'a quux pub') == 'a quux pub' and bleu(['a [UNK] pub'], [['a quux pub']]) < 99

def test_right_asks_for_all_of_a_table_and_nothing_else(task):
    source, text = task.sources[0], task.references[0][0]
    assert right(PAIRS, source, text) and not right(PAIRS, source, text + ' .')
    table = read_back(source, SLOTS)
    less = {slot: value for slot, value in list(table.items())[:-1]}
    assert not right(PAIRS, spoken(less), text) and all(covered(PAIRS, spoken(less), text))

def test_values_are_looked_for_whole():
    assert covered(PAIRS, 'name The Eagle priceRange high', 'the eagle is highly rated') == [True, False]
    assert covered(PAIRS, 'name The Mill near The Millers', 'the millers') == [False, True]

def test_the_nearest_table_of_a_training_table_is_itself():
    some = list(PAIRS.groups['train'])[5:8]
    assert nearest(PAIRS, some) == [PAIRS.groups['train'][s] for s in some]

def test_a_person_is_held_against_the_others(task):
    many = task._replace(references=[['a b', 'c d'], ['e f'], *task.references[2:]][:2], sources=task.sources[:2])
    found, own = left_out(many, 0)
    assert found.references == [['c d']] and found.sources == task.sources[:1] and len(own) == 1

def test_the_most_typical_text_is_one_of_the_majority():
    assert most_alike([text.split() for text in ('x y z w', 'a b c d', 'a b c d e', 'a b c f')]) in (1, 2, 3)

@pytest.mark.parametrize('arm', WRITERS)
def test_every_kind_writes_behind_the_source_and_the_same_again(task, arm):
    torch.manual_seed(0)
    model = RECIPES[arm].model(PAIRS, d_model=32, n_layers=1, n_heads=1)
    first, calls = written(task, arm, model, 2, seed=3)
    again, _ = written(task, arm, model, 2, seed=3)
    assert torch.equal(first, again) and first.shape == (12, PAIRS.seq_len) and 0 < calls <= PAIRS.seq_len
    assert (first[:, 0] == PAIRS.bos_id).all() and (first != PAIRS.mask_id).all()

def test_presets_grow_and_beliefs_are_few():
    size = {k: p['seeds']*p['steps']*p['sources'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu'] and len(BELIEFS) <= 5

def test_a_corpus_without_tables_is_refused():
    with pytest.raises(ValueError, match='no tables of slots.*choose from'): check(SimpleNamespace(corpus='imdb'), None)
    check(SimpleNamespace(corpus='e2e'), None)

@pytest.mark.parametrize('name, value', [('sources', '0'), ('candidates', '1'), ('arms', 'spoken')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name], 'run', '08c_source_to_target', '-p', name, value)
