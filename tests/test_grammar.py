"The oracle languages: proofs where there is one, and a second way to compute the number everywhere else"
import math, random, time

import pytest, torch
import torch.nn.functional as F
from helpers import FEW

from textdiffusion.automata import ambiguity
from textdiffusion.grammar import GRAMMARS, Grammar, leaves, load_grammar
from textdiffusion.rules import read_rules

SLOTS = {'name', 'eatType', 'food', 'priceRange', 'customer rating', 'area', 'familyFriendly', 'near'}
FLOORS = {'restaurants': dict(words=60, nats=10, longest=28, five_gram=.81),
          'restaurants-large': dict(words=160, nats=15, longest=48, five_gram=.51)}

@pytest.fixture(params=list(GRAMMARS))
def grammar(request):
    return load_grammar(request.param)


@pytest.fixture
def part(grammar):
    return grammar.sub_language(rules=FEW[grammar.name])


def rows(grammar, sentences, n):
    "Sentences as symbols, END to the end of the row"
    return torch.tensor([[grammar.index[w] for w in words] + [len(grammar.words)]*(n - len(words))
                         for words in sentences])


def test_sizes(grammar):
    floor = FLOORS[grammar.name]
    assert len(grammar.words) >= floor['words'] and grammar.entropy() >= floor['nats']
    assert grammar.max_len <= floor['longest'] and grammar.n_sentences() > 100_000
    assert {w for words in grammar.sample(20_000, seed=3) for w in words} == set(grammar.words)


def test_all_slots_are_used(grammar):
    assert {slot for words in grammar.sample(500) for slot in grammar.slots(words)} == SLOTS == set(grammar.book.slots)


def test_building_is_fast_and_cached(grammar):
    start = time.process_time()
    Grammar(grammar.name, read_rules(GRAMMARS[grammar.name].read_text('utf-8')))
    assert time.process_time() - start < 1
    assert load_grammar(grammar.name) is grammar


def test_unambiguous(grammar):
    # the premises of the proof: every state can be reached from the start and reaches the end,
    # so a pair that meets is a sentence with two derivations
    reached, ends = {0}, {grammar.end}
    for _ in range(grammar.max_len + 1):
        reached |= {a.target for a in grammar.arcs if a.source in reached}
        ends |= {a.source for a in grammar.arcs if a.target in ends and a.word}
    end_was_said = grammar.states.index(())
    assert reached == set(range(len(grammar.states))) == ends | {end_was_said}
    assert ambiguity(grammar.arcs) is None


@pytest.mark.parametrize('text', [
    '<Text> = a <B> | a b\n<B> = b',                    # two rules
    '<Text> = a/X | a/SYM',                             # two tags
    '<Text> = <A> <B>\n<A> = a | a b\n<B> = c | b c',   # two places to cut
])
def test_ambiguous_rules_are_refused(text):
    with pytest.raises(ValueError, match='ambiguous'): Grammar('twice', read_rules(text))


def test_scoring_is_fast(grammar):
    sentences = grammar.sample(2000, seed=1)
    start = time.perf_counter()
    scores = [grammar.log_prob(words) for words in sentences]
    assert time.perf_counter() - start <= 2
    assert min(scores) > -math.inf


def test_drawing_is_fast_and_depends_on_the_generator_alone(grammar):
    grammar.draw(64, torch.Generator())
    start = time.perf_counter()
    ids = grammar.draw(20_000, torch.Generator().manual_seed(0))
    assert 20_000/(time.perf_counter() - start) > 50_000
    torch.manual_seed(1)
    assert torch.equal(ids, grammar.draw(20_000, torch.Generator().manual_seed(0)))
    assert ids.shape == (20_000, grammar.max_len)
    assert ((ids[:, 1:] >= 0) <= (ids[:, :-1] >= 0)).all() # nothing after the end


def test_entropy_agrees_with_samples(grammar):
    nll = -torch.tensor([grammar.log_prob(words) for words in grammar.sample(5000, seed=2)], dtype=torch.float64)
    assert abs(nll.mean() - grammar.entropy()) < 4*nll.std()/len(nll)**.5


def test_enumeration_sums_to_one(part):
    listed = list(part.enumerate_sentences())
    assert 100 < len(listed) == part.n_sentences() == len({tuple(words) for words, _ in listed}) < 1000
    assert math.isclose(math.fsum(p for _, p in listed), 1)
    assert math.isclose(-math.fsum(p*math.log(p) for _, p in listed), part.entropy())
    assert max(len(words) for words, _ in listed) == part.max_len
    assert all(math.isclose(math.log(p), part.log_prob(words)) for words, p in listed)


def test_drawn_frequencies_agree_with_enumeration(part):
    n, listed = 20_000, list(part.enumerate_sentences())
    place = {tuple(words): i for i, (words, _) in enumerate(listed)}
    counts = torch.zeros(len(listed), dtype=torch.float64)
    for words in part.sample(n): counts[place[tuple(words)]] += 1
    expected = n*torch.tensor([p for _, p in listed], dtype=torch.float64)
    chi2, freedom = ((counts - expected)**2/expected).sum(), len(listed) - 1
    assert abs(chi2 - freedom) < 5*(2*freedom)**.5


def test_membership_agrees_with_enumeration_on_every_small_change(part):
    language = {tuple(words) for words, _ in part.enumerate_sentences()}
    vocabulary = [*part.words, 'bistros'] # every word of the language, and one that is not
    changed = set(language)
    for words in language:
        for i in range(len(words) + 1):
            changed |= {words[:i] + new + words[i+gone:] for gone in (0, 1)
                        for new in [(), *((w,) for w in vocabulary)]}
    assert len(changed) > 50_000
    assert {words for words in changed if part.contains(words)} == language


# rows too short for the longest sentences, just long enough, with ENDs to spare
@pytest.mark.parametrize('extra', [-2, 0, 3])
def test_posterior_agrees_with_enumeration(part, extra):
    n = part.max_len + extra
    words, p = zip(*[(w, p) for w, p in part.enumerate_sentences() if len(w) <= n])
    table, p = rows(part, words, n), torch.tensor(p, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    partial = table[torch.randint(len(table), (64,), generator=g)]
    partial = partial.where(torch.rand(partial.shape, generator=g) < torch.rand(64, 1, generator=g), -1)
    partial[0] = -1 # nothing visible
    weight = ((partial[:, None] == table) | (partial[:, None] < 0)).all(-1)*p # (64, sentences): those that agree
    expected = torch.einsum('bs,snv->bnv', weight/weight.sum(1, keepdim=True),
                            F.one_hot(table, len(part.words) + 1).double())
    assert torch.allclose(part.posterior(partial), expected, atol=1e-12, rtol=0)


def test_posterior_of_a_whole_grammar(grammar):
    g = torch.Generator().manual_seed(0)
    full = rows(grammar, grammar.sample(64), grammar.max_len + 1)
    partial = full.where(torch.rand(full.shape, generator=g) < .5, -1)
    start = time.perf_counter()
    probs = grammar.posterior(partial)
    seconds = time.perf_counter() - start
    assert grammar.name != 'restaurants' or seconds < 1
    assert probs.dtype == torch.float64 and (probs.sum(-1) - 1).abs().max() < 1e-9
    assert (probs.gather(-1, full[..., None]) > 0).all()                                        # the truth is possible
    assert torch.equal(probs.argmax(-1)[partial >= 0], full[partial >= 0])                      # what is visible stays
    assert torch.allclose(grammar.posterior(full), F.one_hot(full, len(grammar.words) + 1).double())


def test_chain_rule_of_the_posterior(grammar):
    "Revealing a sentence word by word in any order multiplies up to its probability"
    words = grammar.sample(1, seed=4)[0]
    full = rows(grammar, [words], grammar.max_len)[0]
    order = torch.randperm(len(full), generator=torch.Generator().manual_seed(0))
    rank = order.argsort()
    # row k shows the first k of the order
    partial = torch.stack([full.where(rank < k, -1) for k in range(len(full))])
    p = grammar.posterior(partial)[torch.arange(len(full)), order, full[order]]
    assert math.isclose(p.log().sum(), grammar.log_prob(words), rel_tol=1e-9)


def test_bad_rows_are_named(grammar):
    end = len(grammar.words)
    with pytest.raises(ValueError, match='row 1 '): grammar.posterior(torch.tensor([[-1]*12, [end] + [-1]*11]))
    with pytest.raises(ValueError, match='expected -1'): grammar.posterior(torch.tensor([[end + 1]]))
    with pytest.raises(ValueError, match='int64'): grammar.posterior(torch.zeros(2, 3))
    with pytest.raises(ValueError, match='n = 2'): grammar.posterior(torch.full((1, 3), -1), n=2)
    assert grammar.posterior(torch.full((1, 3), -1), n=30).shape == (1, 30, end + 1)


def test_tags_tree_and_slots_agree(grammar):
    for words in grammar.sample(300, seed=5):
        tree, tags, slots = grammar.tree(words), grammar.tags(words), grammar.slots(words)
        assert tree[0] == 'Text' and leaves(tree) == words and len(tags) == len(words)
        assert tags[-1] == 'PUNCT' and set(slots) <= SLOTS and 'name' in slots
        assert all(f' {value} ' in f" {' '.join(words)} " for value in slots.values())


def test_what_is_no_sentence_has_no_tree():
    small = load_grammar('restaurants')
    for method in [small.tags, small.tree, small.slots]:
        with pytest.raises(ValueError, match='not a sentence of restaurants'): method(['cotto', 'is', '.'])
    with pytest.raises(ValueError, match='split'): small.contains('cotto serves french food .')
    with pytest.raises(ValueError, match='restaurants, restaurants-large'): load_grammar('bistros')


@pytest.mark.parametrize('good, bad', [
    ('cotto is a pub . cotto serves thai food .', 'cotto is a pub . zizzi serves thai food .'),
    ('if you want thai food , try the mill near ranch . the mill is rated one star .',
     'if you want thai food , try the mill near ranch . the punter is rated one star .'),
    ('near ranch , cotto charges between ten pounds for soup and forty pounds for fish .',
     'near ranch , cotto charges between ten pounds for soup to forty pounds for fish .'),
    ('near ranch , cotto offers thai food for between ten and thirty pounds .',
     'near ranch , cotto offers thai food for between ten pounds .'),
    ('the pies that the chef at the mill makes are fresh .', 'the pies that the chef at the mill makes is fresh .'),
    ('cotto , an old inn near ranch , serves thai food .', 'cotto , an old inn near ranch .'),
    ('cotto is an old but cheap thai inn .', 'cotto is a old but cheap thai inn .'),
])
def test_agreement_over_distance(good, bad):
    large = load_grammar('restaurants-large')
    assert large.contains(good.split()) and not large.contains(bad.split())


def ngram_sentences(sentences, n, how_many, seed=0):
    "Sentences written by an n-gram model counted on `sentences`, without smoothing"
    follows, rng, out = {}, random.Random(seed), []
    for words in sentences:
        padded = ['BOS']*(n - 1) + words + ['EOS']
        for i in range(n - 1, len(padded)): follows.setdefault(tuple(padded[i-n+1:i]), []).append(padded[i])
    for _ in range(how_many):
        words = ['BOS']*(n - 1)
        while words[-1] != 'EOS': words.append(rng.choice(follows[tuple(words[len(words)-n+1:])]))
        out.append(words[n-1:-1])
    return out


def test_a_5_gram_does_not_do(grammar):
    written = ngram_sentences(grammar.sample(20_000), 5, 3000)
    assert sum(map(grammar.contains, written))/3000 <= FLOORS[grammar.name]['five_gram']
