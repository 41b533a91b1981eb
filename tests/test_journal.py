"""Settling parameters, runs, records, publishing, pins and drift, without a kernel."""
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from textdiffusion import journal
from textdiffusion.journal import Run, as_list, drift, find_entry, hold, pin, pinned, plain, publish, record, records, settle, to_json

PRESETS = dict(
    smoke=dict(corpus='restaurants', seeds=1, steps=10, lam=.1, lr=1e-3, arms=['baseline'], schedule='sqrt', clamp=True, widths=[8], note='', on={}),
    cpu=dict(corpus='restaurants', seeds=1, steps=1000, lam=.1, lr=1e-3, arms=['baseline', 'best'], schedule='sqrt', clamp=True, widths=[8, 16], note='',
             on={'e2e': dict(steps=600)}))
CORPUS = SimpleNamespace(name='restaurants', fingerprint='f1e2', info=dict(source='oracle', V=82))

@pytest.fixture
def root(tmp_path):
    "A checkout with one toy entry"
    (tmp_path/'nbs').mkdir()
    (tmp_path/'toylib').mkdir()
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = textdiffusion\nlib_path = toylib\n')
    cells = [dict(cell_type='markdown', id='a', metadata={}, source='# A toy\n> Is it so?\n- date: 2026-11-21')]
    (tmp_path/'nbs'/'01_toy.ipynb').write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return tmp_path

def make(run=Run(), cfg=None, **changes):
    "A toy record"
    cfg = cfg or settle(PRESETS, preset='cpu')
    return record(run, **dict(entry='01_toy', question='Is it | so?', cfg=cfg, corpus=CORPUS, rows=[dict(arm='best', seed=0, valid=1/3)], samples=['a b'],
        steps_planned=10, steps_done=10, weights={}, prediction='yes', verdict='It is.', headline=dict(name='valid', value=1/3)) | changes)

def a_run(root, text='done', cfg=None, injected='preset = "cpu"', **changes):
    "A folder as a run that ended well leaves it"
    folder = root/'.runs'/'one'
    folder.mkdir(parents=True, exist_ok=True)
    make(Run(folder), cfg, **changes)
    outputs = [dict(output_type='stream', name='stdout', text=text), dict(output_type='stream', name='stderr', text='a warning'),
               dict(output_type='display_data', metadata={}, data={'text/html': [f'<b>{text}</b>'], 'image/png': 'AAAA'})]
    cells = [dict(cell_type='code', id='random', metadata=dict(tags=['injected-parameters'], papermill={}), source=injected, outputs=[], execution_count=1),
             dict(cell_type='code', id='mine', metadata=dict(papermill=dict(duration=1.)), source='print(1)', outputs=outputs, execution_count=2)]
    nb = dict(cells=cells, metadata=dict(papermill=dict(output_path=str(folder)), kernelspec=dict(name='python3')), nbformat=4, nbformat_minor=5)
    (folder/'partial.ipynb').write_text(json.dumps(nb))
    return folder

# parameters -----------------------------------------------------------------------------------------------------------

def test_the_given_goes_before_the_corpus_and_that_before_the_preset():
    assert settle(PRESETS, preset='cpu', steps=None, corpus='').steps == 1000
    assert settle(PRESETS, preset='cpu', corpus='e2e').steps == 600
    assert settle(PRESETS, preset='cpu', corpus='e2e', steps=7).steps == 7
    assert settle(PRESETS, preset='cpu', seq_len=None, data_dir='').seq_len is None

def test_settling_changes_no_preset():
    before = json.dumps(PRESETS)
    settle(PRESETS, preset='cpu', corpus='e2e', arms='best')
    assert json.dumps(PRESETS) == before

def test_auto_is_smoke_in_tests(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    assert settle(PRESETS).preset == 'smoke'

@pytest.mark.parametrize('given, words', [
    (dict(preset='tiny'), ['preset', 'tiny', 'smoke', 'cpu']), (dict(preset='gpu'), ['preset', 'cpu']), (dict(preset=3), ['preset']),
    (dict(corpus='resturants'), ['corpus', 'did you mean restaurants', 'e2e']), (dict(schedule='cubic'), ['schedule', 'cosine']),
    (dict(steps=0), ['steps', 'positive whole number', '0']), (dict(steps=-1), ['steps']), (dict(steps=2.5), ['steps']), (dict(steps='abc'), ['steps', 'abc']),
    (dict(seeds='[0,1]'), ['seeds']), (dict(seeds=True), ['seeds']), (dict(batch_size=0), ['batch_size']), (dict(samples=0), ['samples']),
    (dict(lam=-.1), ['lam', '-0.1']), (dict(lam=math.nan), ['lam']), (dict(lam='x'), ['lam']), (dict(lr=0), ['lr', 'above 0']), (dict(lr=math.inf), ['lr']),
    (dict(arms='bets'), ['arms', 'bets', 'baseline', 'best']), (dict(arms='best,best'), ['arms', 'twice']), (dict(arms=3), ['arms']),
    (dict(widths='8,many'), ['widths', 'many']), (dict(clamp='yes'), ['clamp', 'bool']), (dict(data_dir='/no/such/folder'), ['data_dir', 'folder']),
    (dict(base_model='./no/such'), ['base_model', 'config.json']),
], ids=str)
def test_a_wrong_value_is_one_clear_sentence(given, words):
    with pytest.raises(ValueError) as e: settle(PRESETS, **dict(preset='cpu') | given)
    assert all(w in str(e.value) for w in words) and '\n' not in str(e.value), str(e.value)

def test_an_entry_states_what_it_knows():
    assert settle(PRESETS, preset='cpu', arms='third', choices={'arms': ['best', 'third']}).arms == ['third']
    with pytest.raises(ValueError, match='note'): settle(PRESETS, preset='cpu', note='loud', choices={'note': ['quiet']})

@pytest.mark.parametrize('value', ['a,b', ' a , b ', '[a, b]', "['a', 'b']", '["a","b"]', ['a', 'b'], ('a', 'b')], ids=str)
def test_lists_as_papermill_passes_them(value): assert as_list('arms', value, ['x']) == ['a', 'b']

def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'data').mkdir()
    assert settle(PRESETS, preset='cpu', data_dir='data').data_dir == str((tmp_path/'data').resolve())

@pytest.mark.parametrize('name', ['01_toy', '01', '1', 'toy', '01_toy.ipynb', 'nbs/01_toy.ipynb'])
def test_names_of_an_entry(root, name): assert find_entry(name, root).name == '01_toy'

def test_the_checkout_is_found_from_anywhere(root, monkeypatch):
    for folder in (root, root/'nbs', root/'toylib'):
        monkeypatch.chdir(folder)
        assert journal.find_root() == root
    monkeypatch.chdir('/')
    assert journal.find_root() == journal.Path(journal.__file__).resolve().parents[1]

# runs -----------------------------------------------------------------------------------------------------------------

def test_a_piece_is_computed_once_and_comes_back_exactly(tmp_path):
    calls = []
    def piece(): calls.append(1); return dict(x=torch.tensor(.1, dtype=torch.float64).exp(), y=(1, 2), z={3: None})
    first, second = Run(tmp_path).cached('a-0', piece), Run(tmp_path).cached('a-0', piece)
    assert first == second == dict(x=math.exp(.1), y=[1, 2], z={'3': None}) and len(calls) == 1

def test_a_piece_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError): Run(tmp_path).cached('a', lambda: 1/0)
    with pytest.raises(ValueError, match='a.loss is nan'): Run(tmp_path).cached('a', lambda: dict(loss=math.nan))
    assert Run(tmp_path).cached('a', lambda: 3) == 3

def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv('TEXTDIFFUSION_RUN', raising=False)
    monkeypatch.chdir(tmp_path)
    run = journal.current_run()
    assert run.folder is None and run.folder_of('a') is None and run.cached('a', lambda: 1) == 1 and make(run)
    assert not list(tmp_path.iterdir())

def test_the_lock_holds_between_processes_and_ends_with_them(tmp_path):
    code = f'from pathlib import Path; from textdiffusion.journal import hold; f = hold(Path({str(tmp_path/"lock")!r})); print("held", flush=True); input()'
    other = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match='another process'): hold(tmp_path/'lock')
    other.kill()
    other.wait()
    hold(tmp_path/'lock', wait=2).close()

def test_the_key_stands_for_the_work_and_not_for_its_place(root, tmp_path_factory):
    entry, here, there = find_entry('1', root), tmp_path_factory.mktemp('here'), tmp_path_factory.mktemp('there')
    for folder in (here, there): (folder/'config.json').write_text('{}')
    key = lambda corpus=CORPUS, **given: journal.run_key(entry, settle(PRESETS, preset='cpu', **given), corpus, root)
    assert key() == key(data_dir=str(here)) == key(data_dir=str(there)) == key(steps=1000, base_model='')
    assert key(base_model=str(here)) == key(base_model=str(there)) != key()
    assert len({key(), key(steps=5), key(base_model='a/b'), key(base_model='a/c'), key(SimpleNamespace(fingerprint='0'))}) == 5
    before = key()
    (root/'toylib'/'more.py').write_text('x = 1')
    assert key() != before

# records and pages ----------------------------------------------------------------------------------------------------

def test_a_record_holds_what_is_needed_to_judge_it(tmp_path):
    rec = make(Run(tmp_path), settle(PRESETS, preset='cpu', data_dir=str(tmp_path)), curves=[1.5])
    assert rec == json.loads((tmp_path/'record.json').read_text())
    assert {'parameters', 'seeds', 'rows', 'samples', 'commit', 'versions', 'device', 'threads', 'seconds', 'attempts', 'corpus_fingerprint', 'corpus_info',
            'weights', 'steps_planned', 'steps_done', 'date', 'question', 'prediction', 'verdict', 'headline', 'preset', 'corpus', 'curves'} <= set(rec)
    assert {'python', 'torch', 'transformers', 'textdiffusion'} <= set(rec['versions']) and 'data_dir' not in rec['parameters']
    assert str(tmp_path) not in (tmp_path/'record.json').read_text()

def test_a_record_is_strict_json(tmp_path):
    with pytest.raises(ValueError, match=r'record\.rows\[0\]\.loss is nan'): make(Run(tmp_path), rows=[dict(loss=math.nan)])
    with pytest.raises(ValueError, match='record.samples is a set'): make(samples={1})
    assert not (tmp_path/'record.json').exists()
    assert json.loads(to_json(.1 + .2)) == .1 + .2 and plain(torch.ones(2)) == [1., 1.]

def test_the_question_comes_from_the_title_cell(root, monkeypatch):
    monkeypatch.chdir(root/'nbs')
    rec = record(Run(), entry='01_toy', cfg=settle(PRESETS, preset='cpu'), corpus=CORPUS, rows=[], samples=[], steps_planned=1, steps_done=1, weights={},
                 prediction='', verdict='', headline=dict(name='', value=None))
    assert rec['question'] == 'Is it so?'

def test_the_commit_says_when_the_source_differs(root):
    def git(*args): subprocess.run(['git', '-C', root, '-c', 'user.name=a', '-c', 'user.email=a@example.invalid', *args], check=True, capture_output=True)
    assert journal.commit(root) is None
    git('init')
    assert journal.commit(root) is None                           # nothing committed yet
    git('add', '-A'), git('commit', '-m', 'one')
    assert len(journal.commit(root)) == 40
    publish(a_run(root), root)
    assert len(journal.commit(root)) == 40                        # a new record is no change of the source
    (root/'toylib'/'more.py').write_text('x = 1')
    assert journal.commit(root).endswith('-dirty')
    assert journal.commit(root/'nbs') is None                     # inside a repository, but not its top

def test_publishing_never_overwrites(root):
    pages = [publish(a_run(root), root) for _ in range(12)]
    assert len(set(pages)) == 12 and pages[11].stem == pages[0].stem + '-12' and all(p.with_suffix('.json').exists() for p in pages)
    assert pages[0].stem.startswith(f'{journal.date.today()}-cpu-restaurants-')
    pages[0].unlink()                                             # a record alone keeps the name for itself
    assert publish(a_run(root), root).stem.endswith('-13') and len(records(root)) == 13
    assert (root/'journal'/'README.md').read_text().count('Is it \\| so?') == 13

def test_other_parameters_have_another_name(root):
    one, two = publish(a_run(root), root), publish(a_run(root, cfg=settle(PRESETS, preset='cpu', steps=5)), root)
    assert one.stem != two.stem and '-2' not in two.stem[-3:]

def test_a_page_says_nothing_about_the_machine(root, monkeypatch, tmp_path_factory):
    data, home, cache = (tmp_path_factory.mktemp(n) for n in ('data', 'home', 'cache'))
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(cache))
    monkeypatch.setenv('HOME', str(home))
    said = f'{data}/e2e {data} "{cache}/x" {root}/nbs {root} file://{home}/y {home}'
    folder = a_run(root, said, injected=f"data_dir = '{data}'\nbase_model = \"{data}\"\nsteps = 5", samples=[said])
    page = publish(folder, root, (str(data),))
    nb, text = json.loads(page.read_text()), page.read_text() + page.with_suffix('.json').read_text() + (root/'journal'/'README.md').read_text()
    for path in (data, home, cache, root): assert str(path) not in text
    assert nb['cells'][0]['source'].startswith("data_dir = ''\n") and nb['cells'][0]['source'].endswith('steps = 5')
    assert nb['cells'][1]['id'] == 'mine' and nb['cells'][1]['metadata'] == {} and 'papermill' not in nb['metadata']
    assert [o.get('name') for o in nb['cells'][1]['outputs']] == ['stdout', None] and nb['cells'][1]['outputs'][1]['data']['image/png'] == 'AAAA'

def test_publishing_the_same_run_gives_the_same_page(root):
    assert publish(a_run(root), root).read_text() == publish(a_run(root), root).read_text()

def test_a_broken_record_is_named(root):
    page = publish(a_run(root), root)
    page.with_suffix('.json').write_text('<<<<<<< ours')
    with pytest.raises(ValueError, match=page.stem): records(root)

# pins and drift -------------------------------------------------------------------------------------------------------

def test_the_first_pin_is_the_headline_until_another_is(root):
    cpu = publish(a_run(root), root)
    smoke = publish(a_run(root, cfg=settle(PRESETS, preset='smoke')), root)
    assert pinned('01_toy', root=root) is None
    pin(cpu.stem, root=root), pin(smoke.relative_to(root), root=root)
    assert pinned('01_toy', root=root)['preset'] == 'cpu' and pinned('01_toy', 'smoke', 'restaurants', root)['preset'] == 'smoke'
    pin(f'01_toy/{smoke.stem}', headline=True, root=root)
    assert pinned('01_toy', root=root)['preset'] == 'smoke' and pinned('01_toy', 'cpu', 'restaurants', root)['name'] == f'01_toy/{cpu.stem}'
    assert [line.split('|')[-2].strip() for line in journal.log(root).splitlines()[-2:]] == ['pinned', 'headline']
    again = publish(a_run(root), root)
    pin(again, root=root)
    assert pinned('01_toy', 'cpu', 'restaurants', root)['name'].endswith('-2') and len(records(root)) == 3
    with pytest.raises(ValueError, match='choose from 01_toy/'): pin('nothing', root=root)

def test_drift(root):
    old = make(rows=[dict(arm='a', seed=0, valid=.5, nll=None), dict(arm='b', seed=0, valid=.5, nll=3.)])
    new = make(rows=[dict(arm='a', seed=0, valid=.53, nll=None), dict(arm='c', seed=0, valid=.5, nll=3.)])
    assert drift(old, old, dict(valid=0, nll=0)) == []
    assert [d.get('measure', d.get('why')) for d in drift(new, old, dict(valid=.02, nll=.1))] == ['only in the new record', 'only in the pinned record', 'valid']
    assert drift(dict(new, rows=old['rows']), old, dict(valid=.02)) == []
    for other in (dict(corpus='e2e'), dict(preset='long'), dict(corpus_fingerprint='0'), dict(parameters={})):
        (why,) = drift(dict(new, **other), old, dict(valid=.02))
        assert 'not comparable' in why['why'] and next(iter(other)) in why['why']
    assert 'nothing is pinned' in drift(new, None, {})[0]['why']

def test_the_module_imports_without_torch():
    code = 'import sys, textdiffusion.journal; sys.exit("torch" in sys.modules or "papermill" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], env=dict(os.environ)).returncode == 0
