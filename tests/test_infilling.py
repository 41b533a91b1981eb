"""Gaps of unknown length: the lengths of a perfect denoiser are the language's, and so are the words in them"""
import math

import pytest
import torch

from textdiffusion.corpora import load_corpus
from textdiffusion.decoding_rules import best, chance, sampler_nll
from textdiffusion.infilling import gapped, infill, length_nll
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.oracles import masked_oracle
from textdiffusion.unmasking import greedy

CORPUS = load_corpus('restaurants')
GRAMMAR, ORACLE = CORPUS.grammar, masked_oracle(CORPUS)
PLACE = dict(seq_len=CORPUS.seq_len, mask_id=CORPUS.mask_id, pad_id=CORPUS.pad_id)

def seeded(seed=0): return torch.Generator().manual_seed(seed)

def probability(pattern):
    "Of all sentences with these words, by the automaton; None is any word"
    live = {0: 1.}
    for word in pattern:
        then = {}
        for state, p in live.items():
            for said, arcs in GRAMMAR.step[state].items():
                for a in arcs if said and word in (None, said) else ():
                    then[a.target] = then.get(a.target, 0.) + p*a.prob
        live = then
    return live.get(GRAMMAR.end, 0.)

def ids_of(words): return torch.tensor([CORPUS.mask_id if w is None else CORPUS.tokenizer.convert_tokens_to_ids(w)
                                        for w in words], dtype=torch.long)

def sides(before, after):
    "Tokens on the left and on the right, with begin and end"
    return (torch.cat([torch.tensor([CORPUS.bos_id]), ids_of(before)]),
            torch.cat([ids_of(after), torch.tensor([CORPUS.eos_id])]))

def exact(before, after, longest):
    p = torch.tensor([probability([*before, *[None]*k, *after]) for k in range(longest+1)], dtype=torch.float64)
    return p/p.sum()

SENTENCES = [words for words in GRAMMAR.sample(60, seed=1) if len(words) > 9]
CUT = [(words[:i], words[j:]) for words, i, j in zip(SENTENCES, (0, 1, 3, 2, 5), (4, 5, 8, 7, 6))]

@pytest.mark.parametrize('before, after', CUT, ids=lambda words: '-'.join(words[:3]) or 'nothing')
def test_the_lengths_are_those_of_the_language(before, after):
    nll, _ = length_nll(ORACLE, *sides(before, after), 12, **PLACE)
    assert ((-nll).softmax(0) - exact(before, after, 12)).abs().max() < 1e-9

def test_gaps_of_known_length_stand_beside_the_unknown_one():
    words = SENTENCES[0]
    before, after = [words[0], None, words[2]], [*words[6:-2], None, words[-1]]
    nll, _ = length_nll(ORACLE, *sides(before, after), 9, **PLACE)
    assert ((-nll).softmax(0) - exact(before, after, 9)).abs().max() < 1e-9

def test_drawn_lengths_and_words_are_those_of_the_language():
    before, after = CUT[1]
    ids, log_p = infill(ORACLE, *sides(before, after), 12, 250, generator=seeded(), **PLACE)
    texts, p = CORPUS.words(ids), exact(before, after, 12)
    assert all(GRAMMAR.contains(t) and list(t[:len(before)]) == before and list(t[-len(after):]) == after
               for t in texts)
    count = torch.tensor([len(t) - len(before) - len(after) for t in texts]).bincount(minlength=13)
    usual = p*len(texts) >= 5
    chi = ((count - p*len(texts))**2/(p*len(texts)))[usual].sum().item()
    assert usual.sum() > 2 and abs(chi - (usual.sum()-1)) < 4*(2*usual.sum().item())**.5
    assert log_p.exp().sum().item() == pytest.approx(1)

def test_a_filling_costs_what_the_grammar_says():
    "A gap of a known length is a canvas; its exact conditional probability is the sentence's over the pattern's"
    text, words = CORPUS.test[3:4], CORPUS.words(CORPUS.test[3:4])[0]
    holes = torch.isin(torch.arange(CORPUS.seq_len), torch.tensor([2, 3, 6]))[None]
    nll, _ = sampler_nll(ORACLE, text, text.masked_fill(holes, CORPUS.mask_id), 3, CORPUS.mask_id,
                         pick=best(chance, 1), generator=seeded())
    seen = [None if holes[0, i+1] else w for i, w in enumerate(words)]
    assert nll.item() == pytest.approx(math.log(probability(seen)) - GRAMMAR.log_prob(list(words)), abs=1e-9)

def test_the_cost_is_a_call_for_each_token_on_the_right():
    asked, (left, right) = [], sides(*CUT[2])
    def counted(z, share): asked.append((len(z), share)); return ORACLE(z, share)
    length_nll(counted, left, right, 5, **PLACE)
    assert len(asked) == len(right) and all(n == 6 and (0 < share).all() and (share < 1).all() or n < 6
                                            for n, share in asked)

def test_a_network_is_asked_in_its_own_vocabulary_and_left_in_its_mode():
    torch.manual_seed(0)
    model = MaskedDenoiser(MaskedConfig(vocab_size=CORPUS.vocab_size, d_model=16, n_layers=1, n_heads=2)).train()
    ids, log_p = infill(model, *sides(*CUT[0]), 4, 8, generator=seeded(), choose=greedy, **PLACE)
    assert ids.shape == (8, CORPUS.seq_len) and log_p.isfinite().all() and model.training
    assert not (ids == CORPUS.mask_id).any()

def test_no_gap_may_come_out():
    left, right = sides(*CUT[0])
    def sure(z, share): return 99.*torch.nn.functional.one_hot(gapped(left, right, 1, CORPUS.seq_len, 0, 0)[0],
                                                               CORPUS.vocab_size).expand(len(z), -1, -1)
    ids, log_p = infill(sure, left, right, 3, 4, **PLACE)
    assert log_p.argmax() == 0 and torch.equal(ids[0, :len(left)+len(right)], torch.cat([left, right]))

@pytest.mark.parametrize('change, words', [
    (dict(longest=0), 'longest'), (dict(longest=99), 'longest can be at most'), (dict(n=0), 'n must be'),
    (dict(mask_id=-1), 'mask_id'), (dict(denoiser=None), 'denoiser'), (dict(left=torch.tensor([.5])), 'left must'),
    (dict(right=torch.zeros(1, 2).long()), 'right must')])
def test_a_wrong_argument_is_refused_before_the_first_call(change, words):
    def never(z, share): raise AssertionError('asked')
    left, right = sides(*CUT[0])
    with pytest.raises((TypeError, ValueError), match=words) as e:
        infill(**dict(denoiser=never, left=left, right=right, longest=3, n=2, **PLACE) | change)
    assert '\n' not in str(e.value)
