"What several test files share: the checkout, its commands, and what an executed notebook shows"
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
REAL_TEXT = os.environ.get('TEXTDIFFUSION_DATA')
needs_real_text = pytest.mark.skipif(not REAL_TEXT, reason='TEXTDIFFUSION_DATA is not set')

def environment(**more):
    "The tests' environment as a reader would have it, without the real corpora"
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MPLBACKEND', 'TEXTDIFFUSION_DATA', 'TEXTDIFFUSION_RUN')}
    return dict(env, OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', PATH=f'{BIN}:{env["PATH"]}') | more

def call(*args, cwd=ROOT, env=None, **more):
    "Run a command of the environment, to its end"
    return subprocess.run(list(map(str, args)), cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=900, **more)

def outputs(path):
    "Text of all outputs of an executed notebook"
    nb = json.loads(Path(path).read_text(encoding='utf-8'))
    return ''.join(''.join(o.get('text', [])) + ''.join(o.get('data', {}).get('text/plain', [])) for c in nb['cells'] for o in c.get('outputs', []))

def code_of(notebook, *names, until='display('):
    "The code cells of an entry that define these functions, each up to the first line that begins with `until` or displays something"
    nb = json.loads((ROOT/notebook).read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    return '\n'.join(c.split('\ndisplay(')[0].split(f'\n{until}')[0] for c in cells if any(f'def {n}(' in c for n in names))

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

def refused_at_once(words, *command):
    "A command is refused within a minute, also on a busy machine, by one line that holds the words"
    start = time.perf_counter()
    done = call(*command)
    lines = done.stderr.strip().splitlines()
    assert done.returncode != 0 and len(lines) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert all(w in lines[0] for w in words), lines[0]
    assert time.perf_counter() - start < 60

def failed_before_training(done, page, words):
    "The first failing cell of a notebook that papermill ran is a ValueError that holds the words; nothing was planned yet"
    nb = json.loads(page.read_text(encoding='utf-8'))
    failed = [o for c in nb['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert done.returncode != 0 and failed[0]['ename'] == 'ValueError' and all(w in failed[0]['evalue'] for w in words)
    assert 'planned steps' not in outputs(page)

def ended_untrained(done, root, words, training):
    "A run ended with one sentence that holds the words; `training`, which a progress bar would say, was not said, and no record was made"
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and last.startswith('textdiffusion: ') and all(w in last for w in words), done.stderr[-2000:]
    assert training not in done.stderr and not list(root.glob('.runs/*/record.json'))

def made_on_saved_weights(record, folder, parameters):
    "A record of a run on a saved model says how large it is, and not where it was"
    assert record['pretrained'] == [dict(note='published weights', parameters=parameters)]
    assert record['parameters']['base_model'].startswith('local, ') and str(folder) not in json.dumps(record)

def overhead(sampler):
    "What a sampler, `(denoiser, z) -> anything`, costs beside the denoiser's own calls, as a share of them: in one run, so that a busy machine slows both; the best of three"
    import torch
    from textdiffusion.models import MaskedConfig, MaskedDenoiser
    torch.manual_seed(0)
    model, z, threads = MaskedDenoiser(MaskedConfig(vocab_size=78, d_model=128, n_layers=3, n_heads=4)).eval(), torch.full((64, 29), 78), torch.get_num_threads()
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
