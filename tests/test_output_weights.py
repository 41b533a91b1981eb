"Entry 06l: how output weights begin, what has a gradient at first, what the facts compare"
from types import SimpleNamespace

import pytest
import torch
from helpers import refused_at_once

from textdiffusion.character_diffusion import ARMS as BEFORE
from textdiffusion.models import CausalConfig, CausalLM, MaskedConfig, MaskedDenoiser
from textdiffusion.optimizers import muon_adamw
from textdiffusion.output_weights import (ARMS, PRESETS, SHORT, chance_start, facts, gains, gap_at, starting, tied,
                                          told_by)
from textdiffusion.recipes import RECIPES, as_built, blocks, shared_start
from textdiffusion.training import fit

SIZES = dict(d_model=64, n_layers=2, n_heads=2)

def masked(): torch.manual_seed(0); return MaskedDenoiser(MaskedConfig(vocab_size=9, **SIZES))
def causal(): torch.manual_seed(0); return CausalLM(CausalConfig(vocab_size=10, **SIZES))

@pytest.mark.parametrize('fresh', [masked, causal])
def test_a_start_changes_the_output_weights_alone(fresh):
    before = {k: v.clone() for k, v in as_built(fresh()).state_dict().items()}
    for start in (shared_start, chance_start):
        after = start(fresh()).state_dict()
        assert [k for k in before if not torch.equal(before[k], after[k])] == ['out.weight']
    shared, chance = shared_start(fresh()).out.weight, chance_start(fresh()).out.weight
    assert torch.allclose(shared*64**.5, fresh().table.weight[:len(shared)])
    assert shared.std().item() == pytest.approx(64**-.5, rel=.1) == pytest.approx(chance.std().item(), rel=.2)

@pytest.mark.parametrize('fresh', [masked, causal])
def test_tied_weights_stay_one_through_training_and_averaging(fresh):
    model = tied(fresh())
    ids = torch.randint(9, (8, 12))
    assert torch.equal(shared_start(fresh())(*[ids, None][:1 + (fresh is masked)]),
                       model(*[ids, None][:1 + (fresh is masked)])), 'before training tied and shared say the same'
    def loss(model, ids): return dict(loss=model(*[ids, None][:1 + (fresh is masked)])[..., :9].square().mean())
    run = fit(model, loss, lambda step: ids, 3, optimizer=muon_adamw)
    for trained in (run.model, run.ema):
        assert trained.out.table is trained.table
        assert not torch.equal(trained.table.weight, fresh().table.weight)
    names = [name for name, _ in run.model.named_parameters()]
    assert 'out.table.weight' not in names and len(names) == len(set(names))

def test_where_all_places_are_masks_zero_weights_get_a_gradient_of_rank_one():
    "Every masked place has the same hidden state at first, so that zero weights can only learn how common words are"
    targets = torch.randint(9, (4, 12), generator=torch.Generator().manual_seed(0))
    def gradient(z):
        model = masked()
        torch.nn.functional.cross_entropy(model(z, None).transpose(1, 2), targets).backward()
        return model.out.weight.grad, [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    first, moved = gradient(torch.full((4, 12), 9))
    s = torch.linalg.svdvals(first)
    assert s[1] < 1e-4*s[0] and set(moved) == {'out.weight', 'out.bias'}
    other, _ = gradient(torch.randint(9, (4, 12), generator=torch.Generator().manual_seed(1)))
    s = torch.linalg.svdvals(other)
    assert s[1] > .1*s[0]

def test_arms_differ_in_their_start_alone():
    for name, arm in ARMS.items():
        base = BEFORE['diffusion' if name.startswith('masked') else 'autoregressive']
        assert arm.loss is base.loss and arm.optimizer is base.optimizer and arm.steps == base.steps, name
        assert arm.contexts == base.contexts and arm.windows == base.windows and not arm.few, name
    built = starting(BEFORE['diffusion'], shared_start).model(9, 12, SIZES)
    assert torch.allclose(built.out.weight*64**.5, built.table.weight[:9])
    assert ARMS['masked'] == BEFORE['diffusion'] and ARMS['autoregressive'] == BEFORE['autoregressive']
    assert set(SHORT) == set(ARMS)

def test_users_models_begin_as_the_words():
    corpus = SimpleNamespace(vocab_size=9)
    assert RECIPES['masked'].start is shared_start
    assert {RECIPES[k].start for k in ('continuous', 'autoregressive')} == {as_built}
    for kind in ('masked', 'autoregressive'): assert not RECIPES[kind].model(corpus, **blocks(32, 1)).out.weight.any()

def test_facts_compare_seed_by_seed():
    nats = {'masked': 2.06, 'masked-chance': 2.05, 'masked-shared': 2.04, '5-gram': 1.7, 'autoregressive': 1.5,
            'autoregressive-shared': 1.6}
    rows = [dict(arm=a, seed=s, nats=n + s/100) for a, n in nats.items() for s in range(3)]
    texts = [dict(arm=a, seed=s, way='64 calls' if 'masked' in a else 'left to right', judge=2*n, known_words=.5)
             for a, n in nats.items() for s in range(3)] + [dict(arm='real', seed=0, way='', judge=1.6, known_words=.9)]
    history = [dict(arm=a, seed=s, step=step, loss=3. - step/100 + ('shared' not in a)/(1 + step))
               for a in ('masked', 'masked-shared') for s in range(3) for step in range(25, 200, 25)]
    record = dict(rows=rows, texts=texts, parameters=dict(seq_len=64), history=history)
    f = facts(record)
    assert f.first_step.mean == 50 and f.last_step.mean == 175 and gap_at(record, 175) == f.last_gap
    assert f.first_gap.mean == pytest.approx(-1/51) and f.last_gap.mean == pytest.approx(-1/176)
    assert 'first_gap' not in facts(record | dict(history=history[:1])), 'a curve of one point'
    assert f.shared_gain.mean == pytest.approx(-.02) and f.chance_gain.mean == pytest.approx(-.01)
    assert f.between.mean == pytest.approx(.01) and f.between.half < 1e-6
    assert f.shared_judge_gain.mean == pytest.approx(-.04) and f.twin_shared_gain.mean == pytest.approx(.1)
    alone = [r for r in rows if r['arm'] == 'masked-shared']
    assert set(told_by(alone, 'nats')) == {'shared'} and not gains(alone), 'there is nothing to compare with'

def test_presets_grow():
    size = {k: p['seeds']*p['steps']*p['d_model'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu']
    assert all(set(p['arms']) <= set(ARMS) for p in PRESETS.values())

@pytest.mark.parametrize('given, said', [(['-p', 'arms', 'masked-share'], 'did you mean masked-shared?'),
                                         (['-p', 'seq_len', '16', '--corpus', 'restaurants'], 'seq_len must be')])
def test_the_command_refuses(given, said):
    refused_at_once([said], 'run', '06l', '--preset', 'smoke', *given)
