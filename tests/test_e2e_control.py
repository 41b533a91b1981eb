"Entry 08e: released targets are read whole or refused in a sentence; judges of real text; what was known stands still"
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from helpers import REAL_TEXT, refused_at_once
from textdiffusion.e2e_control import BELIEFS, PRESETS, Job, check, draft_rows, people_rows, token_rows, vector_rows
from textdiffusion.judges import fit_teacher
from textdiffusion.pairs import load_pairs
from textdiffusion.recipes import NOISE, RECIPES
from textdiffusion.released_targets import (FILES, LENGTHS, UPOS, agreement, fitting, load_tagger, read_targets,
                                            released, target_file)
from textdiffusion.text_wishes import (all_wishes, best_of, content_wishes, length_wishes, says, short_rows,
                                       table_labels, tag_wishes, trained_reader, wish_corpus)

SAID = dict(words_=['START', 'Zizzi', 'is', 'a', 'pub', '\n', 'END'])
TAGS = SAID | dict(pos='START PROPN AUX DET NOUN X END'.split())
ROW = 'name[The Mill], area[riverside]'

def one_tag(texts): return [['word']*len(words) for words in texts]

@pytest.fixture(scope='module')
def job():
    source = load_pairs('restaurants')
    rows = {split: part[:200] for split, part in short_rows(source, 36).items()}
    corpus = wish_corpus(source, rows, 36)
    kinds, labels = table_labels(corpus.plain, rows['train'], one_tag, ['word'])
    wishes = all_wishes(['content', 'length', 'infilling'], corpus, rows['test'], kinds, 4, one_tag, lambda task: None)
    judge = fit_teacher(corpus.plain, steps=2, held_out=8)[0]
    job = Job(corpus, wishes, judge, 99., SimpleNamespace(calls=3, samples=6, seeds=1), torch.device('cpu'))
    return job, kinds, labels

def data_folder(folder, **targets):
    "A data folder with a little E2E and these lines of targets"
    (folder/'e2e').mkdir(), (folder/'control_targets').mkdir()
    for name in ('trainset', 'devset', 'testset_w_refs'):
        (folder/f'e2e/{name}.csv').write_text('mr,ref\n' + f'"{ROW}",The Mill is by the river.\n'*12, encoding='utf-8')
    for task, row in (dict(content=['area', ':', 'riverside'], tags=TAGS) | targets).items():
        text = row if isinstance(row, str) else json.dumps(row)
        (folder/'control_targets'/FILES[task]).write_text(text, encoding='utf-8')
    return folder

BROKEN = [('content', ['colour', ':', 'red'], "line 1: unknown label 'colour', choose from name"),
          ('content', ['area'], 'line 1: no attribute'), ('content', '["area"', 'line 1: '),
          ('content', '7', 'line 1: no attribute'),
          ('tags', '', 'is empty'), ('tags', '[1]', 'line 1 is no target of tags'),
          ('tags', TAGS | dict(pos=['START', 'END']), '2 tags for 7 words'),
          ('tags', SAID | dict(pos='START PROPN AUX DET NOM X END'.split()), "unknown label 'NOM', choose from ADJ"),
          ('spans', SAID | dict(spans=[[2, 7, 'NP']]), 'from word 2 to 7 outside a sentence of 4 words'),
          ('spans', SAID | dict(spans=[[-1, 2, 'NP']]), 'outside a sentence'),
          ('spans', SAID, 'line 1 is no target of spans')]

@pytest.mark.parametrize('task, row, words', BROKEN)
def test_a_broken_target_is_one_sentence_that_names_its_line(tmp_path, task, row, words):
    path = target_file(task, data_folder(tmp_path, **{task: row}))
    with pytest.raises(ValueError) as error: read_targets(path, task)
    assert words in str(error.value) and FILES[task] in str(error.value) and '\n' not in str(error.value)

@pytest.mark.parametrize('task, row, words', [BROKEN[0], BROKEN[4], BROKEN[7]])
def test_the_run_refuses_it_before_training(tmp_path, task, row, words):
    folder = data_folder(tmp_path, **{task: row})
    refused_at_once([words], 'run', '08e_e2e_control', '--preset', 'smoke', '--corpus', 'e2e', '-p', 'data_dir', folder,
                    '-p', 'tasks', task)

def test_a_target_longer_than_the_window_is_left_out_and_nothing_left_is_an_error(tmp_path):
    folder = data_folder(tmp_path)
    assert released('tags', 4, folder) == [['PROPN', 'AUX', 'DET', 'NOUN']] and released('length', 9, folder) == [8, 9]
    with pytest.raises(ValueError, match='no target of tags fits: the shortest asks for 4 words'):
        released('tags', 3, folder)
    with pytest.raises(ValueError, match='at most 7; give a larger seq_len'):
        fitting(list(LENGTHS), list(LENGTHS), 7, 'length')
    refused_at_once(['no target of length fits', 'seq_len'], 'run', '08e_e2e_control', '--preset', 'smoke', '--corpus',
                    'e2e', '-p', 'data_dir', folder, '-p', 'seq_len', '16')

def test_a_folder_without_the_file_is_an_error_and_one_without_targets_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv('TEXTDIFFUSION_DATA', raising=False)
    assert target_file('content') is None and target_file('content', tmp_path) is None
    (data_folder(tmp_path)/'control_targets'/FILES['tags']).unlink()
    with pytest.raises(FileNotFoundError, match='has no file target_pos.json'): target_file('tags', tmp_path)
    with pytest.raises(ValueError, match='choose from content, tags, spans'): target_file('tree', tmp_path)

@pytest.mark.parametrize('words, tasks', [(["tasks", 'tree', 'choose from'], 'tree'), (['leave tags out'], 'tags')])
def test_a_task_that_cannot_be_judged_is_refused(words, tasks):
    refused_at_once(words, 'run', '08e_e2e_control', '--preset', 'smoke', '-p', 'tasks', tasks)

def test_tags_without_a_tagger_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'spacy', None)
    cfg = SimpleNamespace(corpus='e2e', tasks=['tags'], seq_len=28, data_dir=str(data_folder(tmp_path)))
    with pytest.raises(RuntimeError, match=r'pip install -e "\.\[pos\]"'): check(cfg, None)

@pytest.mark.skipif(not REAL_TEXT, reason='TEXTDIFFUSION_DATA names no folder with control_targets')
def test_the_released_files_are_what_is_said_of_them():
    found = {task: read_targets(target_file(task), task) for task in FILES}
    assert [len(found[task]) for task in ('content', 'tags', 'spans')] == [79, 200, 200]
    for (words, tags), (again, _) in zip(found['tags'], found['spans']):
        assert words == again and len(words) == len(tags)
    assert sum(slot == 'name' for slot, _ in found['content']) == 34
    assert len({span for _, span in found['spans']}) == 159                              # 160 with the line break
    assert {tag for _, tags in found['tags'] for tag in tags} <= set(UPOS)

@pytest.mark.skipif(not REAL_TEXT, reason='TEXTDIFFUSION_DATA names no folder with control_targets')
def test_the_tagger_agrees_with_the_released_tags():
    pytest.importorskip('spacy', reason="the extra 'pos' is not installed")
    words, tags = zip(*read_targets(target_file('tags'), 'tags'))
    assert .94 < agreement(load_tagger()(words), tags) < .95

def test_values_stand_in_a_text_whole():
    assert says('Near the Mill .'.split(), 'The Mill') == 1
    assert not says('the Mills'.split(), 'The Mill') and not says([], 'a')
    spelt = dict(near={'Café Rouge': 'Café Rouge', 'The Mill': 'The Mill'})
    w = content_wishes([('near', 'The Mill')], spelt)
    for text, met, once in [('at the mill', 1, 1), ('the mill the mill', 1, 0), ('the mill café rouge', 1, 0),
                            ('a', 0, 0)]:
        assert (w.success(w.targets[0], text.split()), w.strict(w.targets[0], text.split())) == (met, once)
    with pytest.raises(ValueError, match='no training table says near: Mars; choose from Café Rouge'):
        content_wishes([('near', 'Mars')], spelt)

def test_a_text_without_an_end_has_no_length_and_not_all_tags(job):
    plain = job[0].corpus.plain
    w = length_wishes([2], plain)
    tags = tag_wishes([['DET', 'NOUN']], plain, lambda texts: [['DET', 'NOUN'][:len(t)] for t in texts])
    assert w.success(w.targets[0], ['a', 'b']) == 1 and w.success(w.targets[0], ['a', '']) == 0
    assert tags.success(tags.targets[0], ['a', 'b', '']) == 1 and tags.strict(tags.targets[0], ['a', 'b', '']) == 0
    assert tags.success(tags.targets[0], []) == 0
    with pytest.raises(ValueError, match='needs'): length_wishes([plain.seq_len - 1], plain)

def test_a_gap_keeps_what_stands_around_it(job):
    job, kinds, labels = job
    plain, w = job.corpus.plain, job.wishes['infilling']
    torch.manual_seed(0)
    model = RECIPES['continuous'].model(plain, d_model=32, n_layers=1, n_heads=1)
    reader = trained_reader(model, plain, kinds, labels, NOISE, 16, 2, 8, 0).ema
    rows, _ = vector_rows(job, model, reader, 0)
    passes = {(r['task'], r['way']): r['passes'] for r in rows}
    assert passes['content', 'as released'] == 3 + 3*2 == passes['length', 'by the reader']   # one draw is guided
    assert passes['length', 'as released'] == 3 + 3*4 and passes['infilling', 'as released'] == 3
    for arm in ('masked', 'autoregressive'):
        torch.manual_seed(0)
        rows, texts = token_rows(job, arm, RECIPES[arm].model(job.corpus, d_model=32, n_layers=1, n_heads=1), 0)
        assert all(r['success'] == 1 for r in rows if r['task'] == 'infilling' or r['way'] == 'canvas')
        said = texts['canvas, infilling' if arm == 'masked' else 'left only, infilling'][0].split()
        assert all(a in (None, b) for a, b in zip(w.targets[0].asked[0], said))

def test_people_fit_their_own_gaps_and_drafts_cost_what_guidance_does(job):
    job = job[0]
    people = {r['task']: r for r in people_rows(job, 0)}
    assert people['infilling']['strict'] == people['infilling']['usual'] == 1 and 0 < people['content']['success'] < 1
    rows = draft_rows(job, job.corpus.plain.test[:6], 7., 0)
    free, best = (next(r for r in rows if r['way'] == way and r['task'] == 'length')
                  for way in ('unguided', 'best of drafts'))
    assert best['passes'] == 3*7. and best['success'] >= 0 and free['passes'] == 7.
    w = job.wishes['length']
    drafts = [['a']*t.asked for t in w.targets]
    assert all(len(drafts[i]) == t.asked for i, t in zip(best_of(w, drafts, len(drafts), 0), w.targets))

def test_presets_grow_and_beliefs_are_few():
    size = {k: p['seeds']*p['steps']*p['targets'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu'] and len(BELIEFS) <= 5

@pytest.mark.parametrize('name, value', [('targets', '0'), ('calls', '0'), ('arms', 'spoken')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name], 'run', '08e_e2e_control', '-p', name, value)
