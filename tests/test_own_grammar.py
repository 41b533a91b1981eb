"A language that someone else wrote: its file, what is said of files that are none, and a run on it"
import hashlib
import itertools
import json
import re
import shutil
import sys
import time
import zipfile

import pytest
import torch
from helpers import ROOT, call, executed, refused_at_once, smoke_run
from hypothesis import given, settings
from hypothesis import strategies as st

from textdiffusion.corpora import load_corpus, oracle
from textdiffusion.grammar import GRAMMARS, Grammar, load_grammar
from textdiffusion.oracles import masked_oracle
from textdiffusion.rules import check_whole, read_rules
from textdiffusion.streams import running_text

WEATHER = ROOT/'tests/data/weather.grammar'

# what is wrong, the file, the line that is named (None: the file as a whole) and what the sentence says
TEXT = '<Text> = it is <A> .\n'
wide = '<Text> = ' + ' '.join(f'<B{i}>' for i in range(200)) + ''.join(
    f'\n<B{i}> = ' + ' | '.join(f'w{j}' for j in range(300)) for i in range(200))
unit = '<Text> = <A0>\n' + ''.join(f'<A{i}> = <A{i+1}> a{i} | <A{i+1}> b{i}\n' for i in range(40)) + '<A40> = y'
repeats = '<Text> = ' + ' '.join(f'<{s}#> <{s}#>' for s in 'abcdef') + ''.join(
    f'\n<{s}> = ' + ' | '.join(f'{s}{i}' for i in range(10)) for s in 'abcdef')
pairs = '<Text> = ' + ' | '.join(f'the same words until w{i}' for i in range(2000))
same = '<Text> = ' + ' '.join('<A>' for _ in range(30)) + '\n<A> = a | a a'
BAD = dict(
    empty=('', None, 'is empty'), comments=('# nothing\n\n', None, 'holds no rule'),
    encoding=(TEXT.encode() + b'<A> = caf\xe9', 2, 'not UTF-8'), large_file=('#'*1_000_001, None, '1,000,001 bytes'),
    no_start=('<Report> = it rains', None, 'start symbol <Text> has no rule'),
    no_rule=(TEXT + '<B> = cold', 1, '<A> has no rule'),
    misspelt=(TEXT + '<A> = <Colour>\n<Color> = red', 2, '<Colour>'),
    never_reached=(TEXT + '<A> = cold\n<B> = warm', 3, '<B> is never reached'),
    recursion=(TEXT + '<A> = cold\n    | very <B>\n<B> = so <A>', 4, 'A > B > A'),
    recursion_at_once=('<Text> = so <Text> | yes', 1, 'Text > Text'),
    deep=('<Text> = <A0>\n' + ''.join(f'<A{i}> = <A{i+1}>\n' for i in range(500)) + '<A500> = x', 101, 'nested'),
    zero=(TEXT + '<A> = [0] cold | [1] warm', 2, '[0] is no positive number'),
    negative=(TEXT + '<A> = [-2] cold | [1] warm', 2, '[-2]'), nan=(TEXT + '<A> = [nan] a | [1] b', 2, '[nan]'),
    infinite=(TEXT + '<A> = [inf] a | [1] b', 2, '[inf]'), no_number=(TEXT + '<A> = [often] a | b', 2, '[often]'),
    some_weights=(TEXT + '<A> = [2] cold\n    | warm', 2, 'some alternatives of <A> have a weight'),
    late_weight=(TEXT + '<A> = cold [2] | warm', 2, "'[2]' is no word: a weight stands at the start"),
    second_rule=(TEXT + '<A> = cold\n<A> = warm', 3, 'has a rule already'),
    twice=(TEXT + '<A> = cold\n    | warm | cold', 3, 'stands there twice'),
    ambiguous=(TEXT + '<A> = cold <B> | cold and wet\n<B> = and wet | today', 2, "'it is cold and wet .'"),
    shortest=(TEXT + '<A> = very very cold <B>\n    | cold <B>\n<B> = X | x/X | x/SYM', 4, "'it is cold x .'"),
    ambiguous_repeat=('<Text> = <A#> <A#>\n       | ho ho\n<A> = ha | ho', 1, "'ho ho'"),
    mask=(TEXT + '<A> = [MASK] | b', 2, '[MASK]'), special=(TEXT + '<A> = a [PAD]', 2, "'[PAD]' is no word"),
    unclosed=(TEXT + '<A> = <B | c', 2, "'<B'"), two_words=(TEXT + '<A> = <B c>', 2, "'<B'"),
    number_name=(TEXT + '<A> = <1>', 2, "'<1>'"), variant=(TEXT + '<A:1> = a', 2, "'<A:1>'"),
    bracket=(TEXT + '<A> = a] | b', 2, "'a]' is no word"), tag=(TEXT + '<A> = cold/adj', 2, "'adj' in 'cold/adj'"),
    only_tag=(TEXT + '<A> = /ADJ', 2, "'/ADJ' is no word"), no_equals=(TEXT + '<A> cold', 2, 'found no = behind <A>'),
    no_brackets=(TEXT + 'A = cold', 2, "got 'A'"), prose=('It rains today.', 1, "got 'It'"),
    indented=(TEXT + '<A> = cold\n <B> = warm', 3, "'=' is no word: a rule starts at the beginning"),
    empty_alternative=(TEXT + '<A> = cold | | warm', 2, 'alternative of <A> is empty'),
    nothing=(TEXT + '<A> =', 2, 'alternative of <A> is empty'), marked_head=(TEXT + '<A#> = a', 2, "'<A#>'"),
    mark_once=(TEXT + '<A> = <B#> a\n<B> = b | c', 2, 'stands there once'),
    mark_of_symbols=(TEXT + '<A> = <B#> <B#>\n<B> = b | <C>\n<C> = c', 2, 'holds symbols'),
    slot=('slots: <Colour>\n' + TEXT + '<A> = a', 1, "slot 'Colour' is the name of no symbol"),
    slot_twice=(TEXT + '<A> = a\nslots: <A> <A>', 3, 'declared twice'), slot_name=('slots: A\n' + TEXT, 1, "got 'A'"),
    arcs=(wide, None, 'more than 50,000 arcs'), ways=(unit, None, 'more than 50,000 arcs'),
    repeats=(repeats, None, 'more than 50,000 alternatives'), long=('<Text> =' + ' well'*300, None, '300 words'),
    same=(same, 2, 'ambiguous'), pairs=(pairs, None, 'more than 300,000 pairs'))

@pytest.mark.parametrize('case', BAD)
def test_bad_grammars_are_refused_in_one_sentence(case, tmp_path):
    text, line, words = BAD[case]
    path = tmp_path/'my own.grammar'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.perf_counter()
    with pytest.raises(ValueError) as refused: load_corpus(str(path))
    said = str(refused.value)
    assert time.perf_counter() - start < 10
    assert said.startswith(str(path)) and words in said and '\n' not in said and len(said) < 600, said
    assert line is None or re.match(rf'(, |: )line {line}\b', said[len(str(path)):]), said
    assert [p.name for p in tmp_path.iterdir()] == ['my own.grammar']


def test_a_name_that_is_none_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match='expected restaurants, restaurants-large or the path of a file'):
        load_grammar('bistros')
    (tmp_path/'folder.grammar').mkdir()
    for name in ('gone.grammar', 'folder.grammar'):
        with pytest.raises(FileNotFoundError, match='there is no such file'): load_grammar(tmp_path/name)

def test_a_command_refuses_a_bad_grammar_before_anything_is_written(tmp_path):
    bad = tmp_path/'joke.grammar'
    bad.write_text('<Text> = they saw her duck | they saw <Thing>\n<Thing> = her duck/NOUN', 'utf-8')
    def runs(): return sorted((ROOT/'.runs').glob('*'))
    before = runs()
    refused_at_once(['joke.grammar, line 1', "'they saw her duck'"], 'run', '05', '--corpus', bad)
    assert runs() == before

# ---- what a file may say, and what becomes of it ---------------------------------------------------------------------

def test_the_form_leaves_room():
    "Tags, slots, weights, comments, spaces, line ends and a byte-order mark are free"
    plain = '<Text> = a <B> .\n<B> = [3] b | [1] c'
    free = ('slots: <B>   # a comment\n\n<Text>=a/DET <B> ./PUNCT # and\n\n# between\n<B>  =  [.75] b\n'
            '\t|[.25] c/NOUN\n')
    one, other = (Grammar('x', read_rules(text)) for text in (plain, free))
    assert one.words == other.words == ['.', 'a', 'b', 'c'] and torch.equal(one.prob, other.prob)
    assert (one.tags('a c .'.split()), other.tags('a c .'.split())) == (['', '', ''], ['DET', 'NOUN', 'PUNCT'])
    assert (one.slots('a c .'.split()), other.slots('a c .'.split())) == ({}, {'B': 'c'})

def test_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path/'wine.grammar'
    path.write_bytes('\ufeff<Text> = ein <Glas>\r\n<Glas> = Gewürztraminer\r\n     | 酒'.encode())
    assert load_grammar(path).words == ['Gewürztraminer', 'ein', '酒']

words = st.lists(st.sampled_from('a b c d'.split()), min_size=1, max_size=3).map(' '.join)

@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=4, unique=True), st.lists(words, min_size=1, max_size=4, unique=True))
def test_ambiguity_agrees_with_enumeration(first, second):
    "A language of two parts is refused exactly where two of their pairs read the same, and with a shortest of those"
    text = f'<Text> = <A> <B>\n<A> = {" | ".join(first)}\n<B> = {" | ".join(second)}'
    said = [f'{a} {b}'.split() for a, b in itertools.product(first, second)]
    twice = [s for s in said if said.count(s) > 1]
    if not twice:
        assert sorted(w for w, _ in Grammar('x', read_rules(text)).enumerate_sentences()) == sorted(said)
        return
    with pytest.raises(ValueError) as refused: Grammar('x', read_rules(text))
    shown = re.search("'(.*)' can be", str(refused.value))[1].split()
    assert shown in twice and len(shown) == min(map(len, twice))

# ---- the languages of the journal ------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, first, nats, known', [
    ('restaurants', '63603761dc05', '0x1.45a17a7b4e243p+3', 'a0cf2def7a79'),
    ('restaurants-large', '88161d3b915a', '0x1.fd439b63c3c10p+3', 'cc1cb6d92c54')])
def test_as_files_they_are_what_they_were_as_strings(name, first, nats, known):
    "Draws, log-probabilities and fingerprint to the last bit"
    grammar = load_grammar(name)
    ids = grammar.draw(20_000, torch.Generator().manual_seed(5))
    assert hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:12] == first and grammar.entropy().hex() == nats
    assert load_corpus(name).fingerprint == known and check_whole(grammar.book) == grammar.rules

def test_they_are_installed_with_the_package(tmp_path):
    "A wheel, which is what `pip install .` unpacks, holds the grammars"
    for name in ('setup.py', 'settings.ini', 'README.md', 'pyproject.toml', 'LICENSE'):
        shutil.copy(ROOT/name, tmp_path)
    shutil.copytree(ROOT/'textdiffusion', tmp_path/'textdiffusion', ignore=shutil.ignore_patterns('__pycache__'))
    done = call(sys.executable, 'setup.py', '-q', 'bdist_wheel', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    wheel, = (tmp_path/'dist').glob('*.whl')
    held = {n for n in zipfile.ZipFile(wheel).namelist() if n.endswith('.grammar')}
    assert held == {f'textdiffusion/grammars/{name}.grammar' for name in GRAMMARS}

# ---- a language that is not ours -------------------------------------------------------------------------------------

def test_the_weather_is_another_language_of_like_entropy():
    weather, ours = load_grammar(WEATHER), load_grammar('restaurants')
    assert len(weather.words) >= 60 and abs(weather.entropy() - ours.entropy()) < 1
    far = [w for w in weather.sample(2000) if {':', 'but', 'either'} & set(w)]      # their end agrees with their start
    assert .3 < len(far)/2000 < .42
    assert len(set(weather.words) & set(ours.words)) < 15

@pytest.mark.parametrize('good, bad', [
    ('drizzle over kent at dawn : pack boots .', 'drizzle over kent at dawn : pack water .'),
    ('kent will wake up to thick fog , but tonight a gale reaches kent .',
     'kent will wake up to thick fog , but tonight a gale reaches wales .'),
    ('expect either drizzle or hail in wales tonight .', 'expect drizzle or hail in wales tonight .')])
def test_it_agrees_over_distance(good, bad):
    weather = load_grammar(WEATHER)
    assert weather.contains(good.split()) and not weather.contains(bad.split())


def test_it_is_a_corpus_like_ours():
    corpus, again = load_corpus(str(WEATHER)), oracle(WEATHER)
    assert (corpus.name, corpus.seq_len) == ('weather', corpus.grammar.max_len + 2)
    assert corpus.fingerprint == again.fingerprint and corpus.grammar is again.grammar
    assert corpus.info['source'] == 'oracle' and str(ROOT) not in json.dumps(corpus.info)
    assert all(corpus.grammar.contains(w) for w in corpus.words(corpus.batch(3, 64)))
    z = corpus.test[:8].clone()
    z[:, 1] = corpus.mask_id
    p = masked_oracle(corpus)(z, None).exp()
    assert (p.gather(-1, corpus.test[:8, :, None])[:, 1] > 0).all()
    stream = running_text(str(WEATHER), 64, lines=50)
    assert stream.name == 'weather' and stream.info['grammar'] == corpus.info['grammar']

def test_it_goes_through_entry_05(tmp_path):
    "Record and page know the file's name and not where it was"
    shutil.copy(WEATHER, tmp_path)
    done = executed('05_anchor_loss', preset='smoke', arms='best', corpus=str(tmp_path/'weather.grammar'))
    assert not done.stopped, done.stopped
    record = done.record
    assert record['corpus'] == record['parameters']['corpus'] == 'weather'
    assert record['corpus_info']['grammar'] == load_grammar(WEATHER).fingerprint()
    assert 'valid' in record['rows'][-1] and str(tmp_path) not in json.dumps(record) + done.shown

def test_it_goes_through_entry_06():
    assert smoke_run('06_masked_diffusion', corpus=str(WEATHER))['corpus_info']['source'] == 'oracle'
