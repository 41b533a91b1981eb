"Own text: files, folders and tables as a corpus, what is refused, and that reading is fast, lean and done once"
import csv
import json
import os
import time

import datasets
import pandas as pd
import pytest
import torch
from helpers import alone

from textdiffusion import corpora, corpus as corpus_module
from textdiffusion.corpora import load_corpus, public_name
from textdiffusion.files import own_text
from textdiffusion.presets import corpus_name
from textdiffusion.streams import check_text, running_text, stream_text
from textdiffusion.tokenizing import bpe_tokenizer, char_tokenizer, word_tokenizer

SENTENCES = [f'the {a} {b} the {c}' for a in ('river', 'sea', 'road', 'café') for b in ('meets', 'leaves', 'sees')
             for c in ('town', 'hill', 'wood', 'bridge')]
NUMBERED = [f'{s} {i}' for i, s in enumerate(SENTENCES*9)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TEXTDIFFUSION_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('TEXTDIFFUSION_DATA', raising=False)


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(path, texts=SENTENCES): return written(path, '\n'.join(texts) + '\n')


# --- every way in gives the same corpus ---

@pytest.fixture
def ways(tmp_path):
    rows, folder = [dict(n=i, text=s) for i, s in enumerate(SENTENCES)], tmp_path/'some dir'
    lines(folder/'my text.txt')
    written(folder/'my text.jsonl', ''.join(json.dumps(r) + '\n' for r in rows))
    pd.DataFrame(rows).to_parquet(folder/'my text.parquet')
    for suffix, sign in (('csv', ','), ('tsv', '\t')):
        with open(folder/f'my text.{suffix}', 'w', encoding='utf-8', newline='') as f:
            csv.writer(f, delimiter=sign).writerows([['n', 'text'], *(r.values() for r in rows)])
    return {p.suffix: p for p in folder.iterdir()} | dict(dataset=datasets.Dataset.from_list(rows))


def test_every_way_in_gives_the_same_corpus(ways):
    got = {kind: load_corpus(source) for kind, source in ways.items()}
    assert len(got) == 6 and len({c.fingerprint for c in got.values()}) == 1
    assert {c.name for kind, c in got.items() if kind != 'dataset'} == {'my-text'}
    assert all(c.info['source'] == 'file' and 'some dir' not in json.dumps(c.info) for c in got.values())
    named = [load_corpus(str(ways[k]), column='text').fingerprint for k in ('.csv', '.parquet', '.jsonl', '.tsv')]
    assert set(named) == {got['.txt'].fingerprint}


def test_splits_in_a_folder_a_dict_and_a_dataset(tmp_path):
    parts = dict(train=SENTENCES[:40], valid=SENTENCES[40:44], test=SENTENCES[44:])
    for split, file in dict(train='wiki.train.tokens', valid='dev.txt', test='my-test.txt').items():
        lines(tmp_path/f'songs/{file}', parts[split])
    files = dict(train=tmp_path/'songs/wiki.train.tokens', validation=str(tmp_path/'songs/dev.txt'),
                 test=tmp_path/'songs/my-test.txt')
    data = datasets.DatasetDict({s: datasets.Dataset.from_dict(dict(text=t)) for s, t in parts.items()})
    got = [load_corpus(source) for source in (tmp_path/'songs', files, data)]
    assert len({c.fingerprint for c in got}) == 1 and got[0].name == 'songs'
    assert all(c.text[s] == parts[s] for c in got for s in parts) and got[0].info['note'] == 'splits as given'
    (tmp_path/'songs/dev.txt').unlink()
    two = load_corpus(tmp_path/'songs')
    assert two.text['test'] == parts['test'] and len(two.text['train']) == 38 and 'valid held out' in two.info['note']


def test_what_is_held_out_does_not_leak_or_depend_on_the_order(tmp_path):
    a = own_text(lines(tmp_path/'a.txt', SENTENCES*3), held_out=.25)
    b = own_text(lines(tmp_path/'b.txt', SENTENCES[::-1]), held_out=.25)
    c = own_text(tmp_path/'b.txt', held_out=.25, seed=1)
    assert {s: set(t) for s, t in a.splits.items()} == {s: set(t) for s, t in b.splits.items()}
    sets = [set(t) for t in a.splits.values()]
    assert set.union(*sets) == set(SENTENCES) and sum(map(len, sets)) == len(SENTENCES)
    assert (len(b.splits['test']), len(a.splits['test'])) == (6, 18) and set(c.splits['test']) != set(b.splits['test'])


@pytest.mark.parametrize('text', ['\n'.join(NUMBERED), ' '.join(NUMBERED), ''.join(map(chr, range(200, 12_200)))])
def test_running_text_is_cut_into_contiguous_pieces(tmp_path, text):
    got = own_text(written(tmp_path/'a.txt', text), running=True, seed=5)
    train, valid, test = (got.splits[s][0] for s in ('train', 'valid', 'test'))
    start = text.index(valid + test)
    assert text[:start] + text[start + len(valid + test):] == train
    assert all(.03 < len(t)/len(text) < .09 for t in (valid, test))


def test_running_or_sentences_is_decided_by_the_lines_unless_said(tmp_path):
    prose, poem = written(tmp_path/'prose.txt', ('word '*400 + '\n')*9), lines(tmp_path/'poem.txt')
    assert own_text(prose).running and not own_text(poem).running
    assert own_text(poem, running=True).running and not own_text(lines(tmp_path/'c.txt'), running=False).running
    corpus = load_corpus(poem, 8, running=True)
    assert corpus.eos_id is None and corpus.info['oov'] == dict(train=0, valid=0, test=0)
    table = written(tmp_path/'t.csv', 'text\n' + '\n'.join(SENTENCES) + '\n')
    assert load_corpus(table, 8, char_tokenizer, running=True).text['train'][0].count('\n') > 40


def test_the_same_repairs_and_counts_as_for_named_corpora(tmp_path):
    odd = ['CafÃ© Rouge', 'press [EOS] to stop', 'fish', 'fish']
    corpus = load_corpus(lines(tmp_path/'a.txt', odd + SENTENCES), held_out=.1)
    assert corpus.info['encoding'] == dict(found=1, repaired=1) and sum(corpus.info['duplicates'].values()) == 1
    assert 'Café Rouge' in [t for texts in corpus.text.values() for t in texts] and corpus.info['test_in_train'] == 0
    rows = corpus.words(torch.cat([corpus.train, corpus.valid, corpus.test]))
    assert None not in rows
    assert corpus.seq_len == 8 and load_corpus(tmp_path/'a.txt', 6).info['cut']['train'] > .5


# --- tokenizers ---

def test_a_byte_level_tokenizer_needs_no_unknown_token(tmp_path):
    from transformers import PreTrainedTokenizerFast
    backend = bpe_tokenizer(SENTENCES, 300).backend_tokenizer
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='[PAD]', bos_token='[BOS]', eos_token='[EOS]')
    corpus = load_corpus(lines(tmp_path/'a.txt'), 40, tok)
    assert corpus.special['unk'] is None and corpus.info['oov']['test'] == 0
    assert corpus.decode(corpus.test) == list(corpus.text['test'])
    tok.save_pretrained(tmp_path/'tok')
    assert load_corpus(tmp_path/'a.txt', 40, tmp_path/'tok').fingerprint == corpus.fingerprint


# --- large text ---

def test_a_narrow_training_split_is_the_same_corpus(tmp_path, monkeypatch):
    wide = load_corpus(lines(tmp_path/'a.txt'))
    monkeypatch.setattr(corpus_module, 'NARROW', 100)
    thin = load_corpus(tmp_path/'a.txt')
    assert thin.train.dtype is torch.int32 and wide.train.dtype is torch.int64 and thin.info == wide.info
    assert torch.equal(thin.batch(3, 7, 1), wide.batch(3, 7, 1)) and thin.decode(thin.train) == wide.decode(wide.train)


@pytest.fixture
def kept_at_once(monkeypatch): monkeypatch.setattr(corpora, 'KEEP', 0)


def test_a_text_is_read_once_and_a_change_is_noticed(tmp_path, kept_at_once, monkeypatch):
    path = lines(tmp_path/'a.txt')
    first, reads = load_corpus(path), []
    monkeypatch.setattr(corpora, 'own_text', lambda *a, **k: reads.append(a) or own_text(*a, **k))
    again = load_corpus(path)
    assert not reads and again.info == first.info and again.text == first.text and torch.equal(again.train, first.train)
    moved = path.rename(tmp_path/'b c.txt')
    assert load_corpus(moved).name == 'b-c' and not reads               # the content counts, not the place
    for changed in (dict(seq_len=9), dict(held_out=.2), dict(seed=1), dict(tokenizer=word_tokenizer)):
        load_corpus(moved, **changed)
    assert len(reads) == 4
    lines(moved, SENTENCES[1:])
    assert load_corpus(moved).fingerprint != first.fingerprint and len(reads) == 5
    load_corpus(moved, tokenizer=lambda texts: word_tokenizer(texts))
    assert len(reads) == 6                                              # a stranger's function may change: never kept


@pytest.mark.parametrize('harm', [
    lambda f: f.write_bytes(f.read_bytes()[:-9]), lambda f: f.write_bytes(b''), lambda f: f.unlink(),
    lambda f: f.write_bytes(f.read_bytes().replace(b'the', b'teh'))], ids=['cut', 'empty', 'gone', 'changed'])
@pytest.mark.parametrize('name', ['rows.safetensors', 'corpus.json', 'tokenizer.json'])
def test_a_damaged_cache_is_made_again(tmp_path, kept_at_once, name, harm):
    first = load_corpus(lines(tmp_path/'a.txt'))
    harm(next((tmp_path/'cache').rglob(name)))
    assert load_corpus(tmp_path/'a.txt').info == first.info
    assert load_corpus(tmp_path/'a.txt').decode(first.train) == first.decode(first.train)


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, kept_at_once, monkeypatch):
    monkeypatch.setenv('TEXTDIFFUSION_CACHE', str(written(tmp_path/'file', 'x')))
    assert load_corpus(lines(tmp_path/'a.txt')).info == load_corpus(tmp_path/'a.txt').info
    monkeypatch.setenv('TEXTDIFFUSION_CACHE', '/proc/nowhere')
    assert load_corpus(tmp_path/'a.txt').name == 'a'


MEASURE = '''
from transformers import PreTrainedTokenizerFast                                # not part of what is measured
from textdiffusion.corpora import load_corpus
from textdiffusion.files import own_text
path = sys.argv[1]
few = path + '.few.txt'                                                         # nor is what is imported on the way
with open(few, 'w') as f: f.writelines(f'one two {i}\\n' for i in range(99))
load_corpus(few)
start = time.process_time(); corpus = load_corpus(path); first = time.process_time() - start
most = peak()
start = time.process_time(); again = load_corpus(path); second = time.process_time() - start
def plain():
    "What any reader has to do: read the lines, count the words, encode them"
    from textdiffusion.tokenizing import word_tokenizer
    with open(path, encoding='utf-8') as f: texts = [line.strip() for line in f]
    backend, n = word_tokenizer(texts, 11).backend_tokenizer, 0
    for i in range(0, len(texts), 10_000):
        n += sum(len(e.ids) for e in backend.encode_batch_fast(texts[i:i+10_000], add_special_tokens=False))
    return n
start = time.process_time(); plain(); loop = time.process_time() - start
print(json.dumps(dict(first=first, second=second, loop=loop, peak=most, same=again.info == corpus.info)))
'''


def many_sentences(path, size):
    "A file of this many bytes: sentences of an artificial language, with many rare names"
    import random
    from textdiffusion.corpora import spell
    from textdiffusion.grammar import load_grammar
    grammar, r, n = load_grammar('restaurants-large'), random.Random(0), 0
    names = [''.join(r.choice('bdfgklmnprstvz') + r.choice('aeiou') for _ in range(3)) for _ in range(50_000)]
    drawn = [s.split() for s in spell(grammar, grammar.draw(20_000, torch.Generator().manual_seed(9)))]
    with open(path, 'w', encoding='utf-8') as f:
        while n < size:
            words = list(r.choice(drawn))
            words[r.randrange(len(words))] = r.choice(names)
            n += f.write(' '.join(words) + '\n')
    return path


def test_reading_costs_little_more_than_tokenizing_and_then_nothing(tmp_path):
    got = alone(MEASURE, many_sentences(tmp_path/'a.txt', 2e6))
    assert got['same'] and got['first'] < 3*got['loop'], got
    assert got['second'] < got['first']/3, got


@pytest.mark.skipif(not os.environ.get('SOAK'), reason='100 MB, two minutes: SOAK=1')
def test_a_hundred_megabytes(tmp_path):
    got = alone(MEASURE, many_sentences(tmp_path/'a.txt', 100e6))
    print(got)
    assert got['peak'] < 1200 and got['first'] < 50 and got['second'] < 5, got


# --- what is refused ---

def _csv(text): return lambda d: written(d/'a.csv', text)
def _json(text): return lambda d: written(d/'a.jsonl', text)
def _txt(text): return lambda d: written(d/'a.txt', text)
def _folder(**files): return lambda d: [written(d/'f'/k.replace('_', '.'), v) for k, v in files.items()] and d/'f'
GOOD = '\n'.join(SENTENCES) + '\n'
TABLE = 'n,text\n' + ''.join(f'{i},{s}\n' for i, s in enumerate(SENTENCES))

BAD = dict(
    not_utf8=(_txt(b'fish\ncaf\xe9\n'), {}, 'a.txt: line 2 is not UTF-8'),
    utf16=(_txt('fish\n'.encode('utf-16')), {}, 'a.txt: line 1 is not UTF-8'),
    binary=(_txt(b'fish\n\0\1\n'), {}, 'a.txt: line 2 has a NUL byte'),
    empty=(_txt(''), {}, 'a.txt is empty'),
    blank=(_txt('\n \n\t\n'), {}, 'a.txt is empty'),
    bom_only=(_txt('\ufeff'), {}, 'a.txt is empty'),
    one_sentence=(_txt('fish\n'), {}, '1 different sentence; expected at least 3'),
    same_sentence=(_txt('fish\n'*99), {}, '1 different sentence;'),
    two_sentences=(_txt('fish\nchips\n'), {}, '2 different sentences;'),
    undecoded=(_txt(GOOD + '"He said ""fish"" ."\n'), {}, 'line 49 is a quoted CSV field'),
    doubled=(_folder(train_txt=GOOD + 'a "" b\n', test_txt=GOOD), {}, 'line 49 doubles a quotation mark'),
    column_of_plain=(_txt(GOOD), dict(column='text'), "plain text, which has no column 'text'"),
    suffix=(lambda d: written(d/'a.pdf', GOOD), {}, 'the suffix .pdf, which is not read'),
    zipped=(lambda d: written(d/'a.txt.gz', GOOD), {}, 'the suffix .gz'),
    word=(lambda d: written(d/'a.docx', GOOD), {}, 'the suffix .docx'),
    nowhere=(lambda d: d/'a.txt', {}, 'unknown corpus'),
    near=(lambda d: written(d/'songs.txt', GOOD).with_name('song.txt'), {}, 'did you mean'),
    device=(lambda d: '/dev/null', {}, "'/dev/null' is neither a file nor a folder"),
    no_name=(lambda d: '', {}, "unknown corpus ''"),
    nobody=(lambda d: '~nosuchuser/a.txt', {}, 'unknown corpus'),
    too_long=(lambda d: 'a'*5000, {}, 'unknown corpus'),
    number=(lambda d: 7, {}, 'not a int'),
    empty_folder=(lambda d: (d/'f').mkdir() or d/'f', {}, 'has no file for the split train (it has no files)'),
    no_splits=(_folder(a_txt=GOOD, b_txt=GOOD), {}, 'no file for the split train (it has a.txt, b.txt)'),
    no_train=(_folder(test_txt=GOOD), {}, 'no file for the split train'),
    two_trains=(_folder(train_txt=GOOD, train_csv=TABLE), {}, 'two files for the split train'),
    bad_test=(_folder(train_txt=GOOD, test_txt=b'\xff'), {}, 'test.txt: line 1 is not UTF-8'),
    blank_test=(_folder(train_txt=GOOD, test_txt='\n'), {}, 'test.txt is empty'),
    odd_split=(lambda d: dict(train=_txt(GOOD)(d), exam=d/'a.txt'), {}, "keys 'train', 'exam'; expected train"),
    split_twice=(lambda d: dict(train=_txt(GOOD)(d), dev=d/'a.txt', valid=d/'a.txt'), {}, 'each once'),
    split_gone=(lambda d: dict(train=_txt(GOOD)(d), test=d/'b.txt'), {}, 'b.txt is not a file'),
    split_number=(lambda d: dict(train=7), {}, 'the split train is a int'),
    wrong_column=(_csv(TABLE), dict(column='txt'), "no column 'txt' (did you mean 'text'?)"),
    which_column=(_csv('a,b\nfish,chips\n'), {}, "2 columns with text ('a', 'b'); say which"),
    no_text_column=(_csv('a,b\n1,2\n'), {}, 'no column with text'),
    header_only=(_csv('n,text\n'), {}, 'a header (n, text) but no rows'),
    empty_csv=(_csv(''), {}, 'a.csv is empty'),
    empty_cells=(_csv('n,text\n1,\n2,\n'), dict(column='text'), 'a.csv is empty'),
    ragged=(_csv(TABLE + '1,fish, chips\n'), {}, 'the row on line 50 has 3 fields, expected 2 (n, text)'),
    unclosed=(_csv(TABLE + '1,"fish\n'), {}, 'not valid CSV: line 50, in the row that begins on line 50'),
    quoted_twice=(_csv(TABLE + '1,"""a """"b"""" c"""\n'), {}, 'line 50 is a quoted CSV field'),
    csv_not_utf8=(_csv(TABLE.encode() + b'1,caf\xe9\n'), {}, 'line 50 is not UTF-8'),
    broken_json=(_json('{"text": "fish"}\n{"text": \n'), {}, 'line 2 is not JSON'),
    json_list=(_json('{"text": "fish"}\n["fish"]\n'), {}, 'line 2 is a JSON list; expected an object'),
    json_array_file=(_json('[{"text": "fish"}]'), {}, 'line 1 is a JSON list'),
    json_no_key=(_json('{"text": "fish"}\n{"txt": "fish"}\n'), {}, "line 2 has no key 'text'; expected a string"),
    json_number=(_json('{"text": "fish"}\n{"text": 7}\n'), {}, "line 2 has 7 as 'text'; expected a string"),
    json_null=(_json('{"text": null}\n'), dict(column='text'), "line 1 has null as 'text'"),
    json_two=(_json('{"a": "fish", "b": "chips"}\n'), {}, '2 columns with text'),
    json_half=(_json('{"text": "\\ud800"}\n'), {}, 'line 1 has half of a surrogate pair'),
    not_parquet=(lambda d: written(d/'a.parquet', GOOD), {}, 'not a parquet file'),
    numbers_of_parquet=(lambda d: pd.DataFrame(dict(n=[1, 2], t=['a', 'b'])).to_parquet(d/'a.parquet') or d/'a.parquet',
                        dict(column='n'), "column 'n' holds int64; expected text"),
    short_rows=(_txt(GOOD), dict(seq_len=3), 'seq_len must be an integer of at least 4'),
    long_rows=(_txt(GOOD), dict(seq_len=5000), 'at most 4096'),
    words_for_L=(_txt(GOOD), dict(seq_len='8'), "got '8'"),
    short_text=(_txt(GOOD), dict(seq_len=512, running=True), 'fewer than one block of seq_len=512'),
    all_unknown=(_txt('\n'.join(f'{chr(97 + i)*3}' for i in range(20))), {},
                 'every word of the training text is unknown'),
    no_tokenizer=(_txt(GOOD), dict(tokenizer='FOLDER'), 'neither a folder with a saved tokenizer'),
    odd_tokenizer=(_txt(GOOD), dict(tokenizer=7), 'tokenizer must be a folder'),
    all_held_out=(_txt(GOOD), dict(held_out=1.), 'held_out must be a share between 0 and 1'),
    none_held_out=(_txt(GOOD), dict(held_out=0.), 'held_out must be'),
    percent_held_out=(_txt(GOOD), dict(held_out=10), 'held_out must be'),
    with_data_dir=(_txt(GOOD), dict(data_dir='FOLDER'), 'leave data_dir out'),
    column_of_named=(lambda d: 'restaurants', dict(column='text'), 'restaurants has a form of its own'),
    running_named=(lambda d: 'restaurants', dict(running=True), 'leave column and running out'))


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_refused_in_one_sentence(tmp_path, case, monkeypatch):
    make, how, expected = BAD[case]
    monkeypatch.setattr(corpora, 'KEEP', 0)
    source = make(tmp_path)
    before, start = sorted(tmp_path.rglob('*')), time.monotonic()
    how = {k: str(tmp_path) if v == 'FOLDER' else v for k, v in how.items()}
    with pytest.raises((ValueError, FileNotFoundError)) as error: load_corpus(source, **how)
    said = str(error.value)
    assert expected in said and said.rstrip().endswith(('.', ').')) and '\n' not in said
    assert time.monotonic() - start < 10 and sorted(tmp_path.rglob('*')) == before


# --- entries and records ---

def test_a_corpus_parameter_may_be_a_path_and_records_call_it_by_its_name(tmp_path, monkeypatch):
    from types import SimpleNamespace
    from textdiffusion.records import public_parameters
    path = lines(tmp_path/'some dir/my file.v2.txt')
    monkeypatch.chdir(path.parent)
    assert corpus_name('corpus', 'my file.v2.txt') == str(path) and corpus_name('corpus', 'e2e') == 'e2e'
    assert public_parameters(SimpleNamespace(corpus=str(path), column=''))['corpus'] == 'my-file.v2'
    assert load_corpus(path).name == public_name(str(path)) == 'my-file.v2'
    assert public_name('my-file.v2') == 'my-file.v2'
    assert load_corpus(lines(tmp_path/'e2e.txt')).name == 'own-e2e'
    with pytest.raises(ValueError, match='unknown corpus'): corpus_name('corpus', 'my file')


def test_entries_on_running_text_take_sentences_of_a_file_as_lines(tmp_path):
    from types import SimpleNamespace
    path = lines(tmp_path/'a.txt')
    corpus, stream = load_corpus(path), running_text(str(path), 20)
    assert stream.eos_id is None and stream.text['train'][0].startswith('the ') and stream.special['bos'] is None
    check_text(SimpleNamespace(seq_len=20, lines=None), corpus)
    assert stream_text(corpus)['test'].count('\n') == len(corpus.text['test'])
