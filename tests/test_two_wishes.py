"Entry 08g: pairs of wishes, what adding does where the answer is known, and what is refused"
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.masked_control import Job
from textdiffusion.oracles import language_tokens, masked_oracle
from textdiffusion.guidance import added
from textdiffusion.two_wishes import PAIRS, WAYS, filled, most_typical, that_meets, way_rows
from textdiffusion.wish_boards import Couples, couples

CORPUS = load_corpus('restaurants')

@pytest.fixture(scope='module')
def menus(tmp_path_factory):
    "A language whose two facts have nothing to do with each other, and its pairs of wishes"
    path = tmp_path_factory.mktemp('menus')/'menus.grammar'
    path.write_text('slots: <Food> <Price>\n<Text> = eat/VERB <Food> for/ADP <Price>\n'
                    '<Food> = [3] rice/NOUN | [1] fish/NOUN\n'
                    '<Price> = [1] ten/NUM | [1] six/NUM | [2] two/NUM\n', 'utf-8')
    corpus = load_corpus(str(path))
    return Couples(corpus, language_tokens(corpus, 'here'), 6, 4, {'two values': ('content', 'content')})

def perfect(board, task):
    "A job whose parts are all exact"
    return Job(board, task, masked_oracle(board.corpus), board.each[task], None,
               [side.log_p for side in board.each[task]])

@pytest.mark.parametrize('name', PAIRS)
def test_pairs_are_met_by_the_sentence_they_are_read_off(name):
    pairs = couples(CORPUS.grammar, PAIRS[name], 12)
    assert len(pairs) == 12 and [tuple(t.task for t in pair) for pair in pairs] == [PAIRS[name]]*12
    assert all(one.asked != other.asked for one, other in pairs)
    again = couples(CORPUS.grammar, PAIRS[name], 12)
    assert [[t.asked for t in p] for p in pairs] == [[t.asked for t in p] for p in again]
    drawn = CORPUS.grammar.sample(20*12, 10**6)
    assert all(any(one.met(words) and other.met(words) for words in drawn) for one, other in pairs)

def test_independent_wishes_added_are_the_law_of_both(menus):
    task = 'two values'
    start, each = menus.start(task), menus.each[task]
    def plain(z, share): return menus.law(z[:, 1:])
    def padded(z, share): return torch.nn.functional.pad(plain(z, share), (0, 0, 1, 0))
    said = added(padded, *each)(start, None)[:, 1:].softmax(-1)
    torch.testing.assert_close(said, menus.wishes[task](start)[:, 1:].softmax(-1).double(), atol=1e-9, rtol=0)

def test_every_way_of_perfect_parts_writes_sentences_and_what_was_added_is_met(menus):
    rows = {r['way']: r for r in way_rows(perfect(menus, 'two values'))}
    assert list(rows) == list(WAYS) and all(r['valid'] == 1 for r in rows.values())
    assert rows['added']['both'] == rows['second told, best of 8']['both'] == 1
    one, eight = rows['second told'], rows['second told, best of 8']
    assert one['both'] < 1 and eight['forward'] > 7*one['forward']

def test_a_dead_end_is_filled_by_the_plain_model():
    even, z = torch.zeros(1, 1, 2), torch.full((1, 1), 2)
    def never(word): return lambda z, share: even.clone().index_fill(-1, torch.tensor([word]), -torch.inf)
    said = added(lambda z, share: even, never(0), never(1))(z, None)
    assert torch.equal(said.softmax(-1), even.softmax(-1))

def test_where_a_sentence_ends_is_on_the_canvas():
    board = Couples(CORPUS, language_tokens(CORPUS, 'here'), 2, 1, PAIRS)
    for tags, row in zip(board.sides['content + tags'][1], board.start('content + tags')):
        assert row[1] == CORPUS.bos_id and row[len(tags.asked)+2] == CORPUS.eos_id
        assert (row[2:len(tags.asked)+2] == CORPUS.mask_id).all()
    ids = filled(perfect(board, 'content + tags'), board.wishes['content + tags'], 2)
    assert len(ids) == 4 and board.worth('content + tags', ids[::2, 1:])['both'] == 1

def test_one_draft_is_kept():
    texts = ['a b'.split(), 'c d'.split(), 'a b c'.split()]
    assert that_meets(texts, [0., 1., 1.]) == 1 and that_meets(texts, [0., 0., 0.]) == 0
    assert most_typical(texts, [0., 1., 0.]) != 1

@pytest.mark.parametrize('given, words', [(('-p', 'targets', '0'), ['targets']), (('-p', 'drafts', '-1'), ['drafts']),
                                          (('--corpus', 'restaurants-large'), ['restaurants-large', 'listed'])])
def test_what_does_not_fit_is_refused(given, words):
    refused_at_once(words, 'run', '08g_two_wishes', '--preset', 'smoke', *given)
