"Guidance of masked models: what exact parts write, when guidance is none, which sentences meet a wish, what it costs"
import time

import pytest
import torch
import torch.nn.functional as F

from textdiffusion.corpora import load_corpus
from textdiffusion.decoding_rules import best, chance, padded
from textdiffusion.grammar import load_grammar
from textdiffusion.guidance import Particles, Steered, classifier_free, every_token, first_order, without
from textdiffusion.listings import Law, Listing, Wishes, law_of
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.noisy_readers import Reader, kinds_of
from textdiffusion.targets import JUDGES, draw_targets, target
from textdiffusion.told_wishes import ToldPlaces, WishReader, alphabet, told_batch, wish_canvas
from textdiffusion.unmasking import unmask

SMALL = load_grammar('restaurants').sub_language('Offer')
LISTING, V, L = Listing(SMALL), len(SMALL.words) + 3, SMALL.max_len + 2
LAW = law_of(LISTING, torch.arange(V-1), V-1, L, V)
FOOD, RATING = (target(SMALL, 'content', asked) for asked in (('food', 'italian'), ('customer rating', 'low')))
MET = [LISTING.meets(FOOD), LISTING.meets(RATING)]
WISHES = Wishes(LAW, MET, V+1)
CORPUS = load_corpus('restaurants')
def seeded(seed=0): return torch.Generator().manual_seed(seed)

def canvas(n, wish=1):
    z = torch.full((n, 1+L), V)
    z[:, 0], z[:, 1] = V+1+wish, V-1
    return z

def write(denoiser, z, settle=lambda z: z, **how):
    pad = padded(V-3, V-2, V)
    how |= dict(pick=best(chance, 1), settle=lambda z: settle(pad(z)), generator=seeded())
    return unmask(denoiser, z, L, V, **how)[0]

def plain(z, share): return WISHES(torch.cat([torch.full_like(z[:, :1], V+1), z[:, 1:]], 1))

def misfit(ids, met):
    "Chi-square of texts against p(x | y), in standard deviations; all texts must be of the language and as asked"
    law = LAW.given(met)
    found = (ids[:, None] == law.ids).all(-1)
    assert found.any(1).all()
    expected, seen = len(ids)*law.p, found.sum(0).double()
    usual = expected >= 5
    rest = torch.stack([seen[~usual].sum(), expected[~usual].sum()]) if (~usual).any() else torch.ones(2)
    chi = ((seen - expected)**2/expected)[usual].sum() + (rest[0] - rest[1])**2/rest[1].clamp(min=1e-9)
    n = int(usual.sum())
    return float((chi - n)/(2*n)**.5)

def test_a_perfect_classifier_of_every_word_writes_what_was_asked_for_at_its_rates():
    steered = Steered(plain, every_token(WISHES.log_p, V))
    assert abs(misfit(write(steered, canvas(200), write=steered.write)[:, 1:], MET[0])) < 4

def test_a_perfect_network_that_is_told_does_too():
    assert abs(misfit(write(classifier_free(WISHES, 1, V+1), canvas(2000))[:, 1:], MET[0])) < 4

def test_many_particles_nearly_do():
    start = canvas(80).repeat_interleave(32, 0)
    group = Particles(WISHES.log_p, start, 32, seeded(1))
    assert misfit(group.chosen(write(plain, start, group))[:, 1:], MET[0]) < 6

def test_weights_of_none_and_one_are_the_untold_and_the_told_network_draw_for_draw():
    for gamma, same in ((0., plain), (1., WISHES)):
        assert torch.equal(write(classifier_free(WISHES, 1, V+1, gamma), canvas(50)), write(same, canvas(50)))
    steered = Steered(plain, every_token(WISHES.log_p, V), 0.)
    assert torch.equal(write(steered, canvas(50), write=steered.write), write(plain, canvas(50)))

def test_one_particle_is_no_guidance():
    start = canvas(50)
    group = Particles(WISHES.log_p, start, 1, seeded(1))
    assert torch.equal(group.chosen(write(plain, start, group)), write(plain, start)) and group.drawn == 0

def test_a_classifier_that_knows_nothing_draws_no_group_anew():
    start = canvas(64)
    group = Particles(lambda z: torch.zeros(len(z)), start, 8, seeded(1))
    assert torch.equal(write(plain, start, group), write(plain, start)) and group.drawn == 0

def test_two_wishes_at_once_by_the_sum_of_what_their_classifiers_say():
    "Food and rating are drawn by themselves in these sentences, so that the sum is exact"
    part = Listing(load_grammar('restaurants').sub_language('Both'))
    law = law_of(part, torch.arange(V-1), V-1, L, V)
    met = [part.meets(target(part.grammar, 'content', t.asked)) for t in (FOOD, RATING)]
    wishes = Wishes(law, met, V+1)
    def told(z, k): return torch.cat([torch.full_like(z[:, :1], V+1+k), z[:, 1:]], 1)
    steered = Steered(lambda z, share: wishes(told(z, 0)),
                      every_token(lambda z: wishes.log_p(told(z, 1)) + wishes.log_p(told(z, 2)), V))
    ids = write(steered, canvas(40), write=steered.write)[:, 1:]
    assert all((ids[:, None] == law.ids[m]).all(-1).any(1).all() for m in met)

def test_two_independent_wishes_by_the_sum_are_their_joint_law():
    ids = torch.cartesian_prod(torch.tensor([2]), torch.arange(2), torch.arange(2), torch.arange(2))
    law = Law(ids, torch.tensor([.5, .3, .2, .4, .1, .6, .3, .7]).log().double(), 3)
    coins = Law(ids, (torch.tensor([.3, .7])[ids[:, 1]]*torch.tensor([.4, .6])[ids[:, 2]]).log().double(), 3)
    assert law.log_mass != 0 and abs(coins.log_mass - torch.tensor(2.).log()) < 1e-6    # the third coin is fair
    wishes = Wishes(coins, [ids[:, 1] == 1, ids[:, 2] == 0, (ids[:, 1] == 1) & (ids[:, 2] == 0)], 4)
    z = torch.tensor([[4, 2, 3, 3, 1], [4, 2, 3, 3, 3], [4, 2, 1, 3, 3]])
    def told(k): return wishes.log_p(torch.cat([torch.full((3, 1), 4+k), z[:, 1:]], 1))
    assert torch.allclose(told(1) + told(2), told(3))

def test_to_first_order_a_perfect_classifier_of_a_bag_of_words_is_exact_and_writes_its_law():
    weight = torch.randn(V+1, generator=seeded(3))
    def liked(z, soft=None): return (F.one_hot(z[:, 1:], V+1).float() if soft is None else soft).matmul(weight).sum(-1)
    z = canvas(20)
    z[:, 3] = torch.arange(20)
    at = z == V
    assert torch.allclose(first_order(liked, 1, V)(z, at), every_token(liked, V)(z, at), atol=1e-4)

@pytest.fixture(scope='module')
def whole():
    return Listing(CORPUS.grammar)

@pytest.mark.parametrize('task', JUDGES)
def test_the_list_says_of_a_sentence_what_its_judge_says(whole, task):
    rows = torch.randint(len(whole.paths), (150,), generator=seeded(2))
    texts = [[whole.grammar.arcs[i].word for i in path if i >= 0] for path in whole.paths[rows].tolist()]
    for wish in draw_targets(whole.grammar, task, 12, seed=4):
        met = whole.meets(wish)
        some = met.nonzero()[:20, 0].tolist()
        assert met[rows].tolist() == [wish.met(words) for words in texts] and some
        assert all(wish.met([whole.grammar.arcs[i].word for i in whole.paths[k].tolist() if i >= 0]) for k in some)

def test_a_length_on_the_canvas_cannot_be_missed():
    torch.manual_seed(0)
    net = MaskedDenoiser(MaskedConfig(vocab_size=CORPUS.vocab_size, d_model=16, n_layers=1, n_heads=2)).eval()
    net.out.weight.data.normal_()
    wishes = draw_targets(CORPUS.grammar, 'length', 30, seed=1)
    start, ends = torch.stack([wish_canvas(t, CORPUS) for t in wishes]), [CORPUS.eos_id, CORPUS.pad_id, CORPUS.bos_id]
    ids, _ = unmask(without(net, ends, CORPUS.mask_id), start, CORPUS.seq_len, CORPUS.mask_id, generator=seeded())
    assert all(t.met(words) for t, words in zip(wishes, CORPUS.words(ids)))

def test_what_is_known_of_a_text_stays_and_what_is_not_is_what_an_empty_canvas_gets():
    sentence = CORPUS.grammar.sample(1, seed=3)[0]
    given = wish_canvas(target(CORPUS.grammar, 'infilling', sentence), CORPUS)
    assert CORPUS.decode(given[None])[0].startswith(' '.join(sentence))
    nothing = wish_canvas(target(CORPUS.grammar, 'infilling', [None]*3), CORPUS)
    assert torch.equal(nothing, wish_canvas(target(CORPUS.grammar, 'content', ('food', 'italian')), CORPUS))

def inside(f):
    "A function, and the seconds that it has computed"
    spent = [0.]
    def timed(*args):
        begun = time.process_time()
        said = f(*args)
        spent[0] += time.process_time() - begun
        return said
    return timed, spent

@pytest.mark.parametrize('how', ['told', 'slope'])
def test_guidance_costs_little_beside_its_passes(how):
    torch.manual_seed(0)
    letters, first = alphabet(CORPUS.grammar), CORPUS.mask_id + 1
    body = MaskedDenoiser(MaskedConfig(vocab_size=CORPUS.vocab_size, d_model=64, n_layers=4, n_heads=2)).eval()
    rows = told_batch(CORPUS, letters, 0, 64)
    def once():
        if how == 'told':
            asked, spent = inside(ToldPlaces(body, first, len(letters)).eval())
            work = lambda: classifier_free(lambda z, share: asked(z, share), rows.shape[1]//2, first, 2.)(z, share)
            z, share = rows, torch.zeros(64)
        else:
            wishes = draw_targets(CORPUS.grammar, 'tags', 64)
            reader = Reader(body.table.weight, kinds_of(CORPUS.grammar), 64, 2, 2)
            read = WishReader(reader, wishes, CORPUS.seq_len, first)
            z = torch.cat([first + 1 + torch.arange(64)[:, None], rows[:, rows.shape[1]//2:]], 1)
            z[:, 5::2] = CORPUS.mask_id
            soft = F.one_hot(z[:, 1:], CORPUS.mask_id + 1).float()
            def passes(z): # a pass forward and one back, and nothing else
                x = soft.clone().requires_grad_()
                return torch.autograd.grad(read(z, x).sum(), x)
            timed, spent = inside(passes)
            timed(z), timed(z)
            spent[0] /= 2
            work = lambda: first_order(read, 1, CORPUS.vocab_size)(z, z == CORPUS.mask_id)
        begun = time.process_time()
        with torch.no_grad(): work()
        return (time.process_time() - begun)/spent[0]
    assert min(once() for _ in range(8)) < 1.15
