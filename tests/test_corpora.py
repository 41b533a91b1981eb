"Corpora: where text comes from, what is refused, what is repaired, and that a batch depends on its arguments alone"
import csv
import io
import json
import os
import time
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from textdiffusion import corpora, reading_text, tokenizing
from textdiffusion.batching import draw_seed, epoch_rows
from textdiffusion.corpora import CORPORA, build_corpus, load_corpus
from textdiffusion.reading_text import TO_BYTE, read_lines, read_plain, repair_all, repair_encoding
from textdiffusion.tokenizing import (LONG, block_rows, bpe_tokenizer, char_tokenizer, encode, encode_stream,
                                      list_tokenizer,
                                      marks, resolve_tokenizer, word_tokenizer)

DATA = os.environ.get('TEXTDIFFUSION_DATA')
real_text = pytest.mark.skipif(not DATA, reason='TEXTDIFFUSION_DATA is not set')
CLEAN = 'Café Rouge, near the river, serves fish for £20.'


def misread(text):
    "UTF-8 read as cp1252, as Windows does it"
    return text.encode('utf-8').decode('latin-1').translate({byte: c for c, byte in TO_BYTE.items()})


@pytest.fixture(autouse=True)
def no_variable(monkeypatch): monkeypatch.delenv('TEXTDIFFUSION_DATA', raising=False)


@pytest.fixture
def no_hub(monkeypatch):
    for module in (reading_text, tokenizing): monkeypatch.setattr(module, 'hub_answers', lambda: False)


@pytest.fixture(scope='module')
def oracle(): return load_corpus('restaurants')


def write_e2e(folder, rows=(CLEAN,)*12, column='ref'):
    (folder/'e2e').mkdir(parents=True, exist_ok=True)
    for name in ('trainset', 'devset', 'testset_w_refs'):
        with open(folder/f'e2e/{name}.csv', 'w', encoding='utf-8', newline='') as f:
            csv.writer(f).writerows([('mr', column), *(('name[x]', row) for row in rows)])
    return folder


# --- where the text comes from ---

def test_order_of_the_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, 'hub_dataset', lambda *a,
                        **k: {s: {'human_reference': ['from the hub']*11} for s in ('train', 'validation', 'test')})
    argument, variable = write_e2e(tmp_path/'a', ['from the argument']*11), write_e2e(tmp_path/'v',
                                                                                      ['from the variable']*11)
    seen = lambda **kw: (lambda c: (c.info['source'], c.text['train'][0]))(load_corpus('e2e', **kw))
    assert seen() == ('cache or hub', 'from the hub')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(variable))
    assert seen() == seen(data_dir='') == ('variable', 'from the variable')
    assert seen(data_dir=argument) == seen(data_dir=str(argument)) == ('argument', 'from the argument')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', '')
    assert seen() == ('cache or hub', 'from the hub')


def test_a_folder_of_an_unknown_user(monkeypatch):
    with pytest.raises(FileNotFoundError, match="data_dir names the folder '~nosuchuser/data', of a user"):
        load_corpus('e2e', data_dir='~nosuchuser/data')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', '~nosuchuser')
    with pytest.raises(FileNotFoundError, match='TEXTDIFFUSION_DATA names the folder'): load_corpus('wikitext2')


def test_named_folder_never_falls_through(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, 'hub_dataset', lambda *a, **k: pytest.fail('asked the hub'))
    good = write_e2e(tmp_path/'good')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(good))
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty.* has no file e2e/trainset.csv'):
        load_corpus('e2e', data_dir=tmp_path/'empty')
    with pytest.raises(FileNotFoundError, match='data_dir names the folder .*nowhere.*does not exist'):
        load_corpus('e2e', data_dir=tmp_path/'nowhere')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(tmp_path/'nowhere'))
    with pytest.raises(FileNotFoundError, match='TEXTDIFFUSION_DATA names the folder'): load_corpus('wikitext2')
    monkeypatch.setenv('TEXTDIFFUSION_DATA', str(good))
    with pytest.raises(FileNotFoundError, match='no file wikitext-2/train.txt'): load_corpus('wikitext2')
    (good/'e2e/devset.csv').unlink()
    with pytest.raises(FileNotFoundError, match='no file e2e/devset.csv'): load_corpus('e2e')


@pytest.mark.parametrize('name', ['e2e', 'wikitext2', 'tiny_shakespeare', 'rotten_tomatoes'])
def test_unreachable_names_all_three_ways(name, tmp_path, monkeypatch, no_hub):
    import datasets
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path)
    started, offline = time.time(), datasets.config.HF_HUB_OFFLINE
    with pytest.raises(FileNotFoundError, match='data_dir.*TEXTDIFFUSION_DATA.*hub'): load_corpus(name)
    assert time.time() - started < 5 and datasets.config.HF_HUB_OFFLINE == offline      # as it was


def test_imdb_is_hub_only(tmp_path, monkeypatch, no_hub):
    import datasets
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path)
    with pytest.raises(ValueError, match='hub only'): load_corpus('imdb', data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match='stanfordnlp/imdb'): load_corpus('imdb')
    reviews = lambda c, n: [f'{c} film<br />number {i}' for i in range(n)]
    # sorted by label, as on the hub
    table = lambda n: {'text': reviews('bad', n) + reviews('good', n), 'label': [0]*n + [1]*n}
    monkeypatch.setattr(corpora, 'hub_dataset', lambda repo: {'train': table(50), 'test': table(20)})
    c = load_corpus('imdb')
    assert [(len(t), sum(x.startswith('good') for x in t)) for t in c.text.values()] == [(90, 45), (10, 5), (40, 20)]
    assert not any('<br' in x for x in c.text['train']) and c.info['source'] == 'cache or hub'


def test_cached_copy_is_used_without_a_network(tmp_path, monkeypatch, no_hub):
    import datasets
    lines = ['', ' = Zizzi = \n', ''] + [' the <unk> serves fish . \n']*20
    made = tmp_path/'made'
    for split in ('train', 'validation', 'test'):
        datasets.Dataset.from_dict({'text': lines}).to_parquet(made/f'{split}.parquet')
    datasets.load_dataset('parquet', data_files={s: str(made/f'{s}.parquet') for s in ('train', 'validation', 'test')},
                          cache_dir=str(tmp_path/'raw'))
    source, = {p.parent for p in (tmp_path/'raw').rglob('dataset_info.json')}
    # as the library leaves it after a download
    target = tmp_path/'cache/Salesforce___wikitext/wikitext-2-v1/0.0.0/abc'
    target.mkdir(parents=True)
    for p in source.iterdir(): (target/p.name.replace('parquet-', 'wikitext-')).write_bytes(p.read_bytes())
    info = json.loads((target/'dataset_info.json').read_text()) | {'config_name': 'wikitext-2-v1',
                                                                   'dataset_name': 'wikitext'}
    (target/'dataset_info.json').write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'cache')
    c = load_corpus('wikitext2', seq_len=8)
    assert c.info['source'] == 'cache or hub' and c.text['train'][0].startswith('= Zizzi =\nthe <unk> serves')


def test_same_corpus_from_files_and_hub(tmp_path, monkeypatch):
    folder = tmp_path/'rotten_tomatoes'
    folder.mkdir()
    rows = {c: [f'{c} film number {i}' for i in range(40)] for c in ('pos', 'neg')}
    for c, texts in rows.items(): (folder/f'rt-polarity.{c}').write_text(''.join(f'{t} \n' for t in texts))
    both = [(1, t) for t in rows['pos']] + [(0, t) for t in rows['neg']]
    parts = {'train': both[::2], 'validation': both[1::4], 'test': both[3::4]}
    monkeypatch.setattr(corpora, 'hub_dataset', lambda repo: {k: {'label': [r[0] for r in v],
                                                                  'text': [r[1] for r in v]} for k, v in parts.items()})
    files, hub = load_corpus('rotten_tomatoes', data_dir=tmp_path), load_corpus('rotten_tomatoes')
    assert files.text == hub.text and files.fingerprint == hub.fingerprint
    assert (files.info['source'], hub.info['source']) == ('argument', 'cache or hub')
    assert [sum(t.startswith('pos') for t in texts) for texts in files.text.values()] == [32, 4, 4]


def test_the_record_holds_no_path(tmp_path):
    assert str(tmp_path) not in json.dumps(load_corpus('e2e', data_dir=write_e2e(tmp_path)).info)


# --- what is refused ---

def test_unknown_name_and_length(oracle):
    with pytest.raises(ValueError, match="unknown corpus 'e2'.*restaurants.*e2e.*imdb"): load_corpus('e2')
    for bad in (3, 0, -1, 8.5, '48', 4097, 99_999_999):
        with pytest.raises(ValueError, match='seq_len must be an integer of at least 4.* and at most 4096'):
            load_corpus('e2e', seq_len=bad)
    with pytest.raises(ValueError, match=f'at least {oracle.seq_len} '):
        load_corpus('restaurants', seq_len=oracle.seq_len-1)
    assert load_corpus('restaurants', seq_len=oracle.seq_len+3).seq_len == oracle.seq_len+3


@pytest.mark.parametrize('content, message', [
    (b'mr,text\r\nx,y\r\n', "no column 'ref'; its columns are 'mr', 'text'"),
    (b'', 'trainset.csv is empty'),
    (b' \n\n', 'trainset.csv is empty'),
    (b'mr,ref\r\n', 'a header but no rows'),
    (b'mr,ref\r\nx,\r\n', 'a header but no rows'),
    ('mr,ref\nx,Zizzi\nx,Café\n'.encode('cp1252'), 'line 3 is not UTF-8'),
    ('mr,ref\nx,Zizzi\n'.encode('utf-16'), 'line 1 is not UTF-8'),
    (b'mr,ref\nx,"Zizzi\n', 'not valid CSV'),
    (b'mr,ref\nx,y\nx,"Zizzi" z\nx,y\n', 'not valid CSV: line 3, in the row that begins on line 3'),
    (b'mr,ref\n"x\nx",y\nx,"Zizzi\nserves\nfish\n', 'not valid CSV: line 6, in the row that begins on line 4'),
    (b'mr,ref\nx,y\nx,Zizzi, by the river\n', 'the row on line 3 has 3 fields, expected 2'),
    (b'mr,ref\nx,y\n\nx\n', 'the row on line 4 has 1 fields, expected 2'),
    (b'mr,ref\nx,"""He said """"fish"""" ."""\n', 'the row on line 2 was quoted twice'),
])
def test_bad_files(tmp_path, content, message):
    (write_e2e(tmp_path)/'e2e/trainset.csv').write_bytes(content)
    with pytest.raises(ValueError, match=message) as error: load_corpus('e2e', data_dir=tmp_path)
    assert '\n' not in str(error.value)


def test_bad_text_files(tmp_path):
    (tmp_path/'tiny_shakespeare').mkdir()
    file = tmp_path/'tiny_shakespeare/input.txt'
    file.write_text('')
    with pytest.raises(ValueError, match='input.txt is empty'): load_corpus('tiny_shakespeare', data_dir=tmp_path)
    file.write_text('To be, or not to be')
    with pytest.raises(ValueError, match='split train has 17 tokens, fewer than one block of seq_len=256'):
        load_corpus('tiny_shakespeare', data_dir=tmp_path)


def write_wikitext(folder, train, held_out=' fish and chips .\n'*20):
    (folder/'wikitext-2').mkdir(parents=True, exist_ok=True)
    for split, text in dict(train=train, valid=held_out, test=held_out).items():
        (folder/f'wikitext-2/{split}.txt').write_text(text)
    return folder


SAID = [' = Zizzi = ', ' He said " fish " , and " chips " . ', ' <unk> serves , fish . ']*12


def as_csv(lines):
    "The lines as a CSV file holds them, each a field"
    out = io.StringIO()
    csv.writer(out).writerows([line] for line in lines)
    return out.getvalue()


def test_an_undecoded_csv_is_refused(tmp_path):
    good = load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path/'good', '\n'.join(SAID)))
    assert good.text['train'][0].startswith('= Zizzi =\nHe said " fish "')
    damaged = as_csv(SAID)
    assert damaged.count('""') == 48 and damaged.split('\r\n')[1] == '" He said "" fish "" , and "" chips "" . "'
    with pytest.raises(ValueError, match=r'train.txt: line 2 is a quoted CSV field .* expected plain text') as error:
        load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path/'bad', damaged))
    assert '\n' not in str(error.value)
    one_cell = as_csv(['\n'.join(SAID)])
    with pytest.raises(ValueError, match='train.txt: line 1 is a quoted CSV field'):
        load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path/'cell', one_cell))
    inside = '\n'.join(line.replace('"', '""') for line in SAID)  # stripped at the ends, not undone inside
    with pytest.raises(ValueError,
                       match='wikitext-2/train.txt: line 2 doubles a quotation mark .* held-out text never'):
        load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path/'inside', inside))
    load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path/'all', inside, inside))   # the language of this text


def test_other_lists_of_lines_are_read_alike(tmp_path):
    (tmp_path/'a.txt').write_text('\n'.join(['" a whole quotation "', '"" empty', '" the road " and " the store "']))
    assert len(read_lines(tmp_path/'a.txt')) == 3
    for file in ('tiny_shakespeare/input.txt', 'rotten_tomatoes/rt-polarity.neg', 'rotten_tomatoes/rt-polarity.pos'):
        (tmp_path/file).parent.mkdir(exist_ok=True)
        (tmp_path/file).write_text(as_csv(SAID))
        with pytest.raises(ValueError, match=f'{file}: line 2 is a quoted CSV field'): read_plain(tmp_path/file)
    for name in ('tiny_shakespeare', 'rotten_tomatoes'):
        with pytest.raises(ValueError, match='is a quoted CSV field'): load_corpus(name, data_dir=tmp_path)


def test_a_shortened_text_says_so(tmp_path):
    c = load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path, '\n'.join(SAID)))
    sizes = 'train 228 not 2,051,910, valid 80 not 213,886, test 80 not 241,211'
    assert c.info['note'] == f'blank lines left out; size not as published: {sizes}'
    c = load_corpus('e2e', data_dir=write_e2e(tmp_path))
    assert c.info['note'].startswith('size not as published: train 12 not 42,061')


def test_too_little_text(tmp_path):
    (tmp_path/'rotten_tomatoes').mkdir()
    for c in ('pos', 'neg'): (tmp_path/f'rotten_tomatoes/rt-polarity.{c}').write_text('a film .\n')
    with pytest.raises(ValueError,
                       match='rotten_tomatoes: a class has only 1 texts, which leaves none for split valid'):
        load_corpus('rotten_tomatoes', data_dir=tmp_path)
    with pytest.raises(ValueError, match=r'e2e: every word of the training text is unknown .*V = 4'):
        load_corpus('e2e', data_dir=write_e2e(tmp_path, ['rare words only']))
    with pytest.raises(ValueError, match='toy: split test has no text'):
        build_corpus('toy', dict(train=['a'], valid=['a'], test=[]), word_tokenizer, 8)


def test_an_oracle_reads_no_files(tmp_path):
    for name in ('restaurants', 'restaurants-large'):
        with pytest.raises(ValueError, match=f'{name} is drawn from a grammar and needs no data; leave data_dir out'):
            load_corpus(name, data_dir=tmp_path)


def test_copies_are_counted(tmp_path, oracle):
    info = load_corpus('e2e', data_dir=write_e2e(tmp_path, ['fish']*12 + ['chips'])).info
    assert info['duplicates'] == dict(train=11, valid=11, test=11) and info['test_in_train'] == 13
    train = set(oracle.text['train'])
    assert oracle.info['duplicates']['train'] == 20_000 - len(train)
    assert oracle.info['test_in_train'] == sum(t in train for t in oracle.text['test'])
    running = load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path, '\n'.join(SAID))).info
    assert 'duplicates' not in running and 'test_in_train' not in running


def test_repr_is_short(oracle, tmp_path):
    for c in (oracle, load_corpus('wikitext2', 8, data_dir=write_wikitext(tmp_path, '\n'.join(SAID)))):
        assert c.name in repr(c) and c.fingerprint in repr(c) and len(repr(c)) < 160 and '\n' not in repr(c)


def test_code_in_a_tokenizer_folder_is_never_run(tmp_path, no_hub):
    ran = tmp_path/'ran'
    (tmp_path/'tok').mkdir()
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast as Mine\n"
    (tmp_path/'tok/mine.py').write_text(code)
    config = {'tokenizer_class': 'Mine', 'auto_map': {'AutoTokenizer': ['mine.Mine', 'mine.Mine']}}
    (tmp_path/'tok/tokenizer_config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='code beside it is never run'):
        load_corpus('e2e', tokenizer=tmp_path/'tok', data_dir=write_e2e(tmp_path))
    assert not ran.exists()


def test_unsuitable_tokenizers(tmp_path, no_hub):
    backend, marks = list_tokenizer(['fish']).backend_tokenizer, dict(pad_token='[PAD]', bos_token='[BOS]',
                                                                      eos_token='[EOS]', unk_token='[UNK]')
    without = lambda *names: PreTrainedTokenizerFast(tokenizer_object=backend,
                                                     **{k: v for k, v in marks.items() if k not in names})
    load = partial(load_corpus, 'e2e', data_dir=write_e2e(tmp_path))
    for name in ('pad', 'unk', 'bos', 'eos'):
        with pytest.raises(ValueError, match=f'has no {name} token'): load(tokenizer=without(f'{name}_token'))
    with pytest.raises(ValueError, match='pads with its EOS'):
        load(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, **marks | dict(pad_token='[EOS]')))
    with pytest.raises(ValueError, match='neither a folder'): load(tokenizer=str(tmp_path/'nowhere'))
    with pytest.raises(ValueError, match='got int'): load(tokenizer=7)
    with pytest.raises(ValueError, match='at least 260'): load(tokenizer=partial(bpe_tokenizer, vocab_size=100))
    (tmp_path/'tiny_shakespeare').mkdir()
    (tmp_path/'tiny_shakespeare/input.txt').write_text('fish '*100)
    # running text needs neither
    assert load_corpus('tiny_shakespeare', 4, without('bos_token', 'eos_token'), tmp_path).eos_id is None


# --- damaged text ---

def test_repairs_what_is_certain():
    for text in (CLEAN, 'naïve – “São” 🙂', 'Zoë’s £5', 'Привет'):
        damaged = text
        for _ in range(3):
            damaged = misread(damaged)
            assert damaged != text and repair_encoding(damaged) == text
        assert repair_encoding(text.encode('utf-8').decode('latin-1')) == text
    assert repair_all([CLEAN, misread(CLEAN), 'CafÃ© 酔']) == ([CLEAN, CLEAN, 'CafÃ© 酔'], dict(found=2, repaired=1))


@pytest.mark.parametrize('text', ['Ãlvaro', 'IRMÃ… não', 'CAFÉ…', 'CAFÉ’S', '«MANHû', 'MAÇÃ®', 'KRÍŽ',
                                  'Tomáš\xa0Novák’s', '« fiancé…” »', 'Nestlé©\xa02020', 'Â', 'Ã', 'São Paulo',
                                  'ÀÉÎÕÜ', 'Gòâve', '酔', '\ufeff'])
def test_clean_text_is_left_alone(text): assert repair_encoding(text) == text


LETTERS = 'abzÀÁÂÃÄÅÇÉÍÑÓÖØÚÜßàâãäåçéíñóöøúüÿĀčŠšŽžœαЖ漢'


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=6).flatmap(lambda word: st.sampled_from(
    ['', '…', '’', '”', '—', '™', '®', 'ª', 'º', '»', '\xa0', '.', ',']).map(word.__add__)), max_size=6))
def test_words_with_accents_and_punctuation_are_left_alone(words):
    text = ' '.join(words)
    assert repair_encoding(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x2122, exclude_categories=['Cs'])))
@example(CLEAN)
@example('CafÃ© É…')
def test_a_damaged_text_becomes_what_it_was_or_stays(text):
    text = repair_encoding(text)                                                 # clean, or beyond repair
    assert repair_encoding(text) == text and repair_encoding(misread(text)) in (text, misread(text))


def test_damaged_rows_are_counted_in_the_record(tmp_path):
    damaged = [CLEAN]*12 + [misread(CLEAN), misread(misread(CLEAN)), 'CafÃ© 酔']
    c = load_corpus('e2e', data_dir=write_e2e(tmp_path, damaged))
    assert c.text['train'] == [CLEAN]*14 + ['CafÃ© 酔'] and c.info['encoding'] == dict(found=9, repaired=6)


# --- tokenizers ---

TEXTS = [CLEAN, 'Fish from £10.50; family-friendly!', 'naïve 🙂 text']


@pytest.mark.parametrize('build', [word_tokenizer, char_tokenizer, partial(bpe_tokenizer, vocab_size=300)])
def test_save_and_load(build, tmp_path):
    tok = build(TEXTS)
    tok.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again.get_vocab() == tok.get_vocab()
    assert tok.convert_ids_to_tokens([0, 1, 2, 3, len(tok)-1]) == ['[PAD]', '[BOS]', '[EOS]', '[UNK]', '[MASK]']
    for text in [*TEXTS, 'the Zebra (2)']:
        assert again.encode(text) == tok.encode(text)
        assert again.decode(again.encode(text)) == tok.decode(tok.encode(text))


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_bpe_is_lossless(text): assert BPE.decode(encode(BPE, [text])[0]) == text


BPE = bpe_tokenizer(TEXTS, 300)


def test_char_is_lossless_on_its_characters():
    tok = char_tokenizer(TEXTS)
    assert [tok.decode(row) for row in encode(tok, TEXTS)] == TEXTS and encode(tok, ['q'])[0] == [3]


def test_words_and_cut_off():
    tok = word_tokenizer(['a b b c', 'c c', 'a'], min_count=2)
    # by count, then by alphabet
    assert tok.convert_ids_to_tokens([4, 5, 6]) == ['c', 'a', 'b'] and len(tok) == 8
    tok = word_tokenizer(TEXTS)
    assert tok.convert_ids_to_tokens(encode(tok, [TEXTS[1]])[0]) == ['Fish', 'from', '£', '10.50', ';', 'family', '-',
                                                                     'friendly', '!']


def test_encode_leaves_the_tokenizer_alone():
    tok = word_tokenizer(TEXTS)
    tok(TEXTS, padding=True, truncation=True, max_length=3)
    before = tok.backend_tokenizer.to_str()
    assert len(encode(tok, TEXTS)[0]) > 3 and tok.backend_tokenizer.to_str() == before


def test_a_saved_tokenizer_gives_the_same_corpus(oracle, tmp_path):
    oracle.tokenizer.save_pretrained(tmp_path)
    again = load_corpus('restaurants', oracle.seq_len, str(tmp_path))
    assert again.fingerprint == oracle.fingerprint and torch.equal(again.batch(5, 16, 2), oracle.batch(5, 16, 2))


def test_oracle_in_another_tokenizer(oracle):
    c = load_corpus('restaurants', tokenizer=partial(bpe_tokenizer, vocab_size=320))
    assert c.vocab_size == 320 and c.mask_id == 320 and c.text == oracle.text
    assert c.words(c.batch(3, 32)) == oracle.words(oracle.batch(3, 32))


ODD = ['press [EOS] to stop', 'the [MASK] is a token', 'fill [PAD] here', '[BOS] [CLS] [SEP]', '[EOS][EOS]', 'a[MASK]b']


@pytest.mark.parametrize('build, lossless', [
    (word_tokenizer, False), (partial(word_tokenizer, pattern=r'\S+'), False), (char_tokenizer, True),
    (partial(bpe_tokenizer, vocab_size=320), True)])
def test_the_name_of_a_special_token_is_text(build, lossless, tmp_path):
    made = build([*TEXTS, *ODD]*3)
    made.save_pretrained(tmp_path)
    assert made.convert_tokens_to_ids(['[PAD]', '[BOS]', '[EOS]', '[UNK]', '[MASK]']) == [0, 1, 2, 3, len(made)-1]
    for tok in (made, resolve_tokenizer(tmp_path, [])):
        rows = encode(tok, ODD)
        assert not {i for row in rows for i in row} & set(marks(tok)) and encode(tok, ['[UNK]']) == [[3]]
        assert ([tok.decode(row) for row in rows] == ODD) == lossless
        c = build_corpus('toy', dict.fromkeys(('train', 'valid', 'test'), ODD), tok, 40)
        assert (c.train == c.eos_id).sum() == len(ODD) and not (c.train == c.mask_id).any() and all(c.words(c.train))
        assert c.real(c.train)[0].sum() == len(rows[0]) + 1


def test_a_vocabulary_is_read_once_and_again_after_a_change(monkeypatch):
    "A batch of fresh text must not parse 50,000 words anew"
    tok, read = word_tokenizer(['one two three']), []
    parse = tokenizing.json.loads
    monkeypatch.setattr(tokenizing.json, 'loads', lambda text: read.append(1) or parse(text))
    for _ in range(3): assert encode(tok, ['one four']) == [[4, 3]]
    assert len(read) == 1
    tok.add_tokens(['four'])
    assert encode(tok, ['one four']) == [[4, len(tok)-1]] and len(read) == 2

def test_a_foreign_tokenizer_takes_names_for_text_too():
    names = ['<pad>', '<unk>', '<s>', '</s>', '<mask>']
    letters = [(c, -2.) for c in 'abcdefghijklmnopqrstuvwxyz </>']
    backend = Tokenizer(models.Unigram([(t, 0.) for t in names] + letters, unk_id=1))      # finds </s> in any text
    roles = dict(zip(('pad_token', 'unk_token', 'bos_token', 'eos_token', 'mask_token'), names))
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    assert tok.encode('a</s>') == [backend.token_to_id('a'), 3]
    assert encode(tok, ['a</s>', '<pad>', '<unk>']) == [[backend.token_to_id('a'), 1], [1], [1]]


def test_a_long_line_is_read_in_pieces():
    line = ' '.join(f'the river {i % 7}  serves “fish”' for i in range(20_000))
    assert len(line) > 4*LONG
    spaced = partial(word_tokenizer, pattern=r'\n|\S+', min_count=3)
    for build in (word_tokenizer, spaced, char_tokenizer, partial(bpe_tokenizer, vocab_size=300)):
        tok = build([line])
        assert encode_stream(tok, [line, 'fish']).tolist() == sum(encode(tok, [line, 'fish']), [])
    assert spaced([line]).get_vocab() == spaced(line.split("  ")).get_vocab()


# --- rows ---

def test_a_long_sentence_loses_its_end(tmp_path):
    c = load_corpus('e2e', seq_len=6, tokenizer=word_tokenizer,
                    data_dir=write_e2e(tmp_path, ['a b c', 'a b c d', 'a b c d e', 'a b c d e f']))
    rows = c.tokenizer.batch_decode(c.train)
    assert rows == ['[BOS] a b c [EOS] [PAD]', '[BOS] a b c d [EOS]', '[BOS] a b c d e', '[BOS] a b c d e']
    assert c.info['cut']['train'] == .5 and c.words(c.train) == [list('abc'), list('abcd'), None, None]
    assert c.real(c.train).sum(1).tolist() == [4, 5, 5, 5]


def test_blocks_hold_the_stream():
    assert block_rows([1, 2, 3, 4, 5, 6, 7], 3).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_windows_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    for i, (mark, end) in enumerate([('', '\n'), ('\ufeff', '\r\n')]):
        (tmp_path/f'{i}/e2e').mkdir(parents=True)
        for name in ('trainset', 'devset', 'testset_w_refs'):
            (tmp_path/f'{i}/e2e/{name}.csv').write_bytes((mark + 'mr,ref' + end
                                                          + f'x,"Café, {end}fish"{end}'*12).encode('utf-8'))
    a, b = (load_corpus('e2e', data_dir=tmp_path/str(i)) for i in range(2))
    assert a.fingerprint == b.fingerprint and a.text == b.text


def test_the_oracle_speaks_its_language(oracle):
    assert set(CORPORA) == {'restaurants', 'restaurants-large', 'e2e', 'wikitext2', 'tiny_shakespeare',
                            'rotten_tomatoes', 'imdb'}
    for name in ('restaurants', 'restaurants-large'):
        c = oracle if name == 'restaurants' else load_corpus(name)
        assert [len(getattr(c, s)) for s in ('train', 'valid', 'test')] == [20_000, 2_000, 2_000]
        assert c.seq_len == c.grammar.max_len+2
        assert (c.pad_id, c.bos_id, c.eos_id, c.special['unk'], c.mask_id) == (0, 1, 2, 3, c.vocab_size)
        assert c.vocab_size == len(c.grammar.words)+4
        assert all(c.grammar.contains(w) for w in c.words(torch.cat([c.train[:100], c.valid[:100], c.test[:100],
                                                                     c.batch(0, 100)])))
        assert c.info['source'] == 'oracle' and c.info['oov'] == c.info['cut'] == dict(train=0, valid=0, test=0)
        json.dumps(c.info)


# --- batches ---

def test_a_step_is_a_pure_function(oracle, tmp_path):
    toy = load_corpus('e2e', tokenizer=char_tokenizer, data_dir=write_e2e(tmp_path, [f'row {i}' for i in range(37)]))
    for c in (oracle, toy):
        steps = [(seed, step) for seed in (0, 1, 7) for step in (0, 1, 2, 1000)]
        first = {k: c.batch(k[1], 8, k[0]) for k in steps}
        torch.manual_seed(123)
        torch.rand(7)                                                            # global randomness plays no part
        assert all(torch.equal(c.batch(k[1], 8, k[0]), first[k]) for k in reversed(steps))
        assert len({b.numpy().tobytes() for b in first.values()}) == len(steps)
        assert torch.equal(c.batch(3, 8), c.batch(3, 8, 0)) and first[0, 0].shape == (8, c.seq_len)
    again = load_corpus('restaurants')
    assert torch.equal(again.batch(9, 8, 1), oracle.batch(9, 8, 1)) and again.fingerprint == oracle.fingerprint


def test_every_row_once_per_pass():
    for n, size in ((10, 4), (7, 7), (5, 12)):
        rows = torch.cat([epoch_rows(n, step, size, 3) for step in range(n)])    # `size` passes
        assert all(part.sort().values.tolist() == list(range(n)) for part in rows.split(n)) and len(rows) == n*size


def test_no_two_steps_share_a_seed():
    seeds = [draw_seed(seed, step) for seed in (0, 1) for step in range(50_000)]
    assert len(set(seeds[:50_000])) == len(set(seeds[50_000:])) == 50_000 and min(seeds) >= 2**31 and max(seeds) < 2**32
    assert len(set(seeds[:50_000]) & set(seeds[50_000:])) < 10


def test_fresh_sentences_are_not_the_fixed_ones(oracle):
    known = {tuple(r) for s in ('train', 'valid', 'test') for r in getattr(oracle, s)[:64].tolist()}
    a, b = (oracle.batch(step, 64) for step in (0, 1))
    assert not any(torch.equal(x, y) for x in (a, b) for y in (oracle.train[:64], oracle.valid[:64],
                                                               oracle.test[:64])) and not torch.equal(a, b)
    assert len({tuple(r) for r in a.tolist()} - known) > 32


def test_the_device_follows(oracle):
    moved = oracle.to('meta')
    assert moved.train.device.type == moved.batch(0, 4).device.type == 'meta' and oracle.train.device.type == 'cpu'
    assert moved.fingerprint == oracle.fingerprint


# --- the real corpora ---

@pytest.fixture(scope='module')
def e2e(): return load_corpus('e2e', data_dir=DATA)


@real_text
def test_e2e(e2e):
    info = e2e.info
    assert [len(getattr(e2e, s)) for s in ('train', 'valid', 'test')] == [42_061, 4_672, 4_693]
    assert 810 <= e2e.vocab_size <= 830 and all(.004 < rate < .006
                                                for rate in info['oov'].values()) and info['cut']['train'] < .004
    assert info['encoding'] == dict(found=0, repaired=0)
    assert {c for text in e2e.text['train'] for c in text if ord(c) > 127} == {'é', '£'}
    with open(f'{DATA}/e2e/trainset.csv', encoding='utf-8', newline='') as f:
        rows = [row['ref'] for row in csv.DictReader(f)]
    assert [row.replace('\r\n', '\n') for row in rows] == e2e.text['train']


@real_text
def test_copies_in_e2e(e2e):
    assert e2e.info['duplicates'] == dict(train=1279, valid=173, test=161) and e2e.info['test_in_train'] == 23
    assert e2e.info['note'] == ''                                                # of the published size


@real_text
@pytest.mark.parametrize('name, seq_len, fingerprint', [
    ('restaurants', None, 'a0cf2def7a79'), ('restaurants-large', None, 'cc1cb6d92c54'), ('e2e', 40, 'fe1fa3740019'),
    ('rotten_tomatoes', None, '16db812a400a'),
    ('tiny_shakespeare', 64, '9ddf57cbb68e'), ('tiny_shakespeare', None, 'ffd33b2045ca')])
def test_corpora_of_the_records(name, seq_len, fingerprint, monkeypatch):
    monkeypatch.setenv('TEXTDIFFUSION_DATA', DATA)
    assert load_corpus(name, seq_len).fingerprint == fingerprint


@real_text
def test_damaged_e2e_is_repaired_whole(e2e):
    texts = [t for t in e2e.text['train'] if not t.isascii()][:5000]
    for damaged in ([misread(t) for t in texts], [misread(misread(t)) for t in texts]):
        assert repair_all(damaged) == (texts, dict(found=5000, repaired=5000))


@real_text
@pytest.mark.parametrize('name, tokens, V', [('tiny_shakespeare', 1_003_776, 69), ('rotten_tomatoes', 203_842, 6_192)])
def test_other_texts(name, tokens, V):
    c = load_corpus(name, data_dir=DATA)
    assert c.info['sizes']['train']['tokens'] == tokens and c.vocab_size == V
    assert c.info['encoding'] == dict(found=0, repaired=0)


@real_text
def test_wikitext2():
    c = load_corpus('wikitext2', data_dir=DATA)
    # published sizes
    assert c.info['encoding'] == dict(found=0, repaired=0) and c.info['note'] == 'blank lines left out'
    assert (c.fingerprint, c.vocab_size) == ('b8fccee024a0', 13_526)
