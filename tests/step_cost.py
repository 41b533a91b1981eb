"""What the checks of `fit` cost: steps with and without them, turn by turn, on two copies of one model.
`python tests/step_cost.py [pairs]` prints what the checks add to a step, on one core."""
import copy
import statistics
import sys
import time
from contextlib import contextmanager
from unittest import mock

import torch

from textdiffusion import training
from textdiffusion.corpora import load_corpus
from textdiffusion.models import GaussianConfig, GaussianDenoiser, MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import diffusion_lm, masked_bound
from textdiffusion.optimizers import muon_adamw

@contextmanager
def unchecked():
    "The steps of `fit` without what looks at batches, terms, losses and gradients"
    bare = dict(check_batch=lambda ids, *_: ids, check_terms=dict, _check_finite=lambda *_, **__: True)
    with mock.patch.multiple(training, **bare): yield

@contextmanager
def checked(): yield

def ratio(model, loss_fn, corpus, pairs, batch=64):
    "Median over pairs of steps of the time with all checks by that without, and the seconds of a step"
    both = dict(a=checked, b=unchecked)
    sides = {name: (m := copy.deepcopy(model), muon_adamw(m), how) for name, how in both.items()}
    def seconds(name, step):
        m, opts, how = sides[name]
        ids = corpus.batch(step, batch)
        with how():
            training.reseed(0, step)
            begun = time.process_time()
            training.train_step(m, loss_fn, training.check_batch(ids, m, step, False), opts, 1.)
            return time.process_time() - begun
    found = []
    for step in range(pairs):
        took = {name: seconds(name, step) for name in ('ab' if step % 2 else 'ba')}       # who is first changes
        if step > 4: found.append((took['a'], took['b']))
    assert all(torch.equal(p, q) for p, q in zip(sides['a'][0].parameters(), sides['b'][0].parameters()))
    return statistics.median(a/b for a, b in found), statistics.median(b for _, b in found)

def measured(pairs=200):
    "kind of model -> (ratio, seconds of a step)"
    torch.set_num_threads(1)
    corpus, sizes = load_corpus('restaurants'), dict(d_model=128, n_layers=3, n_heads=4)
    torch.manual_seed(0)
    sizes['vocab_size'] = corpus.vocab_size
    kinds = dict(masked=(MaskedDenoiser(MaskedConfig(**sizes)), masked_bound(corpus.mask_id)),
                 gaussian=(GaussianDenoiser(GaussianConfig(**sizes)), diffusion_lm()))
    return {kind: ratio(model.train(), loss_fn, corpus, pairs) for kind, (model, loss_fn) in kinds.items()}

if __name__ == '__main__':
    for kind, (times, seconds) in measured(*map(int, sys.argv[1:])).items():
        print(f'{kind}: a step takes {1000*seconds:.1f} ms, with all checks {times - 1:+.2%}')
