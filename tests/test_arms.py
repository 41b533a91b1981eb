"""Every arm of every entry alone, and every entry on every corpus that it takes, runs to its end at smoke size: a few
of them each day, all by `make soak`. Their cells are executed in a fork of this process, which has the libraries."""
import datetime
import importlib
import multiprocessing
import os
import random
import traceback

import papermill
import pytest
import torch
from execnb.shell import CaptureShell
from helpers import REAL_TEXT, ROOT, environment
from papermill.parameterize import parameterize_notebook

from textdiffusion.checkout import entries
from textdiffusion.corpora import CORPORA
from textdiffusion.runs import prepare

def _cells(entry, given, variables, said):
    "Execute the cells of an entry; `said` gets the traceback of what stopped it, or nothing"
    try:
        around = environment(MPLBACKEND='agg', **variables)
        os.environ.clear(); os.environ.update(around)
        os.chdir(ROOT/'nbs'); torch.set_num_threads(1)
        notebook = parameterize_notebook(papermill.iorw.load_notebook_node(f'{entry}.ipynb'), given)
        shell = CaptureShell()
        for cell in notebook.cells:
            if cell.cell_type == 'code': shell.run(cell.source)
            if shell.exc: raise shell.exc
        said.send('')
    except BaseException: said.send(traceback.format_exc())

def executed(entry, variables={}, **given):
    "Why an entry stopped, '' if it did not, with these variables of the environment and these parameters"
    fork = multiprocessing.get_context('fork')
    mine, said = fork.Pipe(duplex=False)
    child = fork.Process(target=_cells, args=(entry, given, variables, said))
    child.start(); said.close()
    why = mine.recv() if mine.poll(600) else 'no end after ten minutes'
    child.kill(); child.join()
    return why

def test_what_stops_an_entry_is_seen():
    assert "arms 'nonsense' is unknown" in executed('05_anchor_loss', preset='smoke', arms='nonsense')

def alone():
    "(entry, arm) of everything that can be trained alone"
    for name, entry in entries(ROOT).items():
        presets = importlib.import_module(f'textdiffusion.{entry.subject}').PRESETS
        yield from ((name, arm) for arm in presets['smoke'].get('arms', []))

ALL = list(alone())
TODAY = random.Random(datetime.date.today().toordinal()).sample(ALL, 3)

@pytest.mark.parametrize('entry, arm', ALL if os.environ.get('SOAK') else TODAY)
def test_an_arm_runs_alone(entry, arm):
    assert executed(entry, preset='smoke', arms=arm) == ''

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
    assert executed(entry, found, preset='smoke', corpus=corpus) == ''
