"""Parameters: what is given, what the preset has, and one sentence for what is wrong."""
import json
import math

import pytest

from textdiffusion.presets import CHECKS, as_list, settle, words

SMOKE = dict(corpus='restaurants', seeds=1, steps=10, lam=.1, lr=1e-3, arms=['baseline'], schedule='sqrt', clamp=True,
             widths=[8],
             note='', bf16=None, on={})
PRESETS = dict(smoke=SMOKE, cpu=SMOKE | dict(steps=1000, arms=['baseline', 'best'], widths=[8, 16],
                                             on={'e2e': dict(steps=600)}))

def test_the_given_goes_before_the_corpus_and_that_before_the_preset():
    assert settle(PRESETS, preset='cpu', steps=None, corpus='').steps == 1000
    assert settle(PRESETS, preset='cpu', corpus='e2e').steps == 600
    assert settle(PRESETS, preset='cpu', corpus='e2e', steps=7).steps == 7
    assert settle(PRESETS, preset='cpu', seq_len=None, data_dir='').seq_len is None

def test_settling_changes_no_preset():
    before = json.dumps(PRESETS)
    settle(PRESETS, preset='cpu', corpus='e2e', arms='best')
    assert json.dumps(PRESETS) == before

def test_auto_is_smoke_in_tests(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    assert settle(PRESETS).preset == 'smoke'

WRONG = [
    (dict(preset='tiny'), 'preset tiny smoke cpu'), (dict(preset='gpu'), 'preset cpu'), (dict(preset=3), 'preset'),
    (dict(corpus='resturants'), 'corpus did you mean restaurants e2e'), (dict(schedule='cubic'), 'schedule cosine'),
    (dict(steps=0), 'steps whole number 0'), (dict(steps=-1), 'steps'), (dict(steps=2.5), 'steps'),
         (dict(steps='abc'), 'steps abc'),
    (dict(steps=10**20), 'steps 10,000,000'), (dict(seeds='[0,1]'), 'seeds'), (dict(seeds=True), 'seeds'),
         (dict(seeds='-inf'), 'seeds'),
    (dict(batch_size=0), 'batch_size'), (dict(samples=0), 'samples'), (dict(samples=99999999999999999999), 'samples'),
    (dict(lam=-.1), 'lam -0.1'), (dict(lam=-1e5), 'lam'), (dict(lam=math.nan), 'lam'), (dict(lam='x'), 'lam'),
         (dict(lr=0), 'lr above 0'),
    (dict(lr=math.inf), 'lr'), (dict(factor=1e308), 'factor'), (dict(factor=1e-308), 'factor'),
         (dict(patience=-1), 'patience'),
    (dict(patience='x'), 'patience'), (dict(constant_c='x'), 'constant_c'), (dict(constant_c=-1), 'constant_c'),
         (dict(table_lr=-1), 'table_lr'),
    (dict(more_calls=99999999), 'more_calls'), (dict(more_calls=0), 'more_calls'), (dict(seq_len=99999999), 'seq_len'),
         (dict(calls=2001), 'calls'),
    (dict(judge_texts=999999999), 'judge_texts'), (dict(bf16='no'), 'bf16 True False'), (dict(bf16='false'), 'bf16'),
         (dict(bf16=1.), 'bf16'),
    (dict(steps='１０'), 'steps'), (dict(steps='1_000'), 'steps 1_000'), (dict(arms='bets'), 'arms bets baseline best'),
    (dict(arms='best,best'), 'arms twice'), (dict(arms=3), 'arms'), (dict(widths='8,many'), 'widths many'),
         (dict(widths=0), 'widths'),
    (dict(clamp='yes'), 'clamp bool'), (dict(data_dir='/no/such/folder'), 'data_dir folder'),
         (dict(data_dir='~nosuchuser'), 'data_dir home'),
    (dict(base_model='./no/such'), 'base_model config.json')]

@pytest.mark.parametrize('given, words', WRONG, ids=str)
def test_a_wrong_value_is_one_clear_sentence(given, words):
    with pytest.raises(ValueError) as e: settle(PRESETS, **dict(preset='cpu') | given)
    assert all(w in str(e.value) for w in words.split()) and '\n' not in str(e.value), str(e.value)

@pytest.mark.parametrize('name', CHECKS)
def test_every_parameter_refuses_nonsense(name):
    numbers = () if CHECKS[name] is words else (math.nan, -math.inf, -7)           # a text may look like a number
    for value in (object(), ['x'], {}, b'x', *numbers):
        with pytest.raises(ValueError, match=name): CHECKS[name](name, value)

def test_an_entry_states_what_it_knows():
    assert settle(PRESETS, preset='cpu', arms='third', choices={'arms': ['best', 'third']}).arms == ['third']
    with pytest.raises(ValueError, match='note'):
        settle(PRESETS, preset='cpu', note='loud', choices={'note': ['quiet']})

LISTS = ['a,b', ' a , b ', '[a, b]', "['a', 'b']", '["a","b"]', ['a', 'b'], ('a', 'b')]

@pytest.mark.parametrize('value', LISTS, ids=str)
def test_lists_as_papermill_passes_them(value): assert as_list('arms', value, ['x']) == ['a', 'b']

def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'data').mkdir()
    assert settle(PRESETS, preset='cpu', data_dir='data').data_dir == str((tmp_path/'data').resolve())
