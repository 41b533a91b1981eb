"""Entry 05 as a reader runs it: papermill, the command, bad input, a kill."""
import json
import os
import pty
import shutil
import signal
import subprocess
import time

import pytest
from helpers import (REAL_TEXT, ROOT, call, checkout_at, environment, failed_before_training, needs_real_text, outputs,
                     refused_at_once)

NB = 'nbs/05_anchor_loss.ipynb'
SMALL = ['-p', 'preset', 'smoke', '-p', 'arms', 'baseline']

def journal_files():
    "Everything in journal/ and in .runs/, with its time of change"
    return {p: p.stat().st_mtime_ns for d in ('journal', '.runs') for p in (ROOT/d).rglob('*')}

@pytest.fixture
def untouched():
    "Fails a test that changed journal/ or .runs/"
    before = journal_files()
    yield
    assert journal_files() == before

# papermill ------------------------------------------------------------------------------------------------------------

def test_papermill(tmp_path, untouched):
    done = call('papermill', '05_anchor_loss.ipynb', tmp_path/'out.ipynb', *SMALL, '--no-progress-bar', cwd=ROOT/'nbs')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'preset smoke · corpus restaurants (source: oracle)' in outputs(tmp_path/'out.ipynb')

def test_papermill_redirected_on_a_terminal(tmp_path, untouched):
    "`papermill nb > out.ipynb` typed in a terminal: standard input is the terminal"
    main, terminal = pty.openpty()
    with open(tmp_path/'out.ipynb', 'w') as out:
        rc = subprocess.run(['papermill', NB, *SMALL, '--no-progress-bar'], cwd=ROOT, env=environment(), stdin=terminal,
                            stdout=out, stderr=subprocess.DEVNULL, timeout=300).returncode
    os.close(main), os.close(terminal)
    assert rc == 0 and 'preset smoke' in outputs(tmp_path/'out.ipynb')

def test_papermill_with_a_dash_in_a_pipe(tmp_path, untouched):
    "`papermill nb - > out.ipynb` where standard input is a pipe"
    with open(tmp_path/'out.ipynb', 'w') as out:
        rc = subprocess.run(['papermill', NB, '-', *SMALL, '--no-progress-bar'], cwd=ROOT, env=environment(), input=b'',
                            stdout=out, stderr=subprocess.DEVNULL, timeout=300).returncode
    assert rc == 0 and 'preset smoke' in outputs(tmp_path/'out.ipynb')

# bad input ------------------------------------------------------------------------------------------------------------

NAMES = [(['-p', 'lamda', '0.1'], 'lam'), (['--preset', 'tiny'], 'smoke'), (['--corpus', 'wiki'], 'restaurants-large'),
         (['-p', 'schedule', 'cubic'], 'cosine'), (['-p', 'arms', 'bets'], 'baseline')]
VALUES = [(['-p', 'lam', '-0.1'], 'lam'), (['-p', 'steps', '0'], 'steps'), (['-p', 'factor', '0'], 'factor')]

@pytest.mark.parametrize('args, choice', NAMES, ids=lambda x: x[-1] if isinstance(x, list) else '')
def test_a_wrong_name_is_refused(args, choice, untouched):
    refused_at_once([args[-1] if args[-2] != 'lamda' else 'lamda', choice], 'run', '05', *args)

@pytest.mark.parametrize('args, name', VALUES, ids=lambda x: x[-1] if isinstance(x, list) else '')
def test_a_wrong_value_is_refused(args, name, untouched):
    refused_at_once([name], 'run', '05', *args)

HEAD = 'mr,ref\n' + 'name[A],There is a place called A .\n'*30
FILES = {'lacks a file': (None, 'trainset.csv'), 'no column ref': ('mr,text\na,b\n', 'ref'),
         'empty': ('', 'trainset.csv'),
         'not UTF-8': ((HEAD + 'x,Caf\u00e9\n').encode('latin-1'), '32')}

@pytest.fixture
def folder(request, tmp_path):
    "A data folder whose training file is as the test wants it"
    (tmp_path/'e2e').mkdir()
    for name in ('trainset.csv', 'devset.csv', 'testset_w_refs.csv'):
        (tmp_path/'e2e'/name).write_text(HEAD, encoding='utf-8')
    content, train = request.param, tmp_path/'e2e/trainset.csv'
    if content is None: train.unlink()
    else: train.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path

@pytest.mark.parametrize('folder, word', FILES.values(), ids=FILES, indirect=['folder'])
def test_a_bad_file_is_refused(folder, word, untouched):
    refused_at_once([word], 'run', '05', '--corpus', 'e2e', '-p', 'data_dir', folder)
    refused_at_once([word], 'run', '05', '--corpus', 'e2e', TEXTDIFFUSION_DATA=str(folder))

def test_under_papermill_the_first_failing_cell_says_it(tmp_path, untouched):
    done = call('papermill', NB, tmp_path/'out.ipynb', '-p', 'schedule', 'cubic', '--no-progress-bar')
    failed_before_training(done, tmp_path/'out.ipynb', ['schedule', 'cosine'])

# a kill ---------------------------------------------------------------------------------------------------------------

@pytest.fixture
def copy(tmp_path):
    "A checkout of its own, so that publishing touches nothing here"
    return checkout_at(tmp_path, '05_anchor_loss')

@needs_real_text
def test_the_command_on_real_text(copy):
    "The judge's checkpoints included; a smoke run is kept in .runs/, not published; no page says where the data is"
    done = call('textdiffusion', 'run', '05_anchor_loss', '--preset', 'smoke', '--corpus', 'e2e', '-p', 'arms', 'best',
                cwd=copy, env=environment(PYTHONPATH=str(copy), TEXTDIFFUSION_DATA=REAL_TEXT))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'corpus e2e (source: variable)' in done.stdout and not [*copy.glob('journal/*/*-smoke-*')]
    page, = copy.glob('.runs/*/page.ipynb')
    shown = page.read_text(encoding='utf-8')
    assert 'teacher NLL' in shown and REAL_TEXT not in shown

RUN = ['textdiffusion', 'run', '05_anchor_loss', '--preset', 'smoke', '-p', 'arms', 'best', '-p', 'steps', '800',
       '-p', 'samples', '32', '-p', 'calls', '3']

def the_record(root):
    found = list(root.glob('.runs/*/record.json'))
    assert len(found) == 1 and found[0].with_name('page.ipynb').exists()
    return json.loads(found[0].read_text(encoding='utf-8'))

def test_kill_and_resume(copy, tmp_path_factory):
    "kill -9 while the model trains, then the same command: final loss and weights as if nothing had happened"
    env = environment(PYTHONPATH=str(copy))
    p = subprocess.Popen(RUN, cwd=copy, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         start_new_session=True)
    end = time.time() + 200
    while not list(copy.glob('.runs/*/checkpoints/best-0/step-*')):
        assert p.poll() is None and time.time() < end, 'it ended before a checkpoint was written'
        time.sleep(.05)
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    assert not list(copy.glob('.runs/*/record.json'))
    again = call(*RUN, cwd=copy, env=env)
    assert again.returncode == 0, again.stderr[-2000:]
    resumed = the_record(copy)
    assert resumed['attempts'] == 2
    assert not list(copy.glob('.runs/*/checkpoints/*/*'))                   # a finished run loses its checkpoints
    whole = tmp_path_factory.mktemp('whole')
    for name in ('nbs', 'textdiffusion', 'journal', 'settings.ini'):
        (shutil.copytree if (copy/name).is_dir() else shutil.copy)(copy/name, whole/name)
    done = call(*RUN, cwd=whole, env=environment(PYTHONPATH=str(whole)))
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed = the_record(whole)
    assert undisturbed['attempts'] == 1
    assert all(resumed[k] == undisturbed[k] for k in ('history', 'weights', 'rows'))

# the other presets ----------------------------------------------------------------------------------------------------

def test_the_gpu_preset_at_tiny_size(copy):
    "Its arms and widths, a few steps each, on whatever device there is; published like any run"
    small = dict(steps=2, seeds=1, samples=8, calls=2, teacher_steps=4, arms='baseline,report-stop,gao,best')
    options = [x for name, value in small.items() for x in ('-p', name, value)]
    done = call('textdiffusion', 'run', '05_anchor_loss', '--preset', 'gpu', *options, cwd=copy,
                env=environment(PYTHONPATH=str(copy)))
    assert done.returncode == 0, done.stderr[-2000:]
    path, = (copy/'journal/05_anchor_loss').glob('*-gpu-restaurants-*.json')
    made = json.loads(path.read_text(encoding='utf-8'))
    assert {r['arm'] for r in made['rows'] if r['clamp']} >= set(made['parameters']['arms'])
