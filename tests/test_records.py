"""Runs, records, pins and drift, without a kernel."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from textdiffusion import checkout
from textdiffusion.checkout import find_entry, hold
from textdiffusion.presets import settle
from textdiffusion.comparing import drift
from textdiffusion.records import (SCHEMA, Run, begin, commit_of, find_record, headline, pinned, plain,
                                   read_record, records, run_key,
                                   to_json)
from textdiffusion.runs import publish

PRESETS = dict(cpu=dict(corpus='restaurants', seeds=1, steps=1000, lam=.1, arms=['baseline', 'best']))
CORPUS = SimpleNamespace(name='restaurants', fingerprint='f1e2', info=dict(source='oracle', V=82))
TITLE = dict(cell_type='markdown', id='a', metadata={}, source='# A toy\n> Is it | so?\n- date: 2026-11-21')

@pytest.fixture
def root(tmp_path):
    "A checkout with one toy entry"
    for folder in ('nbs', 'toylib', 'journal/01_toy'): (tmp_path/folder).mkdir(parents=True)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = textdiffusion\nlib_path = toylib\n')
    (tmp_path/'nbs'/'01_toy.ipynb').write_text(json.dumps(dict(cells=[TITLE], metadata={}, nbformat=4,
                                                               nbformat_minor=5)))
    return tmp_path

def a_run(folder=None, **given):
    "A run on a corpus that needs no loading"
    run = Run(folder, '01_toy', settle(PRESETS, preset='cpu', **given))
    run.__dict__['corpus'] = CORPUS
    return run

def experiment(run, **changes):
    "What a toy finds"
    return dict(rows=[dict(arm='best', seed=0, valid=1/3)], samples=['a b'], steps_done=10, weights={},
                headline=dict(name='valid', value=1/3)) | changes

def lay(root, name, text=None, **changes):
    "A record in the journal"
    rec = dict(a_run().record(experiment), **changes)
    (root/f'journal/01_toy/{name}.json').write_text(to_json(rec) if text is None else text)

NAMES = ['01_toy', '01', '1', 'toy', '01_toy.ipynb', 'nbs/01_toy.ipynb']

@pytest.mark.parametrize('name', NAMES)
def test_names_of_an_entry(root, name): assert find_entry(name, root).name == '01_toy'

def test_the_checkout_is_found_from_anywhere(root, monkeypatch):
    for folder in (root, root/'nbs', root/'toylib'):
        monkeypatch.chdir(folder)
        assert checkout.find_root() == root
    monkeypatch.chdir('/')
    assert checkout.find_root() == Path(checkout.__file__).resolve().parents[1]

# runs -----------------------------------------------------------------------------------------------------------------

def test_a_piece_is_computed_once_and_comes_back_exactly(tmp_path):
    calls = []
    def piece():
        calls.append(1)
        return dict(x=torch.tensor(.1, dtype=torch.float64).exp(), y=(1, 2), z={3: None})
    first, second = (Run(folder=tmp_path).cached('a-0', piece) for _ in range(2))
    assert first == second == dict(x=math.exp(.1), y=[1, 2], z={'3': None}) and len(calls) == 1

def test_a_piece_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError): Run(folder=tmp_path).cached('a', lambda: 1/0)
    with pytest.raises(ValueError, match='a.loss is nan'): Run(folder=tmp_path).cached('a', lambda: dict(loss=math.nan))
    assert Run(folder=tmp_path).cached('a', lambda: 3) == 3

def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv('TEXTDIFFUSION_RUN', raising=False)
    monkeypatch.chdir(tmp_path)
    run = begin('01_toy', PRESETS, preset='cpu')
    assert run.folder is None and run.folder_of('a') is None and run.cached('a', lambda: 1) == 1
    assert a_run().record(experiment)
    assert not list(tmp_path.iterdir())

def test_the_lock_holds_between_processes_and_ends_with_them(tmp_path):
    code = (f'from pathlib import Path; from textdiffusion.checkout import hold; f = '
            f'hold(Path({str(tmp_path/"lock")!r})); '
            'print("held", flush=True); input()')
    other = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match='another process'): hold(tmp_path/'lock')
    other.kill()
    other.wait()
    hold(tmp_path/'lock', wait=2).close()

def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch):
    "Windows has no fcntl"
    monkeypatch.setitem(sys.modules, 'fcntl', None)
    with pytest.raises(ValueError, match='needs Linux, macOS or WSL'): hold(tmp_path/'lock')
    assert not list(tmp_path.iterdir())

def test_the_key_stands_for_the_work_and_not_for_its_place(root, tmp_path_factory):
    entry, here, there = find_entry('1', root), tmp_path_factory.mktemp('here'), tmp_path_factory.mktemp('there')
    for folder in (here, there):
        for file in ('config.json', 'model.safetensors'): (folder/file).write_text('{}')
    def key(corpus=CORPUS, **given): return run_key(entry, settle(PRESETS, preset='cpu', **given), corpus, root)
    assert key() == key(data_dir=str(here)) == key(data_dir=str(there)) == key(steps=1000, base_model='')
    assert key(base_model=str(here)) == key(base_model=str(there)) != key()
    others = key(steps=5), key(base_model='a/b'), key(base_model='a/c'), key(SimpleNamespace(fingerprint='0'))
    assert len({key(), *others}) == 5
    before = key()
    (root/'toylib'/'more.py').write_text('x = 1')
    assert key() != before

# records --------------------------------------------------------------------------------------------------------------

def test_a_record_holds_what_is_needed_to_judge_it(tmp_path):
    rec = a_run(tmp_path, data_dir=str(tmp_path)).record(lambda run: experiment(run, curves=[1.5]))
    assert rec == json.loads((tmp_path/'record.json').read_text())
    assert {'schema', 'parameters', 'seeds', 'rows', 'samples', 'commit', 'versions', 'device', 'threads', 'seconds',
            'attempts', 'date',
            'corpus_fingerprint', 'corpus_info', 'weights', 'steps_done', 'headline', 'preset', 'corpus',
            'curves'} <= set(rec)
    assert {'python', 'torch', 'transformers',
            'textdiffusion'} <= set(rec['versions']) and 'data_dir' not in rec['parameters']
    assert str(tmp_path) not in (tmp_path/'record.json').read_text() and rec['rows'][0]['valid'] == .3333

def test_a_record_is_strict_json(tmp_path):
    with pytest.raises(ValueError, match=r'record\.rows\[0\]\.loss is nan'):
        a_run(tmp_path).record(lambda run: experiment(run, rows=[dict(loss=math.nan)]))
    with pytest.raises(ValueError, match='record.samples is a set'):
        a_run().record(lambda run: experiment(run, samples={1}))
    assert not (tmp_path/'record.json').exists()
    empty = a_run().record(lambda run: experiment(run, headline=dict(name='valid', value=math.nan)))
    assert empty['headline'] == dict(name='valid', value=None)       # a mean of nothing: samples without a word
    assert json.loads(to_json(.1 + .2)) == .1 + .2 and plain(torch.ones(2)) == [1., 1.]

def test_a_page_that_is_rendered_trains_nothing(root, monkeypatch):
    lay(root, 'one', parameters=dict(preset='cpu', corpus='restaurants', steps=7, arms=['best']))
    monkeypatch.setenv('TEXTDIFFUSION_RECORD', str(root/'journal/01_toy/one.json'))
    run = begin('01_toy', PRESETS, preset='cpu', steps=3)
    assert run.cfg.steps == 7 and run.cfg.lam == .1 and run.record(lambda run: 1/0)['name'] == '01_toy/one'
    assert begin('02_other', PRESETS, preset='cpu', steps=3).cfg.steps == 3        # another entry than the page's

def test_the_commit_says_when_the_source_differs(root):
    def git(*args):
        subprocess.run(['git', '-C', root, '-c', 'user.name=a', '-c', 'user.email=a@example.invalid', *args],
                       check=True, capture_output=True)
    assert commit_of(root) is None
    git('init')
    assert commit_of(root) is None                           # nothing committed yet
    git('add', '-A'), git('commit', '-m', 'one')
    assert len(commit_of(root)) == 40
    lay(root, 'one')
    assert len(commit_of(root)) == 40                        # a new record is no change of the source
    (root/'toylib'/'more.py').write_text('x = 1')
    assert commit_of(root).endswith('-dirty')
    assert commit_of(root/'nbs') is None                     # inside a repository, but not its top

BROKEN = [('<<<<<<< ours', 'not a JSON file'), ('[]', 'lacks'), ('{"rows": []}', 'lacks entry'),
          ('', 'not a JSON file')]

@pytest.mark.parametrize('text, words', BROKEN, ids=[b[1] for b in BROKEN])
def test_a_broken_record_is_named(root, text, words):
    lay(root, 'broken', text)
    with pytest.raises(ValueError, match=words) as e: records(root)
    assert 'broken' in str(e.value) and '\n' not in str(e.value)

def test_a_record_of_a_later_schema_is_named(root):
    lay(root, 'later', schema=SCHEMA + 1)
    with pytest.raises(ValueError, match='later.json has schema'): records(root)
    lay(root, 'older', schema=1)
    assert read_record(root/'journal/01_toy/older.json')['schema'] == 1

def test_a_broken_record_of_another_entry_harms_nobody(root):
    lay(root, 'one')
    (root/'journal/02_other').mkdir()
    (root/'journal/02_other/x.json').write_text('{')
    (root/'journal/pinned.json').write_text(json.dumps({'01_toy': dict(headline='cpu restaurants',
                                                                       pins={'cpu restaurants': '01_toy/one'})}))
    found = find_record('one', root)
    assert headline('01_toy', root) == pinned('01_toy', 'cpu', 'restaurants', root) == found
    assert found == records(root, '01_toy')[0]

@pytest.mark.parametrize('pins', ['[]', '{"01_toy": {}}', '{"01_toy": 3}',
                                  '{"01_toy": {"headline": "x", "pins": {"x": "../../etc/passwd"}}}'])
def test_damaged_pins_are_one_sentence(root, pins):
    (root/'journal/pinned.json').write_text(pins)
    with pytest.raises(ValueError) as e: pinned('01_toy', root=root)
    assert '\n' not in str(e.value)

# drift ----------------------------------------------------------------------------------------------------------------

def test_drift():
    def make(*rows): return a_run().record(lambda run: experiment(run, rows=list(rows)))
    old = make(dict(arm='a', seed=0, valid=.5, nll=None), dict(arm='b', seed=0, valid=.5, nll=3.))
    new = make(dict(arm='a', seed=0, valid=.53, nll=None), dict(arm='c', seed=0, valid=.5, nll=3.))
    assert drift(old, old, dict(valid=0, nll=0)) == []
    found = [d.get('measure', d.get('why')) for d in drift(new, old, dict(valid=.02, nll=.1))]
    assert found == ['only in the new record', 'only in the pinned record', 'valid']
    assert drift(dict(new, rows=old['rows']), old, dict(valid=.02)) == []
    for other in (dict(corpus='e2e'), dict(preset='long'), dict(corpus_fingerprint='0'), dict(parameters={})):
        (why,) = drift(dict(new, **other), old, dict(valid=.02))
        assert 'not comparable' in why['why'] and next(iter(other)) in why['why']
    assert 'nothing is pinned' in drift(new, None, {})[0]['why']

# publishing -----------------------------------------------------------------------------------------------------------

def test_publishing_never_overwrites_and_is_taken_up_again(root):
    record = root/'record.json'
    record.write_text(to_json(a_run().record(experiment)))
    first = publish(record, root)
    assert publish(record, root) == first                          # as after a kill: its own record, byte for byte
    names = []
    for value in range(12):
        record.write_text(to_json(a_run().record(lambda run: experiment(run, samples=[value]))))
        names.append(publish(record, root).stem)
    assert len({first.stem, *names}) == 13 and names[-1].endswith('-13') and len(records(root)) == 13
    assert not [p for p in root.rglob('*.part')]

def test_a_full_disk_leaves_nothing_under_a_published_name(root, monkeypatch):
    record = root/'record.json'
    record.write_text(to_json(a_run().record(experiment)))
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'link', full)
    with pytest.raises(OSError, match='No space'): publish(record, root)
    assert not list((root/'journal/01_toy').iterdir())

def test_a_record_says_nothing_about_the_machine(root, monkeypatch, tmp_path_factory):
    data, home, cache = (tmp_path_factory.mktemp(n) for n in ('data', 'home', 'cache'))
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(cache))
    monkeypatch.setenv('HOME', str(home))
    said = f'{data}/e2e {data} "{cache}/x" {root}/nbs {root} file://{home}/y {home}'
    record = root/'record.json'
    record.write_text(to_json(a_run().record(lambda run: experiment(run, samples=[said]))))
    text = publish(record, root, (str(data),)).read_text()
    for path in (data, home, cache, root): assert str(path) not in text

def test_the_modules_import_without_torch():
    code = 'import sys, textdiffusion.command; sys.exit("torch" in sys.modules or "papermill" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], env=dict(os.environ)).returncode == 0
