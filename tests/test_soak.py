"""What happens to a run that is disturbed: kills, signals, a full disk, a second run, a checkout that is read-only,
bare environments. It ends with the same numbers to the last bit, or in one sentence, and leaves nothing behind.
All of it by `make soak`; a few minutes an entry."""
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import BIN, checkout_at, environment

pytestmark = pytest.mark.skipif(not os.environ.get('SOAK'), reason='half an hour: SOAK=1')
# vectors of several widths, and with anchors; stand-ins for BART and BERT; masks, by batches and by recipe
ENTRIES = ('04b_width', '06g_batch_and_levels', '01_bart_x0', '05_anchor_loss', '06c_pretrained_masks',
           '06d_masked_recipe')
KILLS = int(os.environ.get('SOAK_KILLS', 24)) # of all entries together
# of a record, what is not its result
TIMED = ('seconds', 'minutes', 'step_times', 'attempts', 'date', 'commit', 'threads', 'device')
SEED = int(os.environ.get('SOAK_SEED', time.time()))

LOGS = Path(tempfile.mkdtemp()) # not on a disk that is filled up on purpose

def log_of(root, name):
    "The file of what a command said in a checkout"
    return LOGS/f'{root}.{name}'.replace('/', '-')

def start(root, entry, env=None, **how):
    "The command at work on an entry, in a group of its own; what it says goes to LOGS"
    env = (environment() if env is None else env) | dict(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE='1')
    out, err = (open(log_of(root, s), 'w') for s in ('out', 'err'))
    command = [BIN/'textdiffusion', 'run', entry, '--preset', 'smoke']
    return subprocess.Popen(list(map(str, command)), cwd=root, env=env, stdout=out, stderr=err, start_new_session=True,
                            **how)

def said(root):
    "The sentences that a command ended with"
    lines = log_of(root, 'err').read_text(errors='replace').splitlines()
    return [line for line in lines if line.startswith('textdiffusion:')], 'Traceback' in '\n'.join(lines)

def finish(root, entry, **how):
    "The result of a run that is left alone from here on"
    p = start(root, entry, **how)
    assert p.wait(timeout=900) == 0, log_of(root, 'err').read_text()[-2000:]
    return result(root, entry)

def stable(value):
    "A record without what clocks and machines say"
    if isinstance(value, list): return [stable(v) for v in value]
    if not isinstance(value, dict): return value
    return {k: stable(v) for k, v in value.items() if not any(word in k for word in TIMED)}

def result(root, entry):
    "What the newest finished run of an entry found"
    done = max(root.glob(f'.runs/{entry}-*/finished.txt'), key=lambda p: p.stat().st_mtime)
    return stable(json.loads(done.with_name('record.json').read_text(encoding='utf-8')))

def working(root):
    "Processes that work in a checkout"
    def at(p):
        try: return os.readlink(p/'cwd').startswith(f'{root}')
        except OSError: return False
    return [p.name for p in Path('/proc').iterdir() if p.name.isdigit() and at(p)]

def clean(root):
    "Nothing works in the checkout any more, and no file is half written"
    end = time.monotonic() + 60
    while working(root): assert time.monotonic() < end, working(root); time.sleep(.5)
    assert not [p for p in root.rglob('*') if p.name.endswith('.part') or p.name.startswith('.step-')]
    assert {p.name for p in root.iterdir()} == {'nbs', 'textdiffusion', 'settings.ini', 'journal', '.runs'}

@pytest.fixture(scope='module')
def calm(tmp_path_factory):
    "entry -> the result of an undisturbed run, and how long it took"
    @functools.cache
    def found(entry):
        root, begun = checkout_at(tmp_path_factory.mktemp('calm')/'a', *ENTRIES), time.monotonic()
        return finish(root, entry), time.monotonic() - begun
    return found

@pytest.fixture
def place(tmp_path): return checkout_at(tmp_path/'a', *ENTRIES)

@pytest.mark.parametrize('entry', ENTRIES)
def test_kills_at_random_points(entry, calm, place, capsys):
    "SIGKILL, of the command alone or of all its processes; in the end every number and weight is as without"
    rng, expected, killed, whole = random.Random(f'{SEED} {entry}'), calm(entry)[0], 0, 0
    while killed < KILLS/len(ENTRIES):
        p = start(place, entry)
        try:
            assert p.wait(timeout=rng.uniform(1, max(10, .7*calm(entry)[1]))) == 0
            assert result(place, entry) == expected
            whole += 1
        except subprocess.TimeoutExpired:
            (os.kill if rng.random() < .5 else os.killpg)(p.pid, signal.SIGKILL)
            p.wait(); killed += 1
    assert finish(place, entry) == expected
    clean(place)
    with capsys.disabled(): print(f'\n{entry}: {killed} kills (seed {SEED}), {whole + 1} runs ended, all the same')

@pytest.mark.parametrize('sign, status', [(signal.SIGINT, (130, 1)), (signal.SIGTERM, (143, 130, -15))])
def test_signals_stop_in_a_sentence_and_the_run_goes_on(sign, status, calm, place, capsys):
    rng, seen = random.Random(f'{SEED} {sign}'), []
    for entry in ENTRIES[:4]:
        expected, took = calm(entry)
        p = start(place, entry)
        try: p.wait(timeout=rng.uniform(2, max(6, .6*took)))
        except subprocess.TimeoutExpired:
            (os.killpg if sign == signal.SIGINT else os.kill)(p.pid, sign)             # Ctrl-C reaches them all
            assert p.wait(timeout=120) in status, p.returncode
            words, raw = said(place)
            assert not raw and len(words) <= 1 and (words or sign == signal.SIGTERM), words
            seen.append((entry, p.returncode))
        assert finish(place, entry) == expected
    clean(place)
    assert seen                                                                 # not all were too late
    with capsys.disabled(): print(f'\n{sign.name}: left with {seen}, then the same results')

# a disk that is full or cannot be written ----------------------------------------------------------------------------

@contextmanager
def mounted(folder, *options):
    "Something mounted for a while; skipped where that is not allowed"
    folder.mkdir(exist_ok=True)
    if subprocess.run(['mount', *options, folder], capture_output=True).returncode: pytest.skip('may not mount')
    try: yield folder
    finally: subprocess.run(['umount', '-l', folder], check=True)

def test_a_full_disk(calm, tmp_path, capsys):
    "The disk fills up before and while it works; each time one sentence, and with room again the same result"
    entry, tried = ENTRIES[0], []
    with mounted(tmp_path/'disk', '-t', 'tmpfs', '-o', 'size=40m', 'tmpfs') as disk:
        root = checkout_at(disk/'a', *ENTRIES)
        for left, wait in ((0, 0), (8192, 0), (0, .2), (4096, .4)):
            p = start(root, entry) if wait else None
            time.sleep(wait*calm(entry)[1])
            (disk/'ballast').write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)//4096*4096))
            p = p or start(root, entry)
            p.wait(timeout=600)
            words, raw = said(root)
            (disk/'ballast').unlink()
            if p.returncode == 0: assert result(root, entry) == calm(entry)[0]
            else: assert len(words) == 1 and not raw, log_of(root, 'err').read_text()[-2000:]
            tried.append((f'{left} bytes left', f'after {wait:.0%} of the time', p.returncode, *words))
        assert finish(root, entry) == calm(entry)[0]
        clean(root)
    with capsys.disabled(): print('\nfull disk:', *tried, sep='\n  ')
    assert tried[0][2] != 0

def test_files_that_may_not_grow(calm, place):
    "A quota in the middle of a file"
    entry = ENTRIES[0]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    p = start(place, entry, preexec_fn=limit)
    p.wait(timeout=600)
    assert p.returncode in (1, 2) and len(said(place)[0]) == 1 and not said(place)[1]
    assert finish(place, entry) == calm(entry)[0]
    clean(place)

def test_a_read_only_checkout(calm, place):
    entry, before = ENTRIES[0], sorted(place.rglob('*'))
    with mounted(place, '--bind', str(place)):
        subprocess.run(['mount', '-o', 'remount,ro,bind', place], check=True)
        p = start(place, entry)
        assert p.wait(timeout=300) == 2
        (words,), raw = said(place)
        assert 'ead-only' in words and not raw
    assert sorted(place.rglob('*')) == before

# company and surroundings ---------------------------------------------------------------------------------------------

def test_two_runs_at_once(calm, place, tmp_path):
    entry = ENTRIES[0]
    first = start(place, entry)
    time.sleep(random.Random(SEED).uniform(0, 3))
    second = start(place, entry)
    codes = sorted(p.wait(timeout=900) for p in (first, second))
    assert codes in ([0, 2], [0, 0]), root_says(place)
    assert result(place, entry) == calm(entry)[0]
    assert len(list(place.glob('.runs/*/finished.txt'))) == codes.count(0)
    clean(place)

def root_says(root): return log_of(root, 'err').read_text()[-2000:]

BARE = {'C, no HOME': dict(LC_ALL='C', LANG='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', HOME=None),
        'tr_TR, a HOME that is none, one core': dict(LC_ALL='tr_TR.UTF-8', LANG='tr_TR.UTF-8', HOME='/proc/nowhere')}

@pytest.mark.parametrize('name', BARE)
def test_bare_surroundings(name, calm, place):
    entry, changes = ENTRIES[0], BARE[name]
    env = {k: v for k, v in (environment() | changes).items() if v is not None}
    core = {min(os.sched_getaffinity(0))}
    how = dict(preexec_fn=lambda: os.sched_setaffinity(0, core)) if 'one core' in name else {}
    assert finish(place, entry, env=env, **how) == calm(entry)[0]
    clean(place)
