"""Every arm of every entry alone, and every entry on every corpus that it takes, runs to its end at smoke size: a few
of them each day, all by `make soak`."""
import datetime
import importlib
import os
import random

import pytest
from helpers import REAL_TEXT, ROOT, executed, smoke_run

from textdiffusion.checkout import entries
from textdiffusion.corpora import CORPORA
from textdiffusion.runs import prepare

def test_what_stops_an_entry_is_seen():
    assert "arms 'nonsense' is unknown" in executed('05_anchor_loss', preset='smoke', arms='nonsense').stopped

def alone():
    "(entry, arm) of everything that can be trained alone"
    for name, entry in entries(ROOT).items():
        presets = importlib.import_module(f'textdiffusion.{entry.subject}').PRESETS
        yield from ((name, arm) for arm in presets['smoke'].get('arms', []))

ALL = list(alone())
TODAY = random.Random(datetime.date.today().toordinal()).sample(ALL, 3)

@pytest.mark.parametrize('entry, arm', ALL if os.environ.get('SOAK') else TODAY)
def test_an_arm_runs_alone(entry, arm):
    smoke_run(entry, arms=arm)

# the corpora whose text is at hand; restaurants is what every entry runs on anyway
AT_HAND = [c for c in CORPORA if c not in ('restaurants', 'imdb') and (REAL_TEXT or c == 'restaurants-large')]
PAIRS = [(entry, corpus) for entry in entries(ROOT) for corpus in AT_HAND]

ONE = random.Random(datetime.date.today().toordinal()).sample(PAIRS, 1)

@pytest.mark.parametrize('entry, corpus', PAIRS if os.environ.get('SOAK') else ONE)
def test_an_entry_runs_on_every_corpus_that_it_takes(entry, corpus):
    "What `prepare` lets through ends well; what it refuses is refused in one sentence, before a kernel starts"
    try: prepare(entry, dict(preset='smoke', corpus=corpus), ROOT)
    except ValueError as error:
        assert corpus in str(error)
        return
    found = dict(TEXTDIFFUSION_DATA=REAL_TEXT) if REAL_TEXT else {}
    smoke_run(entry, found, corpus=corpus)
