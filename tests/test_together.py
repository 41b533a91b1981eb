"Several processes, started by `accelerate launch`, train an entry together: the same losses as one, and one record"
import json
import os
import shutil
import sys

import pytest
import torch

from helpers import BIN, ROOT, call, checkout_at, environment, obeyed

from textdiffusion.checkout import entries
from textdiffusion.processes import check_same_step

LAUNCHED = [BIN/'accelerate', *'launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no '
            '--dynamo_backend no --main_process_port 0 -m textdiffusion'.split()]
ALONE = [sys.executable, '-m', 'textdiffusion']
FEW = dict.fromkeys(entries(ROOT), ()) if os.environ.get('SOAK') else {
    '05_anchor_loss': ('-p', 'arms', 'baseline,self', '-p', 'steps', '3'), '06_masked_diffusion': ('-p', 'steps', '3')}

def run(root, entry, *command):
    "What a smoke run leaves: its pieces, its record and what it said"
    done = call(*command, 'run', entry, '--preset', 'smoke', *FEW[entry], cwd=root,
                env=environment(PYTHONPATH=str(root), CUDA_VISIBLE_DEVICES=''))
    assert done.returncode == 0, done.stderr[-3000:]
    folder, = root.glob(f'.runs/{entry}-*')
    pieces = {p.stem: json.loads(p.read_text(encoding='utf-8')) for p in folder.glob('cached/*.json')}
    return pieces, json.loads((folder/'record.json').read_text(encoding='utf-8')), done.stdout

@pytest.fixture(scope='module', params=FEW)
def both(request, tmp_path_factory):
    "A run in one process and one in two"
    roots = [checkout_at(tmp_path_factory.mktemp(name), request.param) for name in ('one', 'two')]
    for root in roots:                                    # some speak of a record of another entry
        shutil.copytree(ROOT/'journal', root/'journal', dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.ipynb'))
    return *(run(root, request.param, *how) for root, how in zip(roots, (ALONE, LAUNCHED))), roots

def losses(value, where=()):
    "Path -> number, of every loss of a training, and of what a model loses on held-out text"
    if isinstance(value, (dict, list)):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in inside for k, v in losses(part, (*where, name)).items()}
    return {where: value} if {'history', 'lost'} & {*where} and isinstance(value, float) else {}

def test_two_processes_train_an_entry_as_one_does(both):
    (one, *_), (two, *_), _ = both
    alone, shared = losses(one), losses(two)
    assert alone.keys() == shared.keys() and len(alone) >= 1
    # Muon works in bfloat16: what differs by rounding in a sum of gradients differs more behind every step
    apart = {k: (v, shared[k]) for k, v in alone.items() if abs(v - shared[k]) > 1e-5*max(1, abs(v))}
    assert not apart, apart

def test_the_first_process_alone_speaks_and_records(both):
    (_, alone, said), (_, record, heard), (_, root) = both
    assert record['processes'] == 2 and 'processes' not in alone
    assert {*record} - {'processes'} == {*alone} and record['parameters'] == alone['parameters']
    assert heard.count('works in') == said.count('works in') == 1 and len(list(root.glob('.runs/*'))) == 1

def test_nothing_but_a_run_is_shared():
    done = obeyed('list', WORLD_SIZE='2', RANK='1')
    assert done.returncode == 2 and done.stdout == '' and 'start textdiffusion list without a launcher' in done.stderr

def test_processes_that_stand_at_different_steps_are_told_apart():
    class Two:
        num_processes, device = 2, 'cpu'
        def __init__(self, other): self.other = torch.tensor([other])
        def gather(self, x): return torch.cat([x, self.other])
    check_same_step(100, Two(100))
    with pytest.raises(ValueError, match=r'steps \[100, 0\]: the folder must lie on a disk that all of them see'):
        check_same_step(100, Two(0))
