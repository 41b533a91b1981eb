"Entry 08f: known answers of its measures, twins that see the same sentences, prices that add up, what is refused"
import math
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.conditional_learning import (ARMS, BELIEFS, GUESSES, PRESETS, PRICES, batches_of, check, curves,
                                                held_parts, kinds_of, looks_of, named, network, prices, reached,
                                                trained, worth, written)
from textdiffusion.lengths import lengths_of
from textdiffusion.pairs import load_pairs
from textdiffusion.recipes import RECIPES, blocks
from textdiffusion.records import Run
from textdiffusion.tokenizing import encode, sentence_rows

PAIRS = load_pairs('restaurants')
GRAMMAR = PAIRS.plain.grammar

def run_at(kind=Run, **changed):
    "A smoke run, changed here and there"
    run = kind(cfg=SimpleNamespace(**PRESETS['smoke'] | changed))
    run.__dict__.update(corpus=PAIRS, device=torch.device('cpu'),
                        sources=list(PAIRS.groups['test'])[:6])
    return run

RUN = run_at()
OWN = [PAIRS.groups['test'][source][0] for source in RUN.sources]

def rows_of(texts): return sentence_rows(encode(PAIRS.tokenizer, texts), PAIRS.special, PAIRS.seq_len)

def test_its_own_text_says_a_table_and_another_one_does_not():
    own, other = worth(RUN, rows_of(OWN)), worth(RUN, rows_of(OWN[1:] + OWN[:1]))
    assert own['right'] == own['valid'] == own['said'] == 1 and other['valid'] == 1
    assert other['right'] < .5 and other['said'] < .6

def test_few_sentences_say_nothing_about_sentences():
    assert 'said_valid' not in worth(RUN, rows_of(['the the', *OWN[1:]]))
    many = run_at()
    many.sources = list(PAIRS.groups['test'])[:12]
    texts = [PAIRS.groups['test'][source][0] for source in many.sources]
    row = worth(many, rows_of(['the the', *texts[1:]]))
    assert row['said_valid'] == 1 and row['valid'] == row['right'] == 11/12 and row['said'] < 1

def marked(words): return sum(len(span) for _, span in GRAMMAR.stated(words))

def test_where_a_sentence_says_its_table():
    words = 'near the bakers , cotto offers indian food for less than twenty pounds .'.split()
    found = {slot: ' '.join(words[span.start:span.stop]) for slot, span in GRAMMAR.stated(words)}
    assert found == GRAMMAR.slots(words) and found['near'] == 'the bakers' and list(found)[-1] == 'priceRange'

def test_a_source_has_as_many_places_as_training_needs():
    room, begun = PAIRS.rooms(), PAIRS.given(PAIRS.train).sum(1)
    assert (lengths_of(PAIRS.train, PAIRS.pad_id) <= room[begun]).all() and room[0] == room[-1] == PAIRS.seq_len
    assert room[begun.min()] < room[begun.max()]

def test_held_texts_are_whole_and_each_comes_once():
    parts = held_parts(run_at(held=40))
    assert sum(len(ids) for ids, _ in parts) == 40
    for ids, texts in parts:
        assert lengths_of(ids, PAIRS.pad_id).tolist() == [
            n + len(words) + 1 for n, words in zip(PAIRS.given(ids).sum(1).tolist(), texts)]

def test_a_value_is_named_where_all_of_it_is():
    "A model that reads the answer names everything, one that says one word nothing; whatever its source"
    class Reader(torch.nn.Module):
        config = SimpleNamespace(vocab_size=PAIRS.vocab_size)
        def __init__(self, ids): super().__init__(); self.ids = ids
        def forward(self, z, share): return torch.nn.functional.one_hot(self.ids, PAIRS.vocab_size).float()
    run = run_at(held=4, batch_size=4)
    (ids, texts), = held_parts(run)
    spans = [(i, span) for i, words in enumerate(texts) for _, span in GRAMMAR.stated(words)]
    rows = ids[[i for i, _ in spans]]
    assert named(run, 'masked', Reader(rows))['named'] == 1
    assert named(run, 'masked', Reader(torch.full_like(rows, PAIRS.pad_id)))['named'] == 0
    assert named(run, 'continuous', None) == {} and set(GUESSES) < set(PRICES)

def test_every_place_behind_a_source_has_one_kind_and_none_before():
    rows = PAIRS.test[:16]
    texts = PAIRS.plain.words(PAIRS.targets(rows))
    kinds = kinds_of(rows, PAIRS, texts)
    assert torch.equal(sum(kind.long() for kind in kinds.values()), (~PAIRS.given(rows)).long())
    assert kinds['table'].sum(1).tolist() == [marked(words) for words in texts]
    assert (kinds['table'] | kinds['other']).sum(1).tolist() == [len(words) + 1 for words in texts]

def test_a_uniform_guess_costs_the_same_for_every_kind_of_word():
    for name, arm in ARMS.items():
        if arm.kind == 'continuous': continue                              # its scores are never all equal
        if name == 'masked-shared': continue                               # nor does it begin with equal ones
        model = RECIPES[arm.kind].model(PAIRS, **blocks(32, 1))
        torch.nn.init.zeros_(model.out.bias)
        found = prices(RUN, name, model)
        near = .4 if arm.kind == 'masked' else 1e-5                        # a draw of masks that hides few of them
        assert found['table_nats'] == pytest.approx(math.log(PAIRS.vocab_size), rel=near)

def test_a_fresh_network_says_what_passes_through_where_its_scores_are_the_words_own_vectors():
    torch.manual_seed(0)
    plain, shared = (network(RUN, ARMS[name]).eval() for name in ('masked', 'masked-shared'))
    ids = PAIRS.test[:4]
    words = PAIRS.real(ids)
    def said(model): return (model(ids, torch.zeros(4)).argmax(-1) == ids)[words].float().mean().item()
    assert said(shared) > .9 > .3 > said(plain)

def test_batches_hold_every_sentence_of_a_pool_and_sources_of_about_a_length():
    found = [batches_of(RUN, 3)(step) for step in range(16)]
    spread = [PAIRS.given(ids).sum(1).float().std() for ids in found]
    pool = PAIRS.batch(0, 16*RUN.cfg.batch_size, 3)
    assert sum(map(len, found)) == len(pool) and sum(spread)/16 < PAIRS.given(pool).sum(1).float().std()/2
    texts = sorted(tuple(i for i in row if i != PAIRS.pad_id) for ids in found for row in ids.tolist())
    assert texts == sorted(tuple(i for i in row if i != PAIRS.pad_id) for row in pool.tolist())

@pytest.mark.parametrize('name', ARMS)
def test_every_arm_writes_the_same_again(name):
    torch.manual_seed(0)
    model = RECIPES[ARMS[name].kind].model(PAIRS, **blocks(32, 1))
    (first, calls), (again, _) = (written(RUN, name, model, 1) for _ in range(2))
    assert torch.equal(first, again) and len(first) == 6 and (first[:, 0] == PAIRS.bos_id).all() and calls > 0

def test_looks_grow_and_end_with_the_plan():
    looks = looks_of(SimpleNamespace(steps=4000, looks=5))
    assert looks == [1000, 1414, 2000, 2828, 4000] and looks_of(SimpleNamespace(steps=1, looks=3)) == [1]

def test_training_to_a_look_and_on_is_training_at_once(tmp_path):
    class Here(Run):
        def folder_of(self, name): return tmp_path/name
    run = run_at(Here, steps=6)
    trained(run, 'masked', 0, 3)
    assert trained(run, 'masked', 0, 6).weights_hash() == trained(run_at(steps=6), 'masked', 0, 6).weights_hash()

def test_when_a_bar_is_reached():
    def rows(arm, points): return [dict(arm=arm, seed=0, look=i, steps=n, right=v) for i, (n, v) in enumerate(points)]
    both = rows('masked', [(100, .4), (200, .9)]) + rows('autoregressive', [(10, .4), (20, .9)])
    both.append(dict(arm='masked', seed=0, right=.1))                      # another way of choosing words
    assert curves(both, 'masked', 'right') == {0: [(100, .4), (200, .9)]}
    late, soon = (reached(both, arm, 'right', .8) for arm in ('masked', 'autoregressive'))
    assert late == {0: pytest.approx(180)} and soon == {0: pytest.approx(18)}
    assert reached(both, 'masked', 'right', .95) == {0: math.inf}

def test_presets_grow_and_beliefs_are_few():
    size = {k: p['seeds']*p['steps']*len(p['arms']) for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu'] and 1 <= len(BELIEFS) <= 5
    assert set(PRICES) == {arm.kind for arm in ARMS.values()}

def test_a_corpus_that_is_not_exact_is_refused():
    with pytest.raises(ValueError, match='e2e cannot be judged.*choose'): check(SimpleNamespace(corpus='e2e'), None)
    check(SimpleNamespace(corpus='restaurants-large'), None)

@pytest.mark.parametrize('name, value', [('sources', '0'), ('steps', '0'), ('arms', 'spoken'), ('corpus', 'e2e')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name if name != 'corpus' else 'e2e'], 'run', '08f_conditional_learning', '-p', name, value)
