"""Every arm of every entry runs alone to its end at smoke size: a few of them each day, all by `make soak`."""
import datetime
import importlib
import os
import random

import pytest
from helpers import ROOT, call

from textdiffusion.checkout import entries

def alone():
    "(entry, arm) of everything that can be trained alone"
    for name, entry in entries(ROOT).items():
        presets = importlib.import_module(f'textdiffusion.{entry.subject}').PRESETS
        yield from ((name, arm) for arm in presets['smoke'].get('arms', []))

ALL = list(alone())
TODAY = random.Random(datetime.date.today().toordinal()).sample(ALL, 3)

@pytest.mark.parametrize('entry, arm', ALL if os.environ.get('SOAK') else TODAY)
def test_an_arm_runs_alone(entry, arm, tmp_path):
    page = tmp_path/'page.ipynb'
    done = call('papermill', ROOT/f'nbs/{entry}.ipynb', page, '-p', 'preset', 'smoke', '-p', 'arms', arm,
                '--no-progress-bar')
    assert done.returncode == 0, done.stderr[-1500:]
