"Entry 08i: constituents of dependencies, wishes for spans, what the judge finds in released sentences, what is refused"
import json
import random
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from helpers import REAL_TEXT, refused_at_once
from textdiffusion.constituents import LABELS, Charts, Token, constituents, found_of, parsed, reaches
from textdiffusion.e2e_control import Job, people_rows, token_rows, vector_rows
from textdiffusion.e2e_spans import BELIEFS, PRESETS, charts_of, facts, verdicts, wanted
from textdiffusion.judges import fit_teacher
from textdiffusion.pairs import load_pairs
from textdiffusion.recipes import NOISE, RECIPES
from textdiffusion.released_targets import load_parser, read_targets, released, target_file
from textdiffusion.text_wishes import (best_of, short_rows, span_wishes, table_labels, trained_reader, with_spans,
                                       wish_corpus)

SAID = dict(words_=['START', 'Zizzi', 'is', 'a', 'pub', '\n', 'END'])
needs_parser = pytest.mark.skipif(not REAL_TEXT, reason='TEXTDIFFUSION_DATA names no folder with control_targets')

def parse(text):
    "word/TAG/head/relation …"
    return [Token(tag, int(head), relation) for _, tag, head, relation in (w.split('/') for w in text.split())]

PASSIVE = parse('Cotto/PROPN/2/nsubjpass is/AUX/2/auxpass located/VERB/2/ROOT by/ADP/2/prep rivers/NOUN/3/pobj')
RELATIVE = parse('A/DET/1/det pub/NOUN/1/ROOT that/PRON/3/nsubj serves/VERB/1/relcl food/NOUN/3/dobj')
PRICED = parse('a/DET/3/det moderately/ADV/2/advmod priced/VERB/3/amod pub/NOUN/3/ROOT')

@pytest.mark.parametrize('said, known', [
    (PASSIVE, {('NP', 0, 0), ('S', 0, 4), ('VP', 1, 1), ('VP', 1, 4), ('VP', 2, 4), ('PP', 3, 4),
               ('NP', 4, 4)}),
    (RELATIVE, {('S', 0, 4), ('S', 0, 1), ('NP', 0, 1), ('NP', 0, 4), ('NP', 2, 2), ('WHNP', 2, 2), ('S', 2, 4),
                ('VP', 3, 4), ('SBAR', 2, 4), ('NP', 4, 4)}),
    (PRICED, {('S', 0, 3), ('NP', 0, 3), ('ADVP', 1, 1), ('ADJP', 1, 2), ('VP', 1, 2), ('VP', 2, 2)})])
def test_constituents_are_those_of_a_parse_by_hand(said, known):
    assert constituents(said) == known and {label for label, *_ in known} <= set(LABELS)

def test_whatever_hangs_on_whatever_spans_lie_within_the_text():
    draws = random.Random(0)
    for _ in range(300):
        n = draws.randint(1, 12)
        heads = [draws.randrange(i) if i else 0 for i in range(n)]                    # a tree
        order = draws.sample(range(n), n)                                             # in any order of words
        said = [None]*n
        for i, at in enumerate(order):
            tag, relation = draws.choice(['NOUN', 'VERB', 'ADP', 'ADJ', 'PUNCT', 'PRON']), draws.choice(
                ['nsubj', 'aux', 'conj', 'cc', 'punct', 'relcl', 'mark', 'amod', 'dobj'])
            said[at] = Token(tag, order[heads[i]], relation if i else 'ROOT')
        first, last = reaches(said)
        assert all(a <= i <= b for i, (a, b) in enumerate(zip(first, last)))
        assert all(0 <= a <= b < n and label in LABELS for label, a, b in constituents(said))

@pytest.mark.parametrize('said, words', [('a/X/2/dep', 'word 0 hangs on word 2; a text of 1 has words 0 to 0'),
                                         ('a/X/1/dep b/X/0/dep', 'a parse is a tree')])
def test_a_parse_that_is_no_tree_is_one_sentence(said, words):
    with pytest.raises(ValueError, match=words): constituents(parse(said))

def test_a_text_is_parsed_once():
    seen = []
    def parser(texts): seen.extend(texts); return [[('NOUN', 0, 'ROOT')]*len(words) for words in texts]
    charts = parsed(parser)
    assert charts([['a'], ['b'], ['a']]) == charts([('b',), ('a',), ('b',)]) and seen == [('a',), ('b',)]

def test_the_line_break_of_released_targets_is_no_word(tmp_path):
    (tmp_path/'control_targets').mkdir()
    path = tmp_path/'control_targets/target_spans.json'
    path.write_text('\n'.join(json.dumps(SAID | dict(spans=[[0, last, 'S']])) for last in (3, 4)), encoding='utf-8')
    assert [span for _, span in read_targets(path, 'spans')] == [('S', 0, 3)]*2
    assert released('spans', 4, tmp_path) == [('S', 0, 3)]*2

@needs_parser
def test_the_judge_finds_most_of_the_released_spans():
    pytest.importorskip('spacy', reason="the extra 'pos' is not installed")
    words, asked = zip(*read_targets(target_file('spans'), 'spans'))
    charts = parsed(load_parser())(words)
    assert found_of(charts, asked) == dict(boundary=177, label=170)
    assert 20 < sum(map(len, charts))/len(charts) < 30
    cfg = SimpleNamespace(corpus='e2e', seq_len=28, data_dir='', targets=200)
    fitting = wanted(cfg, None, LABELS, [])
    assert len(fitting) == 93 and len(set(fitting)) == 75 and {label for label, *_ in fitting} <= set(LABELS)

def test_spans_of_real_text_without_a_parser_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'spacy', None)
    with pytest.raises(RuntimeError, match=r'constituents of real text need spaCy.*pip install -e "\.\[pos\]"'):
        load_parser()

@pytest.fixture(scope='module')
def job():
    source = load_pairs('restaurants')
    charts, names, tagger, tags = charts_of(source.plain.grammar)
    rows = {split: part[:300] for split, part in short_rows(source, 36).items()}
    corpus = wish_corpus(source, rows, 36, partial(with_spans, charts=charts))
    texts = corpus.plain.words(corpus.plain.test)
    asked = wanted(SimpleNamespace(corpus='restaurants', targets=4), charts, names, texts)
    wishes = dict(spans=span_wishes(asked, charts, corpus.plain, names))
    judge = fit_teacher(corpus.plain, steps=2, held_out=8)[0]
    cfg = SimpleNamespace(calls=3, samples=6, seeds=1)
    known = table_labels(corpus.plain, rows['train'][:64], tagger, tags, charts, names)
    return Job(corpus, wishes, judge, 99., cfg, torch.device('cpu')), charts, names, known, rows

def test_a_told_span_is_one_of_its_text(job):
    job, charts, names, _, rows = job
    told = with_spans(job.corpus.tokenizer, rows['train'], charts)
    for wish, text in told:
        if wish: assert ' '.join(wish.split()[1:]) in {' '.join(map(str, s)) for s in charts([text.split()])[0]}
    assert .35 < sum(wish == '' for wish, _ in told)/len(told) < .65

@pytest.mark.parametrize('span, words', [(('NP', 0, 1), "no constituent is called 'NP' here: choose from"),
                                         (('name', 2, 1), 'runs from its first word to its last, counted from 0'),
                                         (('name', -1, 1), 'not from -1 to 1'),
                                         (('name', 0, 40), 'a span up to word 40 needs 43 places')])
def test_a_span_that_cannot_be_is_one_sentence(job, span, words):
    job, charts, names, *_ = job
    with pytest.raises(ValueError, match=words) as error: span_wishes([span], charts, job.corpus.plain, names)
    assert '\n' not in str(error.value)

def test_equal_wishes_are_counted_each(job):
    job, _, names, *_ = job
    charts = Charts(lambda texts: [{('name', 0, len(words) - 1)} for words in texts])
    wishes = span_wishes([('name', 0, 1)]*2 + [('food', 0, 0)], charts, job.corpus.plain, names)
    texts = [['a', 'b'], ['a'], ['a', '']]                                             # the last has no end
    assert [wishes.success(t, x) for t, x in zip(wishes.targets, texts)] == [1, 0, 1]
    assert [wishes.strict(t, x) for t, x in zip(wishes.targets, texts)] == [1, 0, 0]

def test_of_drafts_the_one_with_the_label_is_kept(job):
    job, _, names, *_ = job
    charts = Charts(lambda texts: [{(words[0], 0, 0)} for words in texts])
    wishes = span_wishes([('food', 0, 0)], charts, job.corpus.plain, names)
    assert best_of(wishes, [['name'], ['food'], ['area']], 3, 0) == [1]

def test_every_way_has_its_row_and_what_the_reader_says(job):
    job, charts, names, known, _ = job
    plain = job.corpus.plain
    torch.manual_seed(0)
    model = RECIPES['continuous'].model(plain, d_model=32, n_layers=1, n_heads=1)
    reader = trained_reader(model, plain, *known, NOISE, 16, 2, 8, 0).ema
    rows, shown = vector_rows(job._replace(also=partial(verdicts, reader, plain)), model, reader, 0)
    passes = {r['way']: r['passes'] for r in rows}
    assert passes['as released'] == 3 + 3*2 and passes['best of drafts'] == 18
    assert {'score', 'steps, no wish'} <= set(passes)
    assert all(('yes' in r) == (r['way'] not in ('unguided', 'steps, no wish')) for r in rows)
    assert set(shown) == {'as released, spans', 'score, spans'}
    for arm in ('masked', 'autoregressive'):
        rows, _ = token_rows(job, arm, RECIPES[arm].model(job.corpus, d_model=32, n_layers=1, n_heads=1), 0)
        assert [r['way'] for r in rows] == ['unguided', 'best of drafts', 'told'] and not any('yes' in r for r in rows)
    assert 0 < people_rows(job, 0)[0]['strict'] <= people_rows(job, 0)[0]['success'] < 1

def test_what_a_reader_says_is_held_against_the_judge(job):
    job, charts, names, (kinds, _), _ = job
    w, plain = job.wishes['spans'], job.corpus.plain
    texts = [words for words in plain.words(plain.test) if charts([words])[0]]
    ids = torch.stack([row for row, words in zip(plain.test, plain.words(plain.test)) if charts([words])[0]])[:4]
    class Says:
        "A reader that gives every span the same"
        table, first, last = torch.zeros(plain.vocab_size, 2), staticmethod(lambda x: x), staticmethod(lambda x: x)
        def __init__(self, nats):
            self.kinds, n = kinds, len(names)
            self.label = SimpleNamespace(weight=torch.zeros(n, 2), bias=torch.full((n,), nats))
        def __call__(self, x, t): return x
    hits = [w.strict(t, words) for t, words in zip(w.targets, texts)]
    assert hits == [1.]*4 and verdicts(Says(3.), plain, w, ids) == dict(yes=1., seen=1., right=1.)
    assert verdicts(Says(-3.), plain, w, ids) == dict(yes=0., seen=0.)
    half = torch.cat([ids[:2], torch.full_like(ids[2:], plain.eos_id)])               # two have no words
    assert verdicts(Says(3.), plain, w, half) == dict(yes=1., taken=1., seen=1., right=.5)

def test_presets_are_those_of_08e_without_tasks_and_beliefs_are_few():
    size = {k: p['seeds']*p['steps']*p['targets'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu'] and len(BELIEFS) <= 5
    assert not any('tasks' in p for p in PRESETS.values()) and PRESETS['cpu']['corpus'] == 'restaurants'

def test_a_record_without_an_arm_has_fewer_facts():
    rows = [dict(arm='continuous', way='as released', task='spans', seed=s, success=.9, strict=.8) for s in range(3)]
    found = facts(dict(rows=rows))
    assert str(found.steps_strict) == '80\xa0±\xa00\xa0%' and 'told_strict' not in found

def test_a_broken_target_is_refused_before_training(tmp_path):
    (tmp_path/'e2e').mkdir(), (tmp_path/'control_targets').mkdir()
    for name in ('trainset', 'devset', 'testset_w_refs'):
        rows = 'mr,ref\n' + '"name[The Mill], area[riverside]",The Mill is by it.\n'*12
        (tmp_path/f'e2e/{name}.csv').write_text(rows, encoding='utf-8')
    (tmp_path/'control_targets/target_spans.json').write_text(json.dumps(SAID), encoding='utf-8')
    refused_at_once(['line 1 is no target of spans'], 'run', '08i_e2e_spans', '--preset', 'smoke', '--corpus', 'e2e',
                    '-p', 'data_dir', tmp_path)

@pytest.mark.parametrize('name, value', [('targets', '0'), ('calls', '0'), ('arms', 'spoken'), ('corpus', 'wikitext2')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([value if name in ('arms', 'corpus') else name], 'run', '08i_e2e_spans', '-p', name, value)
