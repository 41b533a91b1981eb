"""`python tools/picture.py` trains a small masked model on `restaurants`, a few minutes on one core, and writes
docs/writing.gif, the picture of the front page: a sentence coming out of masks, two words at a call."""
from functools import partial
from pathlib import Path
import torch
from textdiffusion.corpora import load_corpus
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import masked_bound
from textdiffusion.optimizers import muon_adamw
from textdiffusion.animation import denoising_gif
from textdiffusion.plotting import moments
from textdiffusion.training import fit
from textdiffusion.unmasking import canvas, random_k, unmask

OUT = Path(__file__).resolve().parent.parent/'docs/writing.gif'
SEED = 3 # of the first five sentences, the longest that is valid

def trained(corpus, steps=3000):
    "A masked model at the size of entry 06"
    torch.manual_seed(0)
    model = MaskedDenoiser(MaskedConfig(vocab_size=corpus.vocab_size, d_model=64, n_layers=4, n_heads=2))
    loss = masked_bound(corpus.mask_id, keep=torch.arange(corpus.seq_len) == 0)
    return fit(model, loss, lambda step: corpus.batch(step, 32), steps,
               optimizer=partial(muon_adamw, lr=6e-3, muon_lr=1.2e-2)).ema

def main():
    "Train, write one sentence, draw it"
    corpus = load_corpus('restaurants')
    blank = canvas(torch.tensor([[corpus.bos_id]]), corpus.seq_len, corpus.mask_id)
    ids, trace = unmask(trained(corpus), blank, corpus.seq_len, corpus.mask_id, pick=random_k(2), trace_every=1,
                        generator=torch.Generator().manual_seed(SEED))
    denoising_gif(moments(trace, corpus), OUT)
    print(f'{OUT.name}, {OUT.stat().st_size/1000:.0f} KB:', corpus.decode(ids)[0])

if __name__ == '__main__': main()
