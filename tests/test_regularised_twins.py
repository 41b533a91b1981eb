"Entry 06j: what two ways to regularise a twin do, to its input and to its weights, and what its curves are asked"
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import refused_at_once

from textdiffusion.character_diffusion import ARMS as BEFORE, muon
from textdiffusion.corpora import load_corpus
from textdiffusion.regularised_twins import ARMS, PRESETS, ahead_from, check, decayed, facts, hidden_nll

V, L = 9, 12
SIZES = dict(d_model=16, n_layers=1, n_heads=2)
RATES = SimpleNamespace(lr=.02, muon_lr=.03)

def smoke(**given): return SimpleNamespace(**PRESETS['smoke'] | given)

# the two ways ---------------------------------------------------------------------------------------------------------

class Watched(torch.nn.Module):
    "Guesses blindly and keeps what it was shown"
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=V+1)
    def forward(self, seen):
        self.seen = seen
        return torch.zeros(*seen.shape, V+1)

def test_inputs_are_hidden_by_the_start_symbol_and_what_is_asked_for_is_whole():
    torch.manual_seed(0)
    model, ids = Watched(), torch.randint(V, (4000, L))
    loss = hidden_nll(.2)(V)(model, ids)['loss']
    begin, given = model.seen[:, 0], model.seen[:, 1:]
    hidden = given == V
    assert (begin == V).all() and torch.equal(given[~hidden], ids[:, :-1][~hidden])   # one to the right, else as it is
    assert abs(hidden.float().mean() - .2) < .01 and math.isclose(loss.item(), math.log(V), rel_tol=1e-5)

def test_a_hidden_place_costs_like_any_other():
    "A model sure of the right character pays nothing, whatever is hidden; sure of a wrong one, everything"
    ids = torch.full((8, L), 3)
    class Sure(Watched):
        def forward(self, seen): return 50*torch.nn.functional.one_hot(torch.full(seen.shape, self.says), V+1).float()
    model = Sure()
    for says, nats in ((3, 0.), (4, 50.)):
        model.says = says
        assert hidden_nll(.5)(V)(model, ids)['loss'].item() == pytest.approx(nats, abs=1e-4)

@pytest.mark.parametrize('make, kept', [(decayed, True), (muon, False)])
def test_decay_takes_its_share_of_every_weight_and_the_plain_optimiser_none(make, kept):
    model = ARMS['twin'].model(V, L, SIZES)
    for p in model.parameters(): torch.nn.init.ones_(p); p.grad = torch.zeros_like(p)
    optimizers = make(RATES)(model)
    for o in optimizers: o.step()
    after = {round(p.mean().item(), 6) for p in model.parameters()}
    assert after == ({1 - RATES.lr, 1 - RATES.muon_lr} if kept else {1.})

def test_twins_differ_in_what_their_names_say_alone():
    twin = vars(BEFORE['few-autoregressive'])
    changed = {name: {k for k, v in vars(arm).items() if v is not twin[k] and v != twin[k]}
               for name, arm in ARMS.items() if name != 'diffusion'}
    assert changed == dict(twin=set(), hidden={'loss'}, decay={'optimizer'}, both={'loss', 'optimizer'})
    assert ARMS['diffusion'] == BEFORE['few-diffusion']

# what is refused ------------------------------------------------------------------------------------------------------

def test_a_held_out_text_without_blocks_to_judge_on_is_refused():
    corpus = load_corpus('restaurants')
    assert check(smoke(), corpus) is None
    with pytest.raises(ValueError, match=r'has \d+ blocks of 32 characters, and 10001 are needed: take a smaller'):
        check(smoke(watched=10_000), corpus)

@pytest.mark.parametrize('given, said', [(['-p', 'arms', 'decoy'], 'did you mean decay?'),
                                         (['-p', 'few', '20'], 'few must be at least seq_len, 32, not 20')])
def test_the_command_refuses(given, said):
    refused_at_once([said], 'run', '06j', '--preset', 'smoke', *given)

# what its curves are asked --------------------------------------------------------------------------------------------

def curve(*nats): return [dict(passes=i, nats=v) for i, v in enumerate(nats, 1)]

@pytest.mark.parametrize('ours, theirs, first', [((3, 2, 1), (2, 2, 2), 3), ((1, 1, 1), (2, 2, 2), 1),
                                                 ((1, 3, 1), (2, 2, 2), 3), ((3, 3, 3), (2, 2, 2), None)])
def test_ahead_is_what_stays_ahead(ours, theirs, first):
    found = ahead_from(curve(*ours), curve(*theirs))
    assert found == first if first else math.isnan(found)

def record_of(ends, best):
    "Curves that fall for ten passes and reach `ends` after twenty; prices `best`"
    history = [dict(arm=a, seed=s, step=step, loss=1., held_out=nats + s/100)
               for a, end in ends.items() for s in range(3) for step, nats in ((10, 2.), (20, end))]
    rows = [dict(arm=a, seed=s, nats=n + s/100) for a, n in best.items() for s in range(3)]
    return dict(rows=rows, history=history, parameters=dict(batch_size=2, seq_len=4, few=8))

def test_what_is_left_is_measured_from_diffusion():
    ends = dict(diffusion=1.9, twin=5.9, hidden=4.9, decay=3.9, both=2.9)
    best = dict(diffusion=1.8, twin=1.7, hidden=1.6, decay=1.5, both=1.4)
    f = facts(record_of(ends, best))
    assert f.left.mean == pytest.approx(.25) and f.twin_end.mean == pytest.approx(4.) and f.end.mean == 20
    assert f.least.mean == pytest.approx(.1) and f.both_more.mean == pytest.approx(-.1)
    assert f.diffusion_passes.mean == 20 and f.twin_passes.mean == 10 and f.twin_from.mean == 20

def test_facts_of_few_arms_are_those_there_are():
    f = facts(record_of(dict(twin=3.), dict(twin=1.5)))
    assert f.twin_best.mean == pytest.approx(1.51) and 'left' not in f and 'diffusion_best' not in f

def test_presets_grow():
    size = {k: p['seeds']*p['pass_steps']*len(p['arms'])*p['d_model'] for k, p in PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu']
    for p in PRESETS.values(): assert set(p['arms']) <= set(ARMS)
