"Arms at once: the same results as one after the other, and no fork that outlives its run"
import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers import environment
from torch import nn

from textdiffusion import records
from textdiffusion.records import Run
from textdiffusion.training import fit

linux = pytest.mark.skipif(sys.platform != 'linux', reason='forks are made on Linux alone')

def trained(arm, seed, folder=None):
    "A small training, as an entry has them"
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    def loss_fn(model, x): return dict(loss=(model(x.float()) - arm).square().mean(), t=torch.zeros(len(x)))
    def batches(step): return torch.randint(0, 9, (8, 3), generator=torch.Generator().manual_seed(step))
    def adam(m): return [torch.optim.Adam(m.parameters(), 1e-2)]
    fitted = fit(model, loss_fn, batches, 20, optimizer=adam, seed=seed, every=5, save_every=5,
                 folder=folder and folder(f'{arm}-{seed}'))
    return dict(rows=[dict(arm=arm, seed=seed, loss=fitted.history[-1]['loss'])], weights=fitted.weights_hash())

def run_in(folder): return Run(folder, '05_anchor_loss', SimpleNamespace(arms=[1, 2, 3], seeds=2))

@linux
def test_arms_at_once_are_the_arms_one_after_the_other(tmp_path):
    "After a training with gradients in this process, which a fork must not stumble over"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, two = run_in(tmp_path/'one'), run_in(tmp_path/'two')
        in_turn = one.each_arm(partial(trained, folder=one.folder_of))
        with mock.patch.object(records, 'at_once', lambda: 2):
            two.cached('2-1', lambda: 'as it was left')
            together = two.each_arm(partial(trained, folder=two.folder_of))
    finally: torch.set_num_threads(before)
    assert list(together) == list(in_turn) and together.pop('2-1') == 'as it was left'
    assert together == {name: value for name, value in in_turn.items() if name != '2-1'}
    assert all(two.is_done(name) for name in in_turn)

STORY = '''
import os, sys, time
from textdiffusion.forks import in_forks
def slow(k):
    open(f'{sys.argv[1]}/{k}.{os.getpid()}', 'w').close()
    time.sleep(300)
list(in_forks({str(k): lambda k=k: slow(k) for k in range(2)}, 2))
'''

def alive(pid):
    try: return open(f'/proc/{pid}/stat').read().split(') ')[1][0] != 'Z'
    except FileNotFoundError: return False

@linux
@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_forks_end_with_their_run(tmp_path, end):
    story = subprocess.Popen([sys.executable, '-c', STORY, str(tmp_path)], env=environment(), stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    limit = time.monotonic() + 60
    while len(forks := [int(name.split('.')[1]) for name in os.listdir(tmp_path)]) < 2 and time.monotonic() < limit:
        time.sleep(.1)
    assert len(forks) == 2 and all(map(alive, forks))
    story.send_signal(end)
    assert story.wait(30) != 0
    while any(map(alive, forks)) and time.monotonic() < limit: time.sleep(.1)
    assert not any(map(alive, forks))
