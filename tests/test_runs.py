"""The command with a toy entry in a checkout of its own: publishing, rendering, verifying, refusals, failures, a kill,
plain papermill."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import sentences, toy_checkout

from textdiffusion import corpora
from textdiffusion.command import main
from textdiffusion.checkout import KEYS
from textdiffusion.records import to_json
from textdiffusion.runs import check_kernel

BIN = Path(sys.executable).parent
@pytest.fixture
def root(tmp_path, monkeypatch):
    "A checkout with one toy entry, and a corpus that loads at once"
    monkeypatch.setattr(corpora, 'load_corpus', lambda name, **_: SimpleNamespace(name=name, fingerprint='f1e2'))
    for name in ('IN_TEST', 'TOY', 'TEXTDIFFUSION_RUN', 'TEXTDIFFUSION_DATA', 'TEXTDIFFUSION_RECORD'):
        monkeypatch.delenv(name, raising=False)
    with toy_checkout(tmp_path/'toy') as root: yield root

def tree(root): return {p.relative_to(root).as_posix() for p in root.rglob('*') if '__pycache__' not in p.parts}

def published(root): return sorted((root/'journal/01_toy').glob('*.json'), key=lambda p: (len(p.stem), p.stem))

RUN = ['run', '1', '--preset', 'cpu']

# a run that ends well -------------------------------------------------------------------------------------------------

def test_run_publishes_record_and_page_and_never_overwrites(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root/'nbs')
    (tmp_path/'my data').mkdir()
    command = ['run', '01_toy', '--preset', 'cpu', '--data-dir', '../../my data', '-p', 'lam', '1', '-p', 'arms',
               'other,best']
    assert main(command) == 0
    said = capsys.readouterr().out
    assert 'preset cpu · corpus restaurants (source: oracle)' in said and 'Published journal/01_toy/' in said
    assert 'data in' in said and not (root/'journal/README.md').exists()           # tracked files are left alone
    (first,) = published(root)
    before = first.read_bytes() + first.with_suffix('.ipynb').read_bytes()
    assert main(command) == 0 and first.read_bytes() + first.with_suffix('.ipynb').read_bytes() == before
    assert [p.stem for p in published(root)] == [first.stem, first.stem + '-2']

    rec, nb, text = json.loads(first.read_text()), json.loads(first.with_suffix('.ipynb').read_text()), before.decode()
    assert rec['parameters'] == dict(preset='cpu', corpus='restaurants', seeds=1, steps=10, lam=1.,
                                     arms=['other', 'best'], schedule='sqrt')
    assert rec['attempts'] == 1 and rec['question'] == 'Does it run?' and rec['rows'][0]['loss'] == .6667
    assert str(root) not in text and str(tmp_path) not in text and 'a warning' not in text
    assert [c['id'] for c in nb['cells']] == ['title', 'knobs', 'injected-parameters', 'begin', 'work', 'show']
    assert 'loss 0.6667' in str(nb['cells'][5]['outputs']) and not nb['cells'][4]['outputs']
    assert 'other' in ''.join(nb['cells'][2]['source'])

    folders = sorted((root/'.runs').iterdir())
    assert len(folders) == 2 and not (folders[0]/'checkpoints').exists() and (folders[0]/'cached/two.json').exists()
    assert 'a warning' in (folders[0]/'log.txt').read_text()

    assert main(['list']) == main(['log']) == main(['pin', first.stem]) == 0
    said = capsys.readouterr().out
    assert '(records: 2)' in said and '0.6667   01_toy/' in said and f'Pinned 01_toy/{first.stem}' in said
    assert 'The loss is 0.67.' in (root/'journal/README.md').read_text() and (root/'journal/CLAIMS.md').exists()

def test_render_gives_the_same_page_and_verify_finds_what_drifted(root, capsys):
    assert main(RUN, root) == 0
    (path,) = published(root)
    page = path.with_suffix('.ipynb').read_bytes()
    assert main(['pin', path.stem], root) == main(['render', '--pinned'],
                                                  root) == 0 and path.with_suffix('.ipynb').read_bytes() == page
    path.with_suffix('.ipynb').unlink()
    assert main(['render', path.name], root) == 0 and path.with_suffix('.ipynb').read_bytes() == page
    path.with_suffix('.ipynb').unlink()                            # all that is pinned of an entry, by any of its names
    assert main(['render', 'toy'], root) == 0 and path.with_suffix('.ipynb').read_bytes() == page
    assert main(['verify', '1', '--preset', 'cpu'], root) == 0 and '01_toy: matched' in capsys.readouterr().out
    assert main(['verify', '--preset', 'long'], root) == 0 and '01_toy: ran' in capsys.readouterr().out
    path.write_text(path.read_text().replace('0.6667', '0.7'))
    assert main(['verify', '1', '--preset', 'cpu'], root) == 1
    said = capsys.readouterr().out
    assert '01_toy: drifted' in said and "'pinned': 0.7" in said and not list(root.glob('.runs/verify-*'))

def test_a_smoke_run_is_not_published(root, capsys):
    before = tree(root/'journal')
    assert main(['run', 'toy', '--preset', 'smoke'], root) == 0 and 'not published' in capsys.readouterr().out
    assert tree(root/'journal') == before and len(list(root.glob('.runs/*/page.ipynb'))) == 1

# refusals -------------------------------------------------------------------------------------------------------------

REFUSED = [
    ('run 1 -p lamda 0.1', "'lamda' lam preset corpus data_dir"),
           ('run 1 --preset tiny', 'preset tiny smoke cpu long gpu'),
    ('run 1 --corpus wiki', 'corpus wiki e2e'), ('run 1 -p schedule cubic', 'schedule cubic cosine'),
    ('run 1 -p arms bets', 'arms bets baseline best other'), ('run 1 -p lam -0.1', 'lam -0.1'),
           ('run 1 -p steps 0', 'steps whole'),
    ('run 1 -p seeds [0,1]', 'seeds [0,1]'), ('run 1 --data-dir nowhere', 'data_dir nowhere'),
           ('run 1 -p steps 5 -p steps 6', 'steps twice'),
    ('run 1 -p steps=0', 'steps whole'), ('run 1 -p steps=5 -p steps 6', 'steps twice'),
    ('render 1', '01_toy pinned records'),
    ('run 2', "entry '2' 01_toy"), ('pin nothing', 'record nothing'), ('render', 'record pinned'),
           ('render nothing', 'nothing log'),
    ('verify 2', "entry '2' 01_toy"), ('verify 1 --preset tiny', 'preset tiny')]

@pytest.mark.parametrize('args, words', REFUSED)
def test_what_is_refused_leaves_one_sentence_and_nothing_else(root, capsys, args, words):
    before = tree(root)
    assert main(args.split(), root) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(sentences(said.err)) == 1 and all(w in said.err for w in words.split()), said.err
    assert tree(root) - {'.runs'} == before

def test_a_stop_that_a_library_swallows_is_not_lost(root, monkeypatch, capsys):
    "Ctrl-C while something is imported behind a bare `except`"
    def deaf(name, **_):
        try: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)
        except BaseException: return SimpleNamespace(name=name, fingerprint='f1e2')
    monkeypatch.setattr(corpora, 'load_corpus', deaf)
    before = signal.getsignal(signal.SIGINT)                    # ignored, where the tests run in a shell's background
    assert main(RUN, root) == 130 and 'stopped' in capsys.readouterr().err and not (root/'.runs').exists()
    assert signal.getsignal(signal.SIGINT) is before

def test_a_damaged_pin_is_refused_before_anything_runs(root, capsys):
    pins = {'01_toy': dict(headline='cpu restaurants', pins={'cpu restaurants': '01_toy/gone'})}
    (root/'journal/pinned.json').write_text(json.dumps(pins))
    assert main(RUN, root) == 2 and 'gone' in capsys.readouterr().err and not (root/'.runs').exists()

def test_a_kernel_of_another_python_is_refused_before_it_starts(root, monkeypatch, capsys, tmp_path):
    there = tmp_path/'jupyter/kernels/python3'
    there.mkdir(parents=True)
    spec = dict(argv=['/elsewhere/bin/python3.9', '-m', 'ipykernel_launcher', '-f', '{connection_file}'],
                display_name='Python 3', language='python')
    (there/'kernel.json').write_text(json.dumps(spec))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
    before = tree(root)
    assert main(RUN, root) == 2 and tree(root) - {'.runs'} == before
    (said,) = sentences(capsys.readouterr().err)
    assert '/elsewhere/bin/python3.9' in said and 'ipykernel install' in said
    spec['argv'][0] = sys.executable
    (there/'kernel.json').write_text(json.dumps(spec))
    check_kernel()

WRONG = [(['--corpus', 'wiki'], ['wiki', 'restaurants-large'], 10),
         (['--corpus', 'e2e', '--data-dir', '.'], ['trainset.csv'], 20)]

@pytest.mark.parametrize('args, words, limit', WRONG)
def test_the_installed_command_refuses_in_time(root, args, words, limit):
    before, start = tree(root), time.monotonic()
    done = subprocess.run([BIN/'textdiffusion', 'run', '01_toy', '--preset', 'cpu', *args], cwd=root,
                          capture_output=True, text=True)
    assert time.monotonic() - start < limit and done.returncode == 2 and done.stdout == ''
    assert len(sentences(done.stderr)) == 1 and all(w in done.stderr for w in words), done.stderr
    assert tree(root) == before

def test_bad_usage_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as e: main(['run'])
    assert e.value.code == 2 and capsys.readouterr().err.count('\n') == 1

def test_a_reader_that_goes_away_and_a_poor_console(root):
    said = dict.fromkeys(KEYS, 'x') | dict(headline=dict(name='Güte ≤ 語 → \x1b', value=.5))
    (root/'journal/01_toy').mkdir()
    (root/'journal/01_toy/one.json').write_text(to_json(said), encoding='utf-8')
    for command in ('textdiffusion list | head -1', 'textdiffusion log | head -1', 'textdiffusion log --full',
                    'PYTHONIOENCODING=ascii textdiffusion list', 'PYTHONIOENCODING=cp1252 textdiffusion list',
                    'PYTHONIOENCODING=ascii textdiffusion log', 'PYTHONIOENCODING=cp1252 textdiffusion log',
                    'LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 textdiffusion log', 'textdiffusion --version',
                    'textdiffusion'):
        env = dict(os.environ, PATH=f'{BIN}:{os.environ["PATH"]}')
        done = subprocess.run(['bash', '-c', f'set -o pipefail; {command}'], cwd=root, capture_output=True, text=True,
                              errors='replace', env=env)
        assert done.returncode == 0 and done.stderr == '' and done.stdout and '\x1b' not in done.stdout, (command, done)

def test_what_only_reads_imports_nothing_heavy(root):
    code = ('import sys; from textdiffusion.command import main; main(sys.argv[1:]); '
            'print(sorted({"torch", "transformers", "pandas", "matplotlib"} & sys.modules.keys()))')
    for command in (['list'], ['log'], []):
        done = subprocess.run([sys.executable, '-c', code, *command], cwd=root, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == '[]', (command, done)

# runs that stop -------------------------------------------------------------------------------------------------------

def test_a_failing_cell_keeps_what_there_is_and_the_same_command_goes_on(root, monkeypatch, capsys):
    monkeypatch.setenv('TOY', 'raise')
    assert main(RUN, root) == 1
    said = '\n'.join(sentences(capsys.readouterr().err))
    (folder,) = (root/'.runs').iterdir()
    # what the cell wrote, and one sentence
    assert said.splitlines()[0] == 'a warning' and len(said.splitlines()) == 2
    assert 'RuntimeError: out of luck' in said and f'.runs/{folder.name}/partial.ipynb' in said
    assert 'out of luck' in (folder/'partial.ipynb').read_text() and not (root/'journal/01_toy').exists()
    monkeypatch.delenv('TOY')
    assert main(RUN, root) == 0
    (path,) = published(root)
    pids = json.loads(path.read_text())['pids']
    # the first piece is from the first attempt
    assert pids[0] != pids[1] and json.loads(path.read_text())['attempts'] == 2

def test_a_kernel_that_dies_is_a_run_that_stopped(root, monkeypatch, capsys):
    monkeypatch.setenv('TOY', 'die')
    assert main(RUN, root) == 1 and 'Kernel died' in capsys.readouterr().err
    assert len(list(root.glob('.runs/*/partial.ipynb'))) == 1

CODE = ('import sys; from types import SimpleNamespace as S; from textdiffusion import corpora, command; '
        f'corpora.load_corpus = lambda name, **_: S(name=name, fingerprint="f1e2"); sys.exit(command.main({RUN!r}))')

def test_a_disk_that_fills_up_in_the_middle_of_a_file(root, capsys):
    "A file that may not grow beyond 1,000 bytes: one sentence, nothing under a published name; then the run goes on"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    done = subprocess.run([sys.executable, '-c', CODE], cwd=root, capture_output=True, text=True, preexec_fn=limit)
    said = [line for line in done.stderr.splitlines() if line.startswith('textdiffusion: ')]
    assert done.returncode in (1, 2) and len(said) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert not published(root) and not [p for p in root.rglob('*') if p.name.endswith('.part')]
    assert main(RUN, root) == 0 and len(published(root)) == len(list((root/'.runs').iterdir())) == 1

def test_bare_surroundings_change_nothing(root, capsys):
    "No HOME, locale C, one core, and a time zone of its own"
    core = {min(os.sched_getaffinity(0))}
    bare = {k: v for k, v in os.environ.items() if k not in ('HOME', 'LANG')}
    bare |= dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', TZ='Pacific/Kiritimati')
    done = subprocess.run([sys.executable, '-c', CODE], cwd=root, capture_output=True, text=True, env=bare,
                          preexec_fn=lambda: os.sched_setaffinity(0, core))
    assert done.returncode == 0, done.stderr
    (path,) = published(root)
    rec = json.loads(path.read_text(encoding='utf-8'))
    assert rec['rows'] == [dict(arm='best', seed=0, loss=.6667)] and rec['parameters']['lam'] == .1
    assert tree(root/'journal') == {'01_toy', f'01_toy/{path.stem}.ipynb', f'01_toy/{path.name}', 'claims.json'}

def test_kill_and_resume(root, capsys):
    "kill -9 in the middle; while it runs a second command is refused, afterwards the same command goes on"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    p = subprocess.Popen([sys.executable, '-c', CODE], cwd=root, env=dict(os.environ, TOY='sleep'),
                         start_new_session=True, **quiet)
    end = time.monotonic() + 60
    while not list(root.glob('.runs/*/checkpoints/two')):
        assert p.poll() is None and time.monotonic() < end
        time.sleep(.1)
    assert main(RUN, root) == 2 and 'another process is working' in capsys.readouterr().err
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    assert len(list(root.glob('.runs/*/cached/one.json'))) == 1 and not (root/'journal/01_toy').exists()
    assert main(RUN, root) == 0 and 'earlier attempt' in capsys.readouterr().out
    (path,) = published(root)
    rec = json.loads(path.read_text())
    assert rec['attempts'] == 2 and rec['pids'][0] != rec['pids'][1] and len(list((root/'.runs').iterdir())) == 1

def test_a_kill_while_publishing_is_taken_up_under_the_same_name(root, monkeypatch, capsys):
    from textdiffusion import runs
    def killed(*_, **__): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(runs, 'render', killed)
        assert main(RUN, root) == 130
    (path,) = published(root)
    assert not path.with_suffix('.ipynb').exists()
    assert main(RUN, root) == 0 and published(root) == [path] and path.with_suffix('.ipynb').exists()
    assert json.loads(path.read_text())['attempts'] == 1              # nothing was trained again

def test_a_run_without_a_record_is_not_published(root, capsys):
    nb = json.loads((root/'nbs/01_toy.ipynb').read_text())
    (root/'nbs/01_toy.ipynb').write_text(json.dumps(nb | dict(cells=nb['cells'][:3])))
    assert main(RUN, root) == 1 and 'record' in capsys.readouterr().err and not (root/'journal/01_toy').exists()

# plain papermill ------------------------------------------------------------------------------------------------------

def papermill(root, out, *args):
    "Plain papermill on the toy entry"
    return subprocess.run([BIN/'papermill', 'nbs/01_toy.ipynb', out, *args, '--no-progress-bar'], cwd=root,
                          capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=f"{root}:{os.environ.get('PYTHONPATH', '')}"))

def test_plain_papermill_writes_its_output_and_nothing_else(root, tmp_path):
    before = tree(root)
    done = papermill(root, tmp_path/'out.ipynb', '-p', 'preset', 'cpu')
    assert done.returncode == 0, done.stderr
    assert tree(root) == before and 'preset cpu' in (tmp_path/'out.ipynb').read_text()

def test_plain_papermill_fails_at_the_cell_that_begins(root, tmp_path):
    done = papermill(root, tmp_path/'out.ipynb', '-p', 'steps', '0')
    nb = json.loads((tmp_path/'out.ipynb').read_text())
    (failed,) = [c for c in nb['cells'] if any(o['output_type'] == 'error' for o in c.get('outputs', []))]
    assert done.returncode == 1 and failed['id'] == 'begin' and 'steps must be a whole number' in done.stderr

def test_a_module_of_another_checkout_is_refused(root, tmp_path, capsys):
    assert main([*RUN, '-p', 'arms', 'bets'], root) == 2            # imports toylib from here
    other = shutil.copytree(root, tmp_path/'other')
    before = tree(other)
    assert main(RUN, other) == 2 and 'another checkout' in capsys.readouterr().err and tree(other) == before
