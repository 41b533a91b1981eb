"Entry 08d: what tells its models apart, that steps mean the same on tables of any size, and what is refused"
import pytest
import torch

from helpers import refused_at_once
from textdiffusion.anchor_control import anchored, steps_at
from textdiffusion.anchor_loss import arms_of
from textdiffusion.corpora import load_corpus
from textdiffusion.models import GaussianConfig, GaussianDenoiser
from textdiffusion.steering import KNOBS

def test_the_anchor_is_all_that_best_anchored_adds():
    corpus, arms = load_corpus('restaurants'), anchored(.1)
    torch.manual_seed(0)
    model = GaussianDenoiser(GaussianConfig(vocab_size=corpus.vocab_size, emb_dim=16, d_model=16, n_layers=1, n_heads=2,
                                            **arms['best'].fields))
    def terms(arm):
        torch.manual_seed(0)
        return {k: v.mean().item() for k, v in arms[arm].loss_fn(model, corpus.train[:8]).items() if k != 't'}
    plain, both = terms('best'), terms('best-anchored')
    assert set(both) - set(plain) == {'report_anchor'} and both['token_ce'] == pytest.approx(plain['token_ce'])
    assert both['loss'] == pytest.approx(plain['loss'] + both['report_anchor'], rel=1e-5)

def test_the_other_arms_are_those_of_05():
    assert {k: a.fields for k, a in anchored().items() if k != 'best-anchored'}.items() <= {
        k: a.fields for k, a in arms_of().items()}.items()

@pytest.mark.parametrize('task', ['content', 'tags'])
def test_steps_follow_the_size_of_the_table(task):
    def pull(size): return lambda x, t: (x/size - 1).square().sum((1, 2))
    x, mean = torch.randn(2, 2, 3, 4)
    one, far = (steps_at(task, size, pull(size))(size*x, torch.ones(2), size*mean, 1.)/size for size in (1., 7.))
    torch.testing.assert_close(one, far)
    assert 0 < (one - x).abs().max() <= 3*KNOBS[task][0] + 1e-5

@pytest.mark.parametrize('name, value', [('targets', '0'), ('arms', 'gao'), ('lam', '-1'), ('calls', '0')])
def test_what_cannot_be_run_is_refused_at_once(name, value):
    refused_at_once([name], 'run', '08d_anchor_control', '-p', name, value)
