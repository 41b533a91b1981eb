"""What nobody wrote down by hand: any value for any parameter of any entry, records, pins, saved models and texts
damaged at random. Each is taken, or refused in one sentence that says where; more of them under SOAK=1."""
import functools
import importlib
import inspect
import json
import math
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, new_model, toy_checkout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from textdiffusion import corpora
from textdiffusion.checkout import KEYS, entries, heading_of, read_record
from textdiffusion.claims import pin
from textdiffusion.command import listing, main, record_lines
from textdiffusion.corpora import load_corpus
from textdiffusion.presets import CHECKS, PRESET_NAMES, as_list, checked, literal, settle
from textdiffusion.records import find_record, headline, pinned, read_pins
from textdiffusion.runs import page_faults, parameter_names, prepare
from textdiffusion.saved import load_model, save_model

MORE = 20 if os.environ.get('SOAK') else 1
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]

def tried(n):
    "So many examples, always the same ones; under SOAK=1 twenty times as many"
    return settings(max_examples=n*MORE, derandomize=True, deadline=None, database=None, suppress_health_check=QUIET)

def one_sentence(error, name=''):
    "That an error says it in one line, naming what is wrong"
    said = str(error)
    assert 15 < len(said) < 700 and '\n' not in said and name in said and 'object at 0x' not in said, said

# every parameter of every entry ---------------------------------------------------------------------------------------

ENTRIES = entries(ROOT)

@functools.cache
def entry(name):
    "Presets, choices, parameters, and the check of an entry, as `prepare` takes them"
    module, known = importlib.import_module(f'textdiffusion.{ENTRIES[name].subject}'), parameter_names(ENTRIES[name])
    choices = ({'arms': module.ARMS} if hasattr(module, 'ARMS') else {}) | getattr(module, 'CHOICES', {})
    return SimpleNamespace(presets=module.PRESETS, choices=choices, names=known, check=getattr(module, 'check', None))

ODD = ['', ' ', ',', '[]', '()', '[[]]', '{}', 'None', 'True', 'no', 'nan', '-inf', '1e308', '1e-308', '-0.', '1_000',
       '１０', '٣', '0x10', '~', '~nosuchuser', '/', '..', '/dev/zero', '/proc/self/mem', '\0', 'a\0b', 'a\nb', '\x1b[2J',
       '\ud800', 'x'*5000, '9'*4000, '-p', '--preset', '$HOME', '*', 'con', 'best,best', '[1, 2', '1,1']
TYPED = st.one_of(st.sampled_from(ODD), st.integers().map(str), st.floats().map(str), st.text(max_size=30),
                  st.lists(st.integers(-9, 99), max_size=3).map(lambda x: ','.join(map(str, x)))).map(literal)
GIVEN = st.recursive(st.one_of(TYPED, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=5)),
                     lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=2),
                     max_leaves=4)

def ends(check):
    "The declared range of a parameter, None where it is none of numbers"
    return {k: v for k, v in inspect.getclosurevars(check).nonlocals.items() if k in ('low', 'high')} or None

def inside(name, value):
    "That a value which was taken lies in the range declared for its parameter, and is of a kind that a record holds"
    if isinstance(value, list): return value and all(inside(name, v) for v in value)
    json.dumps(value, allow_nan=False)
    bounds = ends(CHECKS[name]) if name in CHECKS else None
    return not bounds or bounds['low'] <= value <= bounds['high'] and math.isfinite(value)

@pytest.mark.parametrize('name', ENTRIES)
def test_every_parameter_has_a_declared_range(name):
    known = {'preset', 'arms', *CHECKS, *entry(name).choices}
    assert set(entry(name).names) <= known, set(entry(name).names) - known
    assert 'check(run.cfg' not in ENTRIES[name].path.read_text(encoding='utf-8') or entry(name).check
    for preset in entry(name).presets.values():
        for key, value in preset.items():                                  # and what the presets have is in it
            assert key not in CHECKS or value in (None, '') or inside(key, value), (key, value)

@pytest.mark.parametrize('name', ENTRIES)
@tried(15)
@given(data=st.data())
def test_any_value_of_any_parameter_is_taken_or_refused_by_name(name, data):
    e = entry(name)
    preset, key = data.draw(st.sampled_from(sorted(e.presets))), data.draw(st.sampled_from(e.names))
    value = data.draw(GIVEN)
    begun = time.monotonic()
    try: taken = getattr(settle(e.presets, choices=e.choices, **(dict(preset=preset) | {key: value})), key)
    except ValueError as error: one_sentence(error, key)
    else: assert taken in (None, '') or inside(key, taken), (key, value, taken)
    assert time.monotonic() - begun < 5

@functools.cache
def at_hand(seq_len=None): return load_corpus('restaurants', seq_len)

CHECKED = [n for n in ENTRIES if hasattr(importlib.import_module(f'textdiffusion.{ENTRIES[n].subject}'), 'check')]
CUT = ('06c', '06g', '06h') # cut the text into pieces first, which takes seconds

@pytest.mark.parametrize('name', [n for n in CHECKED if MORE > 1 or not n.startswith(CUT)])
@tried(4)
@given(data=st.data())
def test_what_passed_alone_is_asked_together_with_the_text(name, data):
    "The entry's own check, with numbers from anywhere in their ranges: silent, or one sentence"
    e = entry(name)
    drawn = {k: data.draw(st.integers(max(1, math.ceil(b['low'])), int(b['high']))) for k in e.names
             if k in CHECKS and (b := ends(CHECKS[k])) and k != 'seq_len' and data.draw(st.booleans())}
    cfg = settle(e.presets, choices=e.choices, preset='smoke', **drawn)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(corpora, 'load_corpus', lambda *_, **__: at_hand())
        try: e.check(SimpleNamespace(**dict.fromkeys(e.names) | vars(cfg)), at_hand())
        except ValueError as error: one_sentence(error)

@tried(100)
@given(value=GIVEN, like=st.sampled_from([['a'], [1], [.5], 1, .5, True, 'a']))
def test_a_value_without_a_table_is_of_the_kind_that_the_preset_has(value, like):
    try: taken = checked('knob', value, like)
    except ValueError as error: one_sentence(error, 'knob')
    else: assert type(taken) is type(like) and (type(like) is not list or as_list('knob', taken, like) == taken)

# records and pins damaged by hand -------------------------------------------------------------------------------------

ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                        lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=4), x, max_size=2),
                        max_leaves=4)
WHERE = [('entry',), ('preset',), ('corpus',), ('corpus_fingerprint',), ('parameters',), ('seeds',), ('date',),
         ('rows',), ('headline',), ('schema',), ('rows', 0), ('rows', 0, 'loss'), ('rows', 0, 'arm'),
         ('rows', 0, 'seed'), ('headline', 'name'), ('headline', 'value'), ('parameters', 'arms'), ('seconds',),
         ('device',)]
RECORD = dict(schema=2, entry='01_toy', question='Does it run?', preset='cpu', corpus='restaurants', date='2026-11-21',
              corpus_fingerprint='f1e2', parameters=dict(preset='cpu', corpus='restaurants', arms=['best']), seeds=[0],
              rows=[dict(arm='best', seed=0, loss=.5)], headline=dict(name='loss', value=.5), seconds=1., device='cpu')
PINS = {'01_toy': dict(headline='cpu restaurants', pins={'cpu restaurants': '01_toy/one'})}
PIN_PLACES = [(), ('01_toy',), ('01_toy', 'headline'), ('01_toy', 'pins'), ('01_toy', 'pins', 'cpu restaurants')]

@st.composite
def damaged(draw, whole, places):
    "JSON text with one place dropped, renamed or of another kind, with a piece cut out, or cut short"
    value = json.loads(json.dumps(whole))
    how, (*path, last) = draw(st.sampled_from(['drop', 'rename', 'other', 'other', 'cut', 'hole'])), \
        draw(st.sampled_from([p for p in places if p]))
    at = functools.reduce(lambda v, k: v[k], path, value)
    if how == 'drop': del at[last]
    if how == 'rename' and isinstance(at, dict): at[draw(st.text(max_size=5))] = at.pop(last)
    if how == 'other': at[last] = draw(ANYTHING)
    text = json.dumps(value, indent=draw(st.sampled_from([None, 1])))
    start = draw(st.integers(0, len(text)))
    if how == 'cut': return text[:start]
    return text[:start] + text[start + draw(st.integers(1, 9)):] if how == 'hole' else text

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A checkout with a toy entry that is asked again and again"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(corpora, 'load_corpus', lambda name, **_: SimpleNamespace(name=name, fingerprint='f1e2'))
        with toy_checkout(tmp_path_factory.mktemp('damage')/'toy') as root:
            (root/'journal/01_toy').mkdir()
            yield root

def asked(root):
    "Everything that reads the journal, by name"
    path = root/'journal/01_toy/one.json'
    return dict(list=lambda: listing(root), log=lambda: record_lines(root), read=lambda: read_record(path),
                heading=lambda: heading_of(path), pin=lambda: pin('one', root=root),
                find=lambda: find_record('one', root), headline=lambda: headline('01_toy', root),
                pinned=lambda: pinned('01_toy', 'cpu', 'restaurants', root),
                pins=lambda: read_pins(root), gate=lambda: page_faults(path, root),
                prepare=lambda: prepare('01_toy', dict(preset='cpu'), root))

def answered(root):
    "What each of them says: a result, or one sentence"
    for name, ask in asked(root).items():
        try: ask()
        except (ValueError, FileNotFoundError) as error: one_sentence(error)

def laid(root, record=json.dumps(RECORD), pins=json.dumps(PINS)):
    "A journal with this record and these pins"
    (root/'journal/01_toy/one.json').write_text(record, encoding='utf-8', errors='surrogatepass')
    (root/'journal/pinned.json').write_text(pins, encoding='utf-8', errors='surrogatepass')

def test_an_undamaged_journal_answers(toy):
    laid(toy)
    for name, ask in asked(toy).items(): assert ask() is not None, name
    assert heading_of(toy/'journal/01_toy/one.json').items() <= read_record(toy/'journal/01_toy/one.json').items()

@tried(30)
@given(text=damaged(RECORD, WHERE))
def test_a_damaged_record_is_one_sentence(toy, text):
    laid(toy, record=text)
    answered(toy)

@tried(20)
@given(text=damaged(PINS, PIN_PLACES))
def test_damaged_pins_are_one_sentence(toy, text):
    laid(toy, pins=text)
    answered(toy)

@tried(60)
@given(text=damaged(RECORD, WHERE))
def test_a_heading_says_what_the_record_says(toy, text):
    "Passing over a record's rows never finds another headline than reading all of it"
    laid(toy, record=text)
    path = toy/'journal/01_toy/one.json'
    try: whole = read_record(path)
    except ValueError: return
    assert heading_of(path) == {k: whole[k] for k in ('headline', 'corpus_fingerprint', 'name')}

@pytest.mark.parametrize('name, text', [
    ('journal/damaged.json', '[]'), ('journal/damaged.json', '{"f1e2": 3}'), ('journal/damaged.json', '{'),
    ('journal/claims.json', '{}'), ('journal/claims.json', '[3]'), ('journal/claims.json', '[{"entry": "01_toy"}]'),
    ('journal/claims.json', '[{"id": 1, "entry": "01_toy", "statement": "x", "value": null, "unit": null, '
                            '"conditions": null, "verdict": "measured", "fact": "loss"}]'),
    ('nbs/01_toy.ipynb', '{}'), ('nbs/01_toy.ipynb', '{"cells": []}'), ('nbs/01_toy.ipynb', '[' * 100_000),
    ('journal/01_toy/one.json', '[' * 100_000), ('journal/pinned.json', '[' * 100_000)])
def test_other_files_of_the_journal(toy, name, text, capsys):
    laid(toy)
    before = (toy/name).read_text(encoding='utf-8') if (toy/name).exists() else None
    (toy/name).write_text(text, encoding='utf-8')
    try:
        answered(toy)
        for words in (['list'], ['log'], ['render', 'one'], ['render', '01_toy'], ['pin', 'one']):
            if words[0] == 'render' and name in ('journal/claims.json', 'journal/damaged.json'): continue    # not read
            main(words, toy)
            assert 'Traceback' not in capsys.readouterr().err
    finally: (toy/name).unlink() if before is None else (toy/name).write_text(before, encoding='utf-8')

# saved models ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def models(corpus, tmp_path_factory):
    "kind -> the folder of a saved model"
    root = tmp_path_factory.mktemp('models')
    return {kind: save_model(new_model(corpus, kind), root/kind, corpus.tokenizer)
            for kind in ('masked', 'vectors', 'causal')}

@st.composite
def spoilt(draw):
    "folder -> None: a change of one file of a saved model"
    which = draw(st.sampled_from(['tensor', 'config', 'config', 'file', 'bytes']))
    pick, other, n = draw(st.integers(0, 99)), draw(ANYTHING), draw(st.integers(0, 10**6))
    how = draw(st.sampled_from(['drop', 'rename', 'other']))
    def tensor(folder):
        found = load_file(folder/'model.safetensors')
        name = sorted(found)[pick % len(found)]
        value = found.pop(name)
        if how == 'rename': found[name + 'x'] = value
        if how == 'other': found[name] = value.repeat(2, *[1]*(value.ndim - 1)) if value.ndim else value.repeat(2)
        save_file(found, folder/'model.safetensors', metadata=dict(format='pt'))
    def config(folder):
        fields = json.loads((folder/'config.json').read_text())
        name = sorted(fields)[pick % len(fields)]
        value = fields.pop(name)
        if how == 'rename': fields[name + 'x'] = value
        if how == 'other': fields[name] = other
        (folder/'config.json').write_text(json.dumps(fields))
    def file(folder):
        path = sorted(folder.iterdir())[pick % len(list(folder.iterdir()))]
        path.unlink() if how == 'drop' else path.rename(path.with_name(path.name + 'x')) if how == 'rename' else \
            path.write_text(json.dumps(other))
    def raw(folder):
        path = sorted(folder.iterdir())[pick % len(list(folder.iterdir()))]
        data = path.read_bytes()
        at = n % len(data)
        path.write_bytes(data[:at] if how == 'drop' else data[:at] + data[at+1:] if how == 'rename' else
                         data[:at] + bytes([n % 256]) + data[at+1:])
    return dict(tensor=tensor, config=config, file=file, bytes=raw)[which]

@tried(40)
@given(kind=st.sampled_from(['masked', 'vectors', 'causal']), spoil=spoilt())
def test_a_damaged_model_is_whole_or_one_sentence(models, kind, spoil):
    "It is read, and then writes; or it is refused in a sentence that names its folder"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(models[kind], Path(place)/'model'))
        spoil(folder)
        try: model, _ = load_model(folder)
        except ValueError as error: return one_sentence(error, 'model')
        how = {} if kind == 'causal' else dict(steps=2)
        try: assert model.generate(num_return_sequences=1, seed=0, **how).ndim == 2
        except (ValueError, TypeError) as error: one_sentence(error)

# texts ----------------------------------------------------------------------------------------------------------------

ROWS = [f'the place {i} serves fish and chips number {i % 7} , said "{i}" .' for i in range(60)]
QUOTED = ['"' + r.replace('"', '""') + '"' for r in ROWS]
FILES = {'a.txt': '\n'.join(ROWS) + '\n', 'a.csv': 'n,text\n' + ''.join(f'{i},{q}\n' for i, q in enumerate(QUOTED)),
         'a.tsv': 'n\ttext\n' + ''.join(f'{i}\t{q}\n' for i, q in enumerate(QUOTED)),
         'a.jsonl': ''.join(json.dumps(dict(text=r, n=i)) + '\n' for i, r in enumerate(ROWS))}
NAMED = {'e2e': ('e2e/trainset.csv', 'mr,ref\n' + ''.join(f'"name[a{i}]",{q}\n' for i, q in enumerate(QUOTED))),
         'wikitext2': ('wikitext-2/train.txt', ''.join(f' {r} \n' for r in ROWS)*3),
         'tiny_shakespeare': ('tiny_shakespeare/input.txt', '\n'.join(ROWS)*2),
         'rotten_tomatoes': ('rotten_tomatoes/rt-polarity.pos', '\n'.join(ROWS) + '\n')}
BESIDE = {'e2e': ['e2e/devset.csv', 'e2e/testset_w_refs.csv'],
          'wikitext2': ['wikitext-2/valid.txt', 'wikitext-2/test.txt'],
          'rotten_tomatoes': ['rotten_tomatoes/rt-polarity.neg']}

@st.composite
def harmed(draw, text):
    "The bytes of a text with some damage: pieces lost, doubled, moved, foreign bytes, cut short"
    data = text.encode()
    for _ in range(draw(st.integers(1, 3))):
        a, n = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        new = draw(st.sampled_from([b'', data[a:a+n]*2, b'\xff', b'\0', b'"', b'""', b'\r', b'\n\n', b',',
                                    b'\t', b'{', b'\\ud800', b'\x1a', *map(str.encode, '\ufeff\u2028é'),
                                    'Ã©'.encode()]))
        data = data[:a] if draw(st.integers(0, 19)) == 0 else data[:a] + new + data[a+n:]
    return draw(st.sampled_from([data, data, data, data.decode('utf-8', 'replace').encode('utf-16'), b'', data[::-1]]))

def is_corpus(load):
    "A corpus with three splits of whole rows, or one sentence; and within ten seconds"
    begun = time.monotonic()
    try: got = load()
    except (ValueError, FileNotFoundError) as error: one_sentence(error)
    else:
        assert all(len(getattr(got, s)) and getattr(got, s).shape[1] == got.seq_len for s in ('train', 'valid', 'test'))
        assert int(got.train.max()) <= got.vocab_size and int(got.train.min()) >= 0
        assert not re.search('[\0\ud800-\udfff]', ''.join(got.text['train']))
    assert time.monotonic() - begun < 10

@pytest.mark.parametrize('name', FILES)
@tried(25)
@given(data=st.data())
def test_a_damaged_file_of_ones_own_is_a_corpus_or_one_sentence(name, data):
    raw, column = data.draw(harmed(FILES[name])), data.draw(st.sampled_from([None, 'text', 'txt']))
    with tempfile.TemporaryDirectory() as place:
        (path := Path(place)/name).write_bytes(raw)
        is_corpus(lambda: load_corpus(path, seq_len=data.draw(st.sampled_from([None, 4, 16])), column=column))

@pytest.mark.parametrize('name', NAMED)
@tried(15)
@given(data=st.data())
def test_a_damaged_file_of_a_known_corpus_is_a_corpus_or_one_sentence(name, data):
    (spoilt_file, text), good = NAMED[name], NAMED[name][1]
    raw = data.draw(harmed(text))
    with tempfile.TemporaryDirectory() as place:
        for file in BESIDE.get(name, []):
            (Path(place)/file).parent.mkdir(exist_ok=True)
            (Path(place)/file).write_text(good.replace('MR', 'mr'), encoding='utf-8')
        (Path(place)/spoilt_file).parent.mkdir(exist_ok=True)
        (Path(place)/spoilt_file).write_bytes(raw)
        is_corpus(lambda: load_corpus(name, seq_len=16, data_dir=place))

def test_the_presets_have_the_names_that_every_entry_knows():
    assert {p for n in ENTRIES for p in entry(n).presets} <= set(PRESET_NAMES) and KEYS.keys() <= RECORD.keys()
