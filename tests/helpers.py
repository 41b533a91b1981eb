"What several test files share: the checkout, its commands, and what an executed notebook shows"
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
REAL_TEXT = os.environ.get('TEXTDIFFUSION_DATA')
WEIGHTS = os.environ.get('TEXTDIFFUSION_WEIGHTS')
needs_real_text = pytest.mark.skipif(not REAL_TEXT, reason='TEXTDIFFUSION_DATA is not set')
needs_weights = pytest.mark.skipif(not (WEIGHTS and os.path.isdir(f'{WEIGHTS}/bert-tiny')),
                                   reason='TEXTDIFFUSION_WEIGHTS is not set, or has no folder bert-tiny')

# rules of each oracle language that leave a few hundred sentences, with every shape of text still in
FEW = {'restaurants': '''
<name> = cotto/PROPN | the/DET mill/PROPN
<near> = the/DET golden/PROPN palace/PROPN
<food> = thai/ADJ
<area> = city/NOUN centre/NOUN
<eatType> = pub/NOUN
<Trait> = <priceRange> | <customer_rating>
<Look> = <priceRange> | <familyFriendly>
<priceRange> = high/ADV priced/ADJ
<Place> = in/ADP the/DET <area> | by/ADP the/DET river/NOUN near/ADP <near>
<Sum> = twenty/NUM pounds/NOUN
<customer_rating:a> = low/ADJ
''', 'restaurants-large': '''
<name> = cotto/PROPN | the/DET mill/PROPN
<It> = it/PRON
<Want> = want/VERB
<Thing> = an/DET <priceRange:an> <eatType:a> | a/DET <Look:a> but/CCONJ <familyFriendly:a> <eatType:a>
<Spot> = a/DET <eatType:a> | an/DET <eatType:an> <Place>
<Place> = near/ADP <near>
<near> = all/PROPN bar/PROPN one/PROPN
<Cuisine> = <food:a>
<food:a> = thai/ADJ
<eatType:a> = wine/NOUN bar/NOUN
<eatType:an> = inn/NOUN
<Look:a> = cosy/ADJ
<priceRange:an> = expensive/ADJ
<familyFriendly:a> = kid/NOUN friendly/ADJ
<Relative> = that/PRON <Verdict> | where/ADV <Opinion>
<Claim> = <Menu> | <Verdict> | <Verdict> and/CCONJ <Menu>
<Verdict> = is/AUX rated/VERB <customer_rating:stars>
<customer_rating:stars> = one/NUM star/NOUN
<Menu> = serves/VERB <Cuisine> food/NOUN | charges/VERB <priceRange:span>
<Low> = five/NUM
<High> = forty/NUM
<Starter> = soup/NOUN
<Main> = fish/NOUN
<Dish> = soup/NOUN
<Dishes> = pies/NOUN
<Cook> = chef/NOUN
<Makes> = makes/VERB
<Taste> = fresh/ADJ
'''}

def environment(**more):
    "The tests' environment as a reader would have it, without the real corpora and published weights"
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MPLBACKEND', 'TEXTDIFFUSION_DATA',
                                                            'TEXTDIFFUSION_WEIGHTS', 'TEXTDIFFUSION_RUN')}
    return dict(env, OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', PATH=f'{BIN}:{env["PATH"]}') | more

def call(*args, cwd=ROOT, env=None, **more):
    "Run a command of the environment, to its end"
    return subprocess.run(list(map(str, args)), cwd=cwd, env=env or environment(), capture_output=True, text=True,
                          timeout=900, **more)

def outputs(path):
    "Text of all outputs of an executed notebook"
    nb = json.loads(Path(path).read_text(encoding='utf-8'))
    return ''.join(''.join(o.get('text', [])) + ''.join(o.get('data', {}).get('text/plain', [])) for c in nb['cells']
                   for o in c.get('outputs', []))

def code_of(notebook, *names, until='display('):
    "The code cells of an entry that define these functions, each up to a line that begins with `until` or displays"
    nb = json.loads((ROOT/notebook).read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    return '\n'.join(c.split('\ndisplay(')[0].split(f'\n{until}')[0] for c in cells
                     if any(f'def {n}(' in c for n in names))

def row(corpus, *words, L=10):
    "BOS, these ids, EOS, PAD as far as L"
    ids = [corpus.bos_id, *words, corpus.eos_id]
    return ids + [corpus.pad_id]*(L-len(ids))

def judging():
    "All that an entry can import to judge text and to compare arms, by name"
    from textdiffusion import denoising, judges, metrics, ngrams, oracles, scoring, statistics, timing
    modules = denoising, judges, metrics, ngrams, oracles, scoring, statistics, timing
    return {name: value for module in modules for name, value in vars(module).items() if not name.startswith('__')}

def shifted(value, fixed, rng=None):
    "A record with every measured number changed, each by an amount of its own; `fixed` names what stays"
    rng = rng or random.Random(0)
    if isinstance(value, dict): return {k: v if k in fixed else shifted(v, fixed, rng) for k, v in value.items()}
    if isinstance(value, list): return [shifted(v, fixed, rng) for v in value]
    return value*.83 + rng.uniform(.02, .06) if isinstance(value, float) else value

def checkout_at(folder, *entries):
    "A checkout of its own, so that nothing here is touched; its journal holds only the pinned records of the entries"
    for name in ('nbs', 'textdiffusion'):
        shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    shutil.copy(ROOT/'settings.ini', folder)
    (folder/'journal').mkdir()
    shutil.copy(ROOT/'journal/claims.json', folder/'journal')
    pins = json.loads((ROOT/'journal/pinned.json').read_text(encoding='utf-8'))
    (folder/'journal/pinned.json').write_text(json.dumps({e: pins[e] for e in entries}), encoding='utf-8')
    for entry in entries:
        (folder/'journal'/entry).mkdir()
        for name in pins[entry]['pins'].values():
            shutil.copy(ROOT/f'journal/{name}.json', folder/f'journal/{name}.json')
    return folder

def _cells(entry, given, variables, said):
    "Execute the cells of an entry; `said` gets the traceback of what stopped it, its record and all that it showed"
    stopped, shell, shown = '', None, []
    try:
        from execnb.shell import CaptureShell
        from papermill.iorw import load_notebook_node
        from papermill.parameterize import parameterize_notebook
        import torch
        around = environment(MPLBACKEND='agg', **variables)
        os.environ.clear(); os.environ.update(around)
        os.chdir(ROOT/'nbs'); torch.set_num_threads(1)
        shell = CaptureShell()
        for cell in parameterize_notebook(load_notebook_node(f'{entry}.ipynb'), given).cells:
            if cell.cell_type == 'code': shown.append(str(shell.run(cell.source)))
            if shell.exc: raise shell.exc
    except BaseException: stopped = traceback.format_exc()
    said.send((stopped, shell and shell.user_ns.get('record'), ''.join(shown)))

def executed(entry, variables={}, **given):
    """What came of an entry with these variables of the environment and these parameters, without the command: why it
    `stopped`, '' if it did not, its `record`, what it has `shown`. In a fork of this process, which has the libraries.
    """
    fork = multiprocessing.get_context('fork')
    mine, said = fork.Pipe(duplex=False)
    child = fork.Process(target=_cells, args=(entry, given, variables, said))
    child.start(); said.close()
    late = 'no end after ten minutes', None, ''
    stopped, record, shown = mine.recv() if mine.poll(600) else late
    child.kill(); child.join()
    return SimpleNamespace(stopped=stopped, record=record, shown=shown)

def smoke_run(entry, variables={}, **given):
    "The record of a smoke run that went well"
    done = executed(entry, variables, preset='smoke', **given)
    assert not done.stopped, done.stopped
    return done.record

def sentences(stderr):
    "The lines of stderr that are no progress, which a slow machine may show"
    return [line for line in stderr.strip().splitlines() if not re.match(r'\[\d+:\d\d\] ', line)]

def obeyed(*args, **env):
    "What came of `textdiffusion` with these arguments in this process, which spares seconds of importing"
    from textdiffusion.command import main
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environment(**env), clear=True), redirect_stdout(out), redirect_stderr(err):
        try: status = main(list(map(str, args)))
        except SystemExit as e: status = e.code        # from argparse
    return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())

def refused_at_once(words, *args, **env):
    "`textdiffusion` refuses these arguments within ten seconds of work, by one line that holds the words"
    start = time.process_time()
    done = obeyed(*args, **env)
    took, lines = time.process_time() - start, sentences(done.stderr)
    assert done.returncode and len(lines) == 1, done.stderr
    assert all(w in lines[0] for w in words), lines[0]
    assert took < 10, f'{took:.1f} s'

def failed_before_training(done, page, words):
    "The first failing cell of a notebook that papermill ran is a ValueError with the words; nothing was planned yet"
    nb = json.loads(page.read_text(encoding='utf-8'))
    failed = [o for c in nb['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert done.returncode != 0 and failed[0]['ename'] == 'ValueError' and all(w in failed[0]['evalue'] for w in words)
    assert 'planned steps' not in outputs(page)

def made_on_saved_weights(record, folder, parameters):
    "A record of a run on a saved model says how large it is, and not where it was"
    said, = record['pretrained']
    assert said['note'] == 'published weights' and (said['name'], said['parameters']) == ('local', parameters)
    assert record['parameters']['base_model'] == f"local@{said['fingerprint']}"
    assert str(folder) not in json.dumps(record)

def overhead(sampler):
    "What a sampler, `(denoiser, z) -> anything`, costs beside the denoiser's calls, as their share: the best of three"
    import torch
    from textdiffusion.models import MaskedConfig, MaskedDenoiser
    torch.manual_seed(0)
    model, z, threads = MaskedDenoiser(MaskedConfig(vocab_size=78, d_model=128, n_layers=3,
                                                    n_heads=4)).eval(), torch.full((64, 29),
                                                                                   78), torch.get_num_threads()
    with torch.no_grad(): model.out.weight.normal_(std=.1)
    def once():
        inside = []
        def timed(z, share):
            begun = time.process_time(); logits = model(z, share); inside.append(time.process_time()-begun)
            return logits
        begun = time.process_time()
        sampler(timed, z)
        return (time.process_time()-begun)/sum(inside) - 1
    torch.set_num_threads(1)
    try: return min(once() for _ in range(3))
    finally: torch.set_num_threads(threads)

def new_model(corpus, kind='masked'):
    "An untrained model that knows how it is used"
    import torch
    from textdiffusion.generating import inform
    from textdiffusion.models import CausalConfig, CausalLM, GaussianConfig, GaussianDenoiser, MaskedConfig
    from textdiffusion.models import MaskedDenoiser
    from textdiffusion.schedules import mask_linear, rescale, sqrt
    torch.manual_seed(0)
    V, sizes = corpus.vocab_size, dict(d_model=32, n_layers=1, n_heads=2)
    if kind == 'masked': return inform(MaskedDenoiser(MaskedConfig(vocab_size=V, **sizes)), corpus, mask_linear)
    if kind == 'causal': return inform(CausalLM(CausalConfig(vocab_size=V+1, **sizes)), corpus)
    config = GaussianConfig(vocab_size=V, emb_dim=8, self_condition=True, **sizes)
    return inform(GaussianDenoiser(config), corpus, rescale(sqrt, 2.))

def told(capsys, *words):
    "What a refused command says: one line on stderr, and nothing on stdout"
    from textdiffusion.command import main
    assert main([str(w) for w in words]) == 2
    said = capsys.readouterr()
    line, = [line for line in said.err.splitlines() if line.startswith('textdiffusion:')]
    assert said.out == '' and 'Traceback' not in said.err
    return line

# a toy entry ----------------------------------------------------------------------------------------------------------

MODULE = '''
from textdiffusion.reading import Facts, level
SIZES = dict(corpus='restaurants', seeds=1, steps=10, lam=.1, arms=['baseline', 'best'], schedule='sqrt')
PRESETS = {p: SIZES for p in ('smoke', 'cpu', 'long', 'gpu')}
ARMS = {'baseline': 1, 'best': 2, 'other': 3}
DRIFT = dict(tol=dict(loss=.01))
ANSWER = 'The loss is {{loss}}.'
def facts(record): return Facts(loss=level(record['rows'], 'loss', arm='best'))
'''
TITLE = '# A toy\n> Does it run?\n- date: 2026-11-21'
PARAMETERS = '\n'.join(f'{k} = {v}' for k, v in dict(preset="'auto'", corpus="''", seeds=None, steps=None, lam=None,
                                                     arms="''", schedule="''",
                                                     data_dir="''").items())
BEGIN_TOY = '''
import os, sys, time
from types import SimpleNamespace
from toylib.toy import ARMS, PRESETS
from textdiffusion.records import attempts, begin
run = begin('01_toy', PRESETS, choices={'arms': ARMS}, preset=preset, corpus=corpus, seeds=seeds, steps=steps, lam=lam,
            arms=arms, schedule=schedule, data_dir=data_dir)
info = dict(source='oracle', wrap='sentences padded', L=8, V=9, cut=dict(train=0.), oov=dict(test=0.),
            fingerprint='f1e2')
run.__dict__['corpus'] = SimpleNamespace(name=run.cfg.corpus, fingerprint='f1e2', info=info)'''
WORK = '''
def experiment(run):
    run.announce(10, 1)
    print('data in', run.cfg.data_dir, 'notebook in', os.getcwd())
    print('a', 'warning', file=sys.stderr)
    one = run.cached('one', lambda: dict(pid=os.getpid(), loss=1/3))
    folder = run.folder_of('two')
    if os.environ.get('TOY') == 'sleep' and attempts(run) == 1: time.sleep(600)
    if os.environ.get('TOY') == 'die': os._exit(1)
    if os.environ.get('TOY') == 'raise': raise RuntimeError('out of luck')
    two = run.cached('two', lambda: dict(pid=os.getpid(), loss=2/3))
    return dict(rows=[dict(arm='best', seed=0, loss=two['loss'])], samples=[run.cfg.data_dir], steps_done=10,
                weights={'one': 'a1'}, headline=dict(name='loss', value=two['loss']), pids=[one['pid'], two['pid']])
record = run.record(experiment)'''
SHOW = "print('loss', record['rows'][0]['loss'])"

def code(i, source, *tags):
    "A code cell"
    return dict(cell_type='code', id=i, source=source.strip(), outputs=[], execution_count=None,
                metadata=dict(tags=list(tags)) if tags else {})

@contextmanager
def toy_checkout(root):
    "A checkout with one toy entry, for a while the one whose modules are imported"
    for folder in ('nbs', 'toylib', 'journal'): (root/folder).mkdir(parents=True)
    (root/'settings.ini').write_text('[DEFAULT]\nlib_name = textdiffusion\nlib_path = toylib\n')
    (root/'toylib/toy.py').write_text(MODULE)
    (root/'journal/claims.json').write_text('[]')
    cells = [dict(cell_type='markdown', id='title', metadata={}, source=TITLE), code('knobs', PARAMETERS, 'parameters'),
             code('begin', BEGIN_TOY), code('work', WORK), code('show', SHOW)]
    kernelspec = dict(name='python3', display_name='python3', language='python')
    (root/'nbs/01_toy.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernelspec), nbformat=4,
                                                         nbformat_minor=5)))
    before = list(sys.path)
    try: yield root
    finally:
        sys.path[:] = before
        for name in ('toylib', 'toylib.toy'): sys.modules.pop(name, None)

# measured in a process of its own -------------------------------------------------------------------------------------

PEAK = '''
def peak():
    # MB of this process; ru_maxrss would begin with its parent's
    return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])/1024
'''
BEGIN = PEAK + '''
import json, sys, time
import torch
torch.set_num_threads(1)
def seconds(f, times=2):
    "CPU seconds, the best of some"
    def once():
        start = time.process_time(); f()
        return time.process_time() - start
    return min(once() for _ in range(times))
'''

def alone(code, *args):
    "What some code prints as JSON, in a process of its own on one core"
    env = dict(os.environ, RAYON_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', OMP_NUM_THREADS='1')
    command = [sys.executable, '-c', BEGIN + code, *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
