"Sweeps: an entry at every point of a grid, by several workers, one of which is killed"
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from helpers import ROOT, call, checkout_at, environment, sentences
from textdiffusion.command import main
from textdiffusion.sweeps import open_study, trials_of

WORKER = '''
import sys, time
from pathlib import Path
from textdiffusion.sweeps import open_study, read_grid, work
url, name, seen = sys.argv[1:]
def execute(point):
    with open(seen, 'a') as file: file.write(f"{name} {point['lam']}\\n")
    time.sleep(600 if name == 'killed' and point['lam'] == 1 else .3)
    return dict(record=name, value=point['lam'], name='lam')
print(work(open_study(url, 'test', beat=1), read_grid(['lam=0,1,2,3']), execute, pause=.2))
'''

def server_programs():
    "Where the programs of a PostgreSQL server lie, or None"
    found = shutil.which('initdb') or next(map(str, Path('/usr/lib/postgresql').glob('*/bin/initdb')), None)
    return found and Path(found).resolve().parent

@pytest.fixture
def postgres(tmp_path):
    "The address of a PostgreSQL server that lives as long as the test"
    programs = server_programs()
    if programs is None: pytest.skip('there is no PostgreSQL server on this machine')
    who = {}
    if os.geteuid() == 0:                              # a server refuses to run as root
        import pwd
        try: who = dict(user=pwd.getpwnam('postgres').pw_uid)
        except KeyError: pytest.skip('tests run as root, and there is no user called postgres')
    folder = Path(tempfile.mkdtemp())                  # not tmp_path, which its user may not enter
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    quiet = dict(cwd='/', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who)
    subprocess.run([programs/'initdb', '-D', folder/'data', '-U', 'me', '-A', 'trust', '--no-sync'], check=True,
                   **quiet)
    where = ['-h', '127.0.0.1', '-p', str(port)]
    server = subprocess.Popen([programs/'postgres', '-D', folder/'data', '-k', folder, *where], **quiet)
    try:
        ready = [programs/'pg_isready', '-q', *where]
        while subprocess.run(ready, **quiet).returncode: time.sleep(.1)
        yield f'postgresql+psycopg://me@127.0.0.1:{port}/postgres'
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        shutil.rmtree(folder)

def test_a_killed_worker_s_point_is_taken_up_again(postgres, tmp_path):
    "Two workers share a database; one is killed in the middle of a point, and the other runs it"
    seen = tmp_path/'seen.txt'
    seen.touch()
    def start(name):
        return subprocess.Popen([sys.executable, '-c', WORKER, postgres, name, seen], cwd=ROOT, stdout=subprocess.PIPE,
                                env=environment(PYTHONPATH=str(ROOT)), text=True)
    first = start('killed')
    while 'killed 1' not in seen.read_text(): time.sleep(.05)
    second = start('alive')
    while 'alive' not in seen.read_text(): time.sleep(.05)
    first.kill()
    first.wait()
    assert second.communicate(timeout=120)[0] == '{}\n' and second.returncode == 0
    held = trials_of(open_study(postgres, 'test'))
    assert {k: t.value for k, t in held.items()} == dict(enumerate(range(4)))
    assert held[1].user_attrs['record'] == 'alive'     # taken up from the killed one
    done = [line.split()[1] for line in seen.read_text().splitlines()]
    assert sorted(done) == ['0', '1', '1', '2', '3']   # no other point ran twice

def test_a_sweep_of_an_entry(tmp_path):
    "Two points of an entry, each a run with its record; the same command again has nothing left to do"
    copy = checkout_at(tmp_path, '03b_noise_prediction')
    command = ['textdiffusion', 'sweep', '3b', '--preset', 'smoke', '--grid', 'steps=3,4', '--seeds', '1']
    for _ in range(2):
        done = call(*command, cwd=copy, env=environment(PYTHONPATH=str(copy)))
        assert done.returncode == 0, done.stderr[-2000:]
        table = done.stdout.strip().splitlines()[-2:]
        assert [line.split()[0] for line in table] == ['steps=3', 'steps=4'], done.stdout
    assert len(list(copy.glob('.runs/03b_noise_prediction-*/record.json'))) == 2

@pytest.mark.parametrize(('more', 'words'), [
    (['--grid', 'lam'], ['--grid', "'lam'", 'lam=0,0.01,0.1']), (['--grid', 'lam=1,1'], ['lam', '1 twice']),
    (['--grid', 'lam=0', 'lam=1'], ['names lam twice']), (['--grid', 'lamb=1,2'], ['lamb', 'lam,']),
    (['--grid', 'lam=-1,1'], ['lam', '-1']), (['--grid', 'lam=1', '-p', 'lam', '2'], ['lam is an axis']),
    (['--grid', 'lam=1', '--seeds', '0'], ['seeds']),
    (['--grid', 'seed=' + ','.join(map(str, range(300)))], ['300 points', '200']),
    (['--grid', 'lam=1', '--storage', 'nonsense'], ['--storage', "'nonsense'", 'sqlite:///FILE']),
    (['--grid', 'lam=1', '--storage', 'postgresql+psycopg://me:secret@127.0.0.1:1/x'],
     ['me@127.0.0.1:1/x', 'cannot be used'])])
def test_a_wrong_sweep_is_one_sentence(more, words, capsys):
    "Before anything is run, and without a password"
    assert main(['sweep', '05_anchor_loss', '--preset', 'smoke', *more]) == 2
    line, = sentences(capsys.readouterr().err)
    assert all(w in line for w in words) and 'secret' not in line, line
