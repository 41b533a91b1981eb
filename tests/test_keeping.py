"The models of a run, kept as folders: the text is found again by the settings of the run, whatever they are"
from types import SimpleNamespace

import pytest
import torch

from textdiffusion.corpora import load_corpus, settled_corpus
from textdiffusion.keeping import corpus_of, keep_models
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import masked_bound
from textdiffusion.records import Run
from textdiffusion.saved import load_model
from textdiffusion.streams import running_text
from textdiffusion.training import fit

TITLES = [f'the {a} is {b} the river' for a in ('mill', 'pub', 'inn') for b in ('near', 'by', 'behind', 'beside')]*5

@pytest.fixture
def table(tmp_path):
    "A table with two columns of text"
    rows = [f'"{title}","{title} and it serves food"' for title in TITLES]
    (tmp_path/'two.csv').write_text('title,body\n' + '\n'.join(rows) + '\n', encoding='utf-8')
    return tmp_path/'two.csv'

def settings(corpus, **more): return SimpleNamespace(preset='cpu', corpus=str(corpus), data_dir='', **more)

def test_a_table_with_several_columns_is_kept(table, tmp_path):
    cfg = settings(table, column='title', seq_len=None)
    corpus = settled_corpus(cfg)
    assert Run(cfg=cfg).corpus.fingerprint == corpus.fingerprint and 'body' not in corpus.text['train'][0]
    model = MaskedDenoiser(MaskedConfig(vocab_size=corpus.vocab_size, d_model=32, n_layers=1, n_heads=2))
    fit(model, masked_bound(corpus.mask_id), lambda step: corpus.batch(step, 8), 2, folder=tmp_path/'points/a-0')
    kept, left = keep_models(tmp_path/'points', tmp_path/'models', dict(corpus_fingerprint=corpus.fingerprint), cfg)
    assert [p.name for p in kept] == ['a-0'] and not left
    assert load_model(kept[0])[0].config.trained_on['fingerprint'] == corpus.fingerprint

WAYS = {'as it is': {}, 'in a window': dict(seq_len=64), 'one column': dict(column='body'),
        'one column in a window': dict(column='body', seq_len=16)}

@pytest.mark.parametrize('how', WAYS)
def test_the_text_is_found_by_every_setting(how, table):
    own = 'column' in WAYS[how]
    given = dict(seq_len=None, column='') | WAYS[how]
    cfg = settings(table if own else 'restaurants', **given)
    corpus = load_corpus(cfg.corpus, given['seq_len'], column=given['column'] or None)
    assert corpus_of(dict(corpus_fingerprint=corpus.fingerprint), cfg).fingerprint == corpus.fingerprint
    assert corpus_of(dict(corpus_fingerprint='another'), cfg) is None

@pytest.mark.parametrize('own', [True, False])
def test_running_text_is_found_too(own, table):
    how = dict(column='body') if own else dict(lines=60)
    corpus = running_text(str(table) if own else 'restaurants', 16, **how)
    found = corpus_of(dict(corpus_fingerprint=corpus.fingerprint), settings(table if own else 'restaurants', seq_len=16,
                                                                             **how))
    assert found.fingerprint == corpus.fingerprint and torch.equal(found.test, corpus.test)
