"""Descriptions of functions: equal in every process, different where the function is."""
import functools
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import environment
from torch import nn

from textdiffusion.plans import describe, digest

ASK = """
import torch
from textdiffusion.corpora import load_corpus
from textdiffusion.models import MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import diffusion_lm, masked_ce, token_ce
from textdiffusion.plans import describe, digest, plan_of
from textdiffusion.optimizers import muon_adamw
from textdiffusion.training import fit
torch.manual_seed(0)
corpus = load_corpus('restaurants')
model = MaskedDenoiser(MaskedConfig(vocab_size=11, d_model=32, n_layers=1, n_heads=2))
before = digest(describe([fit, corpus]))
corpus.batch(3, 4); corpus.decode(corpus.test[:2])
assert digest(describe([fit, corpus])) == before
values = [diffusion_lm(extra={token_ce: .5}), masked_ce(5, keep=lambda ids: ids == 3), {'b', 'a', 'c'}, fit, corpus]
print(digest(plan_of(model, muon_adamw(model), torch.zeros(2, 3), loss=values, evaluate=lambda m: corpus.test)))
"""

def test_another_process_says_the_same():
    "Whatever the order of sets, and after caches were filled"
    def ask(seed):
        return subprocess.run([sys.executable, '-c', ASK], capture_output=True, text=True,
                              env=environment(PYTHONHASHSEED=seed))
    said = [ask(seed) for seed in '12']
    assert said[0].stdout == said[1].stdout and said[0].stdout.startswith('#'), said[0].stderr

def made(x): return lambda y: x(y) if callable(x) else y*x

class Scale(nn.Module):
    def __init__(self, by): super().__init__(); self.by = by
    def forward(self, x): return x*self.by

PAIRS = [(1, 2), (1., -1.), (.1, .1 + 1e-17 + 1e-16), ('a', 'b'), ('a'*99, 'a'*98 + 'b'),
         (torch.zeros(2), torch.ones(2)),
         ([1, 2], [2, 1]), (torch.tensor(1.), torch.tensor(2.)), (torch.zeros(2), torch.zeros(2, 1)),
         (torch.zeros(2), torch.zeros(2).double()), ({1}, {2}),
         (made(1), made(2)), (made(made(1)), made(made(2))), (functools.partial(made, 1), functools.partial(made, x=1)),
         (lambda x: x+1, lambda x: x+2), (lambda x, y=1: x, lambda x, y=2: x), (torch.relu, torch.tanh),
         (Scale(1.), Scale(2.)),
         (Scale(1.).forward, Scale(2.).forward), (SimpleNamespace(a=1), SimpleNamespace(a=2)), ({len: 1}, {abs: 1}),
         ({'a': [made(1)]}, {'a': [made(2)]}),
         (nn.Sequential(nn.Dropout(.1)), nn.Sequential(nn.Dropout(.2))),
         (functools.lru_cache(made(1)), functools.lru_cache(made(2)))]

@pytest.mark.parametrize('a, b', PAIRS)
def test_what_differs_is_told_apart(a, b):
    one, other = describe(a), describe(b)
    assert one == describe(a) == json.loads(json.dumps(one)) and digest(one) != digest(other)
    assert '0x' not in json.dumps(one)

def test_running_a_function_does_not_change_it():
    "Python specialises the bytecode of what is called often"
    f = made(2)
    before = describe(f)
    for i in range(5000): f(i)
    assert describe(f) == before

def test_what_contains_itself_is_told_once():
    loop = []; loop.append(loop)
    assert 'again' in describe(loop)[0]
