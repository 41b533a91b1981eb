"What several test files share: the checkout, its commands, and what an executed notebook shows"
import json
import os
import random
import shutil
import subprocess
import sys
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

def shifted(value, fixed, rng=None):
    "A record with every measured number changed, each by an amount of its own; `fixed` names what stays"
    rng = rng or random.Random(0)
    if isinstance(value, dict): return {k: v if k in fixed else shifted(v, fixed, rng) for k, v in value.items()}
    if isinstance(value, list): return [shifted(v, fixed, rng) for v in value]
    return value*.83 + rng.uniform(.02, .06) if isinstance(value, float) else value

def checkout_at(folder):
    "A checkout of its own with an empty journal, so that nothing here is touched"
    for name in ('nbs', 'textdiffusion'): shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    shutil.copy(ROOT/'settings.ini', folder)
    (folder/'journal').mkdir()
    shutil.copy(ROOT/'journal/claims.json', folder/'journal')
    return folder
