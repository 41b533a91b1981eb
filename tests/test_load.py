"Large inputs: time grows no faster than the input, memory stays bounded. Small sizes each day, all by `make soak`"
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PEAK, alone

from textdiffusion import checkout
from textdiffusion.command import listing, record_lines
from textdiffusion.records import find_record, headline, pinned, to_json

SOAK = bool(os.environ.get('SOAK'))
# the grammar ----------------------------------------------------------------------------------------------------------

GRAMMAR = '''
from textdiffusion.grammar import load_grammar
g, n = load_grammar(sys.argv[1]), int(sys.argv[2])
def draw(k): return g.draw(k, torch.Generator().manual_seed(0))
def score(k): return sum(map(g.log_prob, g.sample(k)))
before = peak(); rows = draw(n); drawn = peak() - before        # first: a peak does not show what was drawn before
half, whole = seconds(lambda: draw(n//2), 5), seconds(lambda: draw(n), 5)
print(json.dumps(dict(ratio=whole/half, size=rows.nbytes/2**20, grown=drawn, peak=peak(),
                      scoring=seconds(lambda: score(n//50))/seconds(lambda: score(n//100)))))'''

@pytest.mark.parametrize('name', ['restaurants-large', 'restaurants'][:1 + SOAK])
def test_the_grammar_is_linear_and_needs_little_beside_its_sentences(name):
    found = alone(GRAMMAR, name, 1_000_000 if SOAK else 100_000)
    assert found['ratio'] <= 2.3 and found['scoring'] <= 2.3 and found['grown'] < 1.5*found['size'], found
    assert found['peak'] < 1000, found

# metrics --------------------------------------------------------------------------------------------------------------

METRICS = '''
from textdiffusion.corpora import load_corpus
from textdiffusion.metrics import diversity, oracle_scores
from textdiffusion.scoring import evaluate
corpus, n = load_corpus('restaurants'), int(sys.argv[1])
rows = corpus.fresh(n, torch.Generator().manual_seed(1))
before, found = peak(), {}
def whole(x, c): return evaluate(x, c, n=n)
for name, f in dict(diversity=diversity, oracle_scores=oracle_scores, evaluate=whole).items():
    found[name] = seconds(lambda: f(rows, corpus))/seconds(lambda: f(rows[:n//2], corpus))
print(json.dumps(dict(ratios=found, grown=peak() - before)))'''

def test_metrics_are_linear_and_lean():
    found = alone(METRICS, 100_000 if SOAK else 10_000)
    assert max(found['ratios'].values()) <= 2.3 and found['grown'] < (600 if SOAK else 150), found

# one long line --------------------------------------------------------------------------------------------------------

LINE = '''
from textdiffusion.corpora import load_corpus
import transformers                                                              # not part of what is measured
from transformers import PreTrainedTokenizerFast
before = peak()
corpus = load_corpus(sys.argv[1], data_dir=sys.argv[2] or None)
print(json.dumps(dict(rows=len(corpus.train), grown=peak() - before, peak=peak())))'''

@pytest.fixture(scope='module')
def line(tmp_path_factory):
    "A text of one line, as a file of one's own and as two named corpora"
    folder, r = tmp_path_factory.mktemp('line'), random.Random(0)
    size = 50_000_000 if SOAK else 4_000_000
    text = ' '.join(r.choices('the king speaks of love and war to his lady in the night'.split(), k=size//3))[:size]
    files = dict.fromkeys(['own.txt', 'tiny_shakespeare/input.txt', 'wikitext-2/train.txt'], text)
    files |= dict.fromkeys(['wikitext-2/valid.txt', 'wikitext-2/test.txt'], text[:size//100])
    for name, said in files.items():
        (folder/name).parent.mkdir(exist_ok=True)
        (folder/name).write_text(said, encoding='utf-8')
    return folder, size/2**20

@pytest.mark.parametrize('name', ['own.txt', 'tiny_shakespeare', 'wikitext2'][:1 + 2*SOAK])
def test_a_file_of_one_line(name, line, tmp_path, monkeypatch):
    folder, size = line
    monkeypatch.setenv('TEXTDIFFUSION_CACHE', str(tmp_path))
    own = name == 'own.txt'
    found = alone(LINE, folder/name if own else name, '' if own else folder)
    print(name, found)
    assert found['rows'] > 0 and found['grown'] < 15*size + 110 and found['peak'] < 1024, found

# many records ---------------------------------------------------------------------------------------------------------

def journal(root, n):
    "A checkout whose journal has this many records of 170 KB"
    for folder in ('nbs', 'toylib', 'journal/01_toy'): (root/folder).mkdir(parents=True)
    (root/'settings.ini').write_text('[DEFAULT]\nlib_name = textdiffusion\nlib_path = toylib\n')
    cell = dict(cell_type='markdown', id='a', metadata={}, source='# A toy\n> Is it so?\n- date: 2026-11-21')
    (root/'nbs/01_toy.ipynb').write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    rows = [dict(arm='best', seed=i, valid=i/7, loss=i/3) for i in range(1500)]
    rec = dict(schema=2, entry='01_toy', preset='cpu', corpus='restaurants', corpus_fingerprint='f1e2', parameters={},
               seeds=[0], date='2026-11-21', rows=rows, headline=dict(name='valid', value=.5))
    for i in range(n): (root/f'journal/01_toy/{i:05}.json').write_text(to_json(rec), encoding='utf-8')
    pins = {'01_toy': dict(headline='cpu restaurants', pins={'cpu restaurants': '01_toy/00003'})}
    (root/'journal/pinned.json').write_text(json.dumps(pins))
    return root

def test_a_page_reads_its_own_record_and_a_list_no_rows(tmp_path, monkeypatch):
    root, read = journal(tmp_path/'a', 30), []
    whole = checkout.read_json
    monkeypatch.setattr(checkout, 'read_json', lambda path: read.append(Path(path).name) or whole(path))
    assert headline('01_toy', root)['name'] == pinned('01_toy', 'cpu', 'restaurants', root)['name'] == '01_toy/00003'
    assert find_record('00007', root)['name'] == '01_toy/00007'
    assert [n for n in read if n[0] == '0'] == ['00003.json', '00003.json', '00007.json']
    read.clear()
    assert '(records: 30)' in listing(root) and len(record_lines(root).splitlines()) == 30
    assert not [n for n in read if n[0] == '0' and n.endswith('.json')]

LISTS = '''
from pathlib import Path
from textdiffusion.command import listing, record_lines
root = Path(sys.argv[1])
print(json.dumps(dict(list=seconds(lambda: listing(root)), log=seconds(lambda: record_lines(root)), peak=peak())))'''

@pytest.mark.skipif(not SOAK, reason='170 MB of records: SOAK=1')
def test_a_thousand_records(tmp_path):
    "The command itself, started anew each time"
    root = journal(tmp_path/'a', 1000)
    found = alone(LISTS, root)
    assert found['list'] < 2 and found['log'] < 2 and found['peak'] < 500, found          # torch alone is 220 of these
    for command in (['list'], ['log'], ['log', '--full']):
        code = PEAK + ('import sys, time; start = time.perf_counter(); from textdiffusion.command import main; '
                       'main(sys.argv[1:]); print(time.perf_counter() - start, peak())')
        done = subprocess.run([sys.executable, '-c', code, *command], cwd=root, capture_output=True, text=True)
        took, peak = map(float, done.stdout.splitlines()[-1].split())
        assert took < 4 and peak < 300, (command, took, peak)             # 2 s on a machine with nothing else to do

# a step ---------------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not SOAK, reason='a minute or two, and a quiet machine: SOAK=1')
def test_the_checks_of_a_step_cost_little():
    from step_cost import measured
    found = measured()
    print(found)
    assert all(times < 1.02 for times, _ in found.values()), found
