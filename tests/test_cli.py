"""The command line with a toy entry in a checkout of its own: publishing, refusals, failures, a kill, plain papermill."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from textdiffusion import corpora
from textdiffusion.journal import main

BIN = Path(sys.executable).parent
MODULE = '''
PRESETS = {p: dict(corpus='restaurants', seeds=1, steps=10, lam=.1, arms=['baseline', 'best'], schedule='sqrt') for p in ('smoke', 'cpu', 'long', 'gpu')}
ARMS = {'baseline': 1, 'best': 2, 'other': 3}
'''
TITLE = '# A toy\n> Does it run?\n- date: 2026-11-21'
PARAMETERS = "preset = 'auto'\ncorpus = ''\nseeds = None\nsteps = None\nlam = None\narms = ''\nschedule = ''\ndata_dir = ''"
SETTLE = '''
import os, sys, time, warnings
from types import SimpleNamespace
from toylib.toy import ARMS, PRESETS
from textdiffusion.journal import attempts, current_run, opening, record, settle
cfg = settle(PRESETS, choices={'arms': ARMS}, preset=preset, corpus=corpus, seeds=seeds, steps=steps, lam=lam, arms=arms, schedule=schedule, data_dir=data_dir)
data = SimpleNamespace(name=cfg.corpus, fingerprint='f1e2', info=dict(source='oracle'))
run = current_run()
opening(cfg, data, 10, 1)'''
WORK = '''
print('data in', cfg.data_dir, 'notebook in', os.getcwd())
print('a', 'warning', file=sys.stderr)
one = run.cached('one', lambda: dict(pid=os.getpid(), loss=1/3))
folder = run.folder_of('two')
if os.environ.get('TOY') == 'sleep' and attempts(run) == 1: time.sleep(600)
if os.environ.get('TOY') == 'die': os._exit(1)
if os.environ.get('TOY') == 'raise': raise RuntimeError('out of luck')
two = run.cached('two', lambda: dict(pid=os.getpid(), loss=2/3))'''
RECORD = '''
made = record(run, entry='01_toy', cfg=cfg, corpus=data, rows=[dict(arm='best', seed=0, loss=two['loss'])], samples=[cfg.data_dir], steps_planned=10,
              steps_done=10, weights={'one': 'a1'}, prediction='Yes.', verdict='It does.', headline=dict(name='loss', value=two['loss']), pids=[one['pid'], two['pid']])'''

@pytest.fixture
def root(tmp_path, monkeypatch):
    "A checkout with one toy entry, and a corpus that loads at once"
    root = tmp_path/'toy'
    for folder in ('nbs', 'toylib'): (root/folder).mkdir(parents=True)
    (root/'settings.ini').write_text('[DEFAULT]\nlib_name = textdiffusion\nlib_path = toylib\n')
    (root/'toylib/toy.py').write_text(MODULE)
    code = lambda i, source, *tags: dict(cell_type='code', id=i, source=source, outputs=[], execution_count=None, metadata=dict(tags=list(tags)) if tags else {})
    cells = [dict(cell_type='markdown', id='title', metadata={}, source=TITLE), code('knobs', PARAMETERS, 'parameters'),
             code('settle', SETTLE.strip()), code('work', WORK.strip()), code('record', RECORD.strip())]
    kernelspec = dict(name='python3', display_name='python3', language='python')
    (root/'nbs/01_toy.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernelspec), nbformat=4, nbformat_minor=5)))
    monkeypatch.setattr(corpora, 'load_corpus', lambda name, **_: SimpleNamespace(name=name, fingerprint='f1e2'))
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for name in ('IN_TEST', 'TOY', 'TEXTDIFFUSION_RUN', 'TEXTDIFFUSION_DATA'): monkeypatch.delenv(name, raising=False)
    yield root
    for name in ('toylib', 'toylib.toy'): sys.modules.pop(name, None)

def tree(root): return {p.relative_to(root).as_posix() for p in root.rglob('*') if '__pycache__' not in p.parts}

def published(root): return sorted((root/'journal/01_toy').glob('*.json'), key=lambda p: (len(p.stem), p.stem))

RUN = ['run', '1', '--preset', 'cpu']

# a run that ends well -------------------------------------------------------------------------------------------------

def test_run_publishes_page_and_record_and_never_overwrites(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root/'nbs')
    (tmp_path/'my data').mkdir()
    command = ['run', '01_toy', '--preset', 'cpu', '--data-dir', '../../my data', '-p', 'lam', '1', '-p', 'arms', 'other,best']
    assert main(command) == 0
    said = capsys.readouterr().out
    assert 'preset cpu · corpus restaurants (source: oracle)' in said and 'Published journal/01_toy/' in said
    (first,) = published(root)
    before = first.read_bytes() + first.with_suffix('.ipynb').read_bytes()
    assert main(command) == 0 and first.read_bytes() + first.with_suffix('.ipynb').read_bytes() == before
    assert [p.stem for p in published(root)] == [first.stem, first.stem + '-2']

    rec, nb, text = json.loads(first.read_text()), json.loads(first.with_suffix('.ipynb').read_text()), before.decode()
    assert rec['parameters'] == dict(preset='cpu', corpus='restaurants', seeds=1, steps=10, lam=1., arms=['other', 'best'], schedule='sqrt')
    assert rec['attempts'] == 1 and rec['question'] == 'Does it run?' and rec['rows'][0]['loss'] == 2/3
    assert str(root) not in text and str(tmp_path) not in text and 'a warning' not in text
    assert [c['id'] for c in nb['cells']] == ['title', 'knobs', 'injected-parameters', 'settle', 'work', 'record']
    assert 'data in (folder) notebook in ./nbs' in str(nb['cells'][4]['outputs'])

    folders = sorted((root/'.runs').iterdir())
    assert len(folders) == 2 and {p.name for p in folders[0].iterdir()} == {'lock', 'kernel.lock', 'attempts.txt', 'log.txt', 'record.json', 'finished.txt'}
    assert 'a warning' in (folders[0]/'log.txt').read_text()

    assert main(['list']) == main(['log']) == main(['pin', first.stem]) == 0
    said = capsys.readouterr().out
    assert '(records: 2)' in said and 'It does. | loss: 0.6667 |' in said and f'Pinned 01_toy/{first.stem}' in said

def test_a_smoke_run_is_not_published(root, capsys):
    assert main(['run', 'toy', '--preset', 'smoke'], root) == 0 and 'not published' in capsys.readouterr().out
    assert not (root/'journal').exists() and len(list(root.glob('.runs/*/page.ipynb'))) == 1

# refusals -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('args, words', [
    ('run 1 -p lamda 0.1', "'lamda' lam preset corpus data_dir"), ('run 1 --preset tiny', 'preset tiny smoke cpu long gpu'), ('run 1 --corpus wiki', 'corpus wiki e2e'),
    ('run 1 -p schedule cubic', 'schedule cubic cosine'), ('run 1 -p arms bets', 'arms bets baseline best other'), ('run 1 -p lam -0.1', 'lam -0.1'),
    ('run 1 -p steps 0', 'steps positive'), ('run 1 -p seeds [0,1]', 'seeds [0,1]'), ('run 1 --data-dir nowhere', 'data_dir nowhere'),
    ('run 2', "entry '2' 01_toy"), ('pin nothing', 'record nothing'),
])
def test_what_is_refused_leaves_one_sentence_and_nothing_else(root, capsys, args, words):
    before = tree(root)
    assert main(args.split(), root) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.count('\n') == 1 and all(w in said.err for w in words.split()), said.err
    assert tree(root) == before

@pytest.mark.parametrize('args, words, limit', [
    (['--corpus', 'wiki'], ['wiki', 'restaurants-large'], 10), (['--corpus', 'e2e', '--data-dir', '.'], ['trainset.csv'], 20)])
def test_the_installed_command_refuses_in_time(root, args, words, limit):
    before, start = tree(root), time.monotonic()
    done = subprocess.run([BIN/'textdiffusion', 'run', '01_toy', '--preset', 'cpu', *args], cwd=root, capture_output=True, text=True)
    assert time.monotonic() - start < limit and done.returncode == 2 and done.stdout == ''
    assert done.stderr.count('\n') == 1 and all(w in done.stderr for w in words), done.stderr
    assert tree(root) == before

def test_bad_usage_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as e: main(['run'])
    assert e.value.code == 2 and capsys.readouterr().err.count('\n') == 1

# runs that stop -------------------------------------------------------------------------------------------------------

def test_a_failing_cell_keeps_what_there_is_and_the_same_command_goes_on(root, monkeypatch, capsys):
    monkeypatch.setenv('TOY', 'raise')
    assert main(RUN, root) == 1
    said = capsys.readouterr().err
    (folder,) = (root/'.runs').iterdir()
    assert said.splitlines()[0] == 'a warning' and len(said.splitlines()) == 2          # what the cell wrote, and one sentence
    assert 'RuntimeError: out of luck' in said and f'.runs/{folder.name}/partial.ipynb' in said
    assert 'out of luck' in (folder/'partial.ipynb').read_text() and not (root/'journal').exists()
    monkeypatch.delenv('TOY')
    assert main(RUN, root) == 0
    (path,) = published(root)
    pids = json.loads(path.read_text())['pids']
    assert pids[0] != pids[1] and json.loads(path.read_text())['attempts'] == 2        # the first piece is from the first attempt

def test_a_kernel_that_dies_is_a_run_that_stopped(root, monkeypatch, capsys):
    monkeypatch.setenv('TOY', 'die')
    assert main(RUN, root) == 1 and 'Kernel died' in capsys.readouterr().err
    assert len(list(root.glob('.runs/*/partial.ipynb'))) == 1

def test_kill_and_resume(root, capsys):
    "kill -9 in the middle; while it runs a second command is refused, afterwards the same command goes on"
    code = ('from types import SimpleNamespace as S; from textdiffusion import corpora, journal; corpora.load_corpus = lambda name, **_: S(name=name, fingerprint="f1e2"); '
            f'journal.main({RUN!r})')
    p = subprocess.Popen([sys.executable, '-c', code], cwd=root, env=dict(os.environ, TOY='sleep'), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(root.glob('.runs/*/checkpoints/two')):
        assert p.poll() is None and time.monotonic() < end
        time.sleep(.1)
    assert main(RUN, root) == 2 and 'another process is working' in capsys.readouterr().err
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    assert len(list(root.glob('.runs/*/cached/one.json'))) == 1 and len(list(root.glob('.runs/*/partial.ipynb'))) == 1 and not (root/'journal').exists()
    assert main(RUN, root) == 0 and 'earlier attempt' in capsys.readouterr().out
    (path,) = published(root)
    rec = json.loads(path.read_text())
    assert rec['attempts'] == 2 and rec['pids'][0] != rec['pids'][1] and len(list((root/'.runs').iterdir())) == 1

def test_a_run_without_a_record_is_not_published(root, capsys):
    nb = json.loads((root/'nbs/01_toy.ipynb').read_text())
    (root/'nbs/01_toy.ipynb').write_text(json.dumps(nb | dict(cells=nb['cells'][:3])))
    assert main(RUN, root) == 1 and 'record' in capsys.readouterr().err and not (root/'journal').exists()

# plain papermill ------------------------------------------------------------------------------------------------------

def test_plain_papermill_writes_its_output_and_nothing_else(root, tmp_path):
    before, env = tree(root), dict(os.environ, PYTHONPATH=str(root))
    done = subprocess.run([BIN/'papermill', 'nbs/01_toy.ipynb', tmp_path/'out.ipynb', '-p', 'preset', 'cpu', '--no-progress-bar'], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tree(root) == before and 'preset cpu' in (tmp_path/'out.ipynb').read_text()

def test_plain_papermill_fails_at_the_cell_that_settles(root, tmp_path):
    env = dict(os.environ, PYTHONPATH=str(root))
    done = subprocess.run([BIN/'papermill', 'nbs/01_toy.ipynb', tmp_path/'out.ipynb', '-p', 'steps', '0', '--no-progress-bar'], cwd=root, env=env, capture_output=True, text=True)
    nb = json.loads((tmp_path/'out.ipynb').read_text())
    (failed,) = [c for c in nb['cells'] if any(o['output_type'] == 'error' for o in c.get('outputs', []))]
    assert done.returncode == 1 and failed['id'] == 'settle' and 'steps must be a positive whole number' in done.stderr

def test_a_module_of_another_checkout_is_refused(root, tmp_path, capsys):
    assert main([*RUN, '-p', 'arms', 'bets'], root) == 2            # imports toylib from here
    other = shutil.copytree(root, tmp_path/'other')
    before = tree(other)
    assert main(RUN, other) == 2 and 'another checkout' in capsys.readouterr().err and tree(other) == before
