"""The perfect continuous denoiser against enumeration, also where no sentence produced what it sees."""
import pytest, torch
import torch.nn.functional as F
from helpers import FEW

from textdiffusion.corpora import oracle
from textdiffusion.grammar import load_grammar
from textdiffusion.metrics import oracle_scores
from textdiffusion.oracles import bayes_denoiser
from textdiffusion.sampling import ddim_step, sample
from textdiffusion.schedules import sqrt

@pytest.fixture(scope='module')
def small():
    "A part of the language, as a corpus"
    corpus = oracle(load_grammar('restaurants').sub_language(rules=FEW['restaurants']))
    assert corpus.grammar.n_sentences() < 2000
    return corpus

def enumerated(corpus, emb, x_t, t):
    "p(token at a position | x_t) as a sum over all sentences of the language"
    every = list(corpus.grammar.enumerate_sentences())
    ids = torch.full((len(every), corpus.seq_len), corpus.pad_id)
    for row, (words, _) in zip(ids, every):
        said = corpus.tokenizer.convert_tokens_to_ids(words)
        row[:len(said)+2] = torch.tensor([corpus.bos_id, *said, corpus.eos_id])
    ab, table = sqrt(torch.tensor(t)).double(), emb.double()
    square = (x_t.double()[:, :, None] - ab.sqrt()*table).square().sum(-1)                    # (B,L,V)
    square[:, 0] = 0                                                                          # BOS is given
    price = square[:, torch.arange(corpus.seq_len), ids].sum(-1) / (2*(1-ab))                 # (B,sentences)
    prior = torch.tensor([p for _, p in every], dtype=torch.float64).log()
    return torch.einsum('bs,slv->blv', (prior - price).softmax(-1), F.one_hot(ids, len(emb)).double())

@pytest.mark.parametrize('t', [.001, .05, .2, .5, .9, 1.])
@pytest.mark.parametrize('scale', [1., 10.])
def test_the_posterior_is_exact_also_for_pure_noise(small, t, scale):
    generator = torch.Generator().manual_seed(0)
    emb = torch.randn(small.vocab_size, 16, generator=generator)
    x_t = scale*torch.randn(16, small.seq_len, 16, generator=generator)
    x0_hat, logits = bayes_denoiser(small, emb, sqrt)(x_t, torch.full((16,), t))
    p = enumerated(small, emb, x_t, t)
    assert (logits.double().exp() - p).abs().max() < 1e-6
    torch.testing.assert_close(x0_hat, (p @ emb.double()).float(), atol=1e-5, rtol=0)

@pytest.mark.parametrize('width', [16, 128])
def test_two_calls_from_pure_noise_are_enough(corpus, width):
    generator = torch.Generator().manual_seed(0)
    emb = torch.randn(corpus.vocab_size, width, generator=generator)
    shape = (256, corpus.seq_len, width)
    ids, _ = sample(bayes_denoiser(corpus, emb, sqrt), shape, sqrt, 2, step=ddim_step, generator=generator)
    assert oracle_scores(ids, corpus)['valid'] >= .98
