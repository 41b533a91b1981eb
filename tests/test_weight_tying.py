"Entry 02 as a reader runs it, and what its parts promise"
import json
import math

import pytest
import torch

from helpers import call, checkout_at, environment
from textdiffusion.bart_x0 import BartLayers, LatentDenoiser, small_bart, split_adamw
from textdiffusion.corpora import load_corpus
from textdiffusion.denoising import word_spacing
from textdiffusion.schedules import cosine
from textdiffusion.sampling import sample
from textdiffusion.training import fit
from textdiffusion.weight_tying import ARMS, PRESETS, STAGES, collapse, effective_rank, looked_up, loss_of, related

DATA = load_corpus('restaurants')

def run(root, *options): return call('textdiffusion', 'run', '02_weight_tying', '--preset', 'smoke', *options, cwd=root, env=environment(PYTHONPATH=str(root)))

def a_model(name, seed=0):
    "A tiny denoiser of an arm"
    torch.manual_seed(seed)
    backbone = BartLayers(small_bart(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2))
    model = LatentDenoiser(ARMS[name].latents(torch.randn(DATA.vocab_size, 32)), backbone)
    model.latents.through = (backbone,)
    return model

# the command ----------------------------------------------------------------------------------------------------------

def test_smoke_by_the_command(tmp_path):
    copy = checkout_at(tmp_path/'checkout')
    done = run(copy)
    assert done.returncode == 0, done.stderr[-2000:]
    page, = copy.glob('.runs/*/page.ipynb')
    record = json.loads(page.with_name('record.json').read_text(encoding='utf-8'))
    assert [r['arm'] for r in record['rows']] == list(ARMS) and record['look']['known']['bart'] == 1
    assert all([r['stage'] for r in record['stages'] if r['arm'] == arm][-1] == 42 for arm in ARMS)
    assert 'stand-in' in record['pretrained'][0]['note'] and set(record['steps_done'].values()) == {record['steps_planned']}

def test_a_saved_model_and_a_wrong_one(tmp_path):
    copy = checkout_at(tmp_path/'checkout')
    small_bart(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2).save_pretrained(tmp_path/'bart')
    DATA.tokenizer.save_pretrained(tmp_path/'bart')
    done = run(copy, '-p', 'base_model', tmp_path/'bart', '-p', 'arms', 'tied', '-p', 'steps', '2')
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = run(copy, '-p', 'base_model', tmp_path/'nowhere/at/all')
    assert wrong.returncode != 0 and 'base_model' in wrong.stderr.strip().splitlines()[-1] and 'seed 0' not in wrong.stderr
    longer = run(copy, '-p', 'base_model', tmp_path/'bart', '-p', 'seq_len', '40')
    assert longer.returncode != 0 and 'seq_len must be below' in longer.stderr.strip().splitlines()[-1]

# the parts ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ARMS)
def test_every_arm_trains_copies_and_samples(name):
    model = a_model(name)
    before = model.emb.detach().clone()
    fitted = fit(model, loss_of(ARMS[name]), lambda step: DATA.batch(step, 8), 3, optimizer=lambda m: split_adamw(m, 1e-3, 1e-1), every=1, save_every=1)
    ema = fitted.ema
    assert not torch.equal(before, fitted.model.emb) and all(math.isfinite(h['loss']) for h in fitted.history)
    assert ema.latents.through[0] is ema.backbone and model.latents.through[0] is model.backbone            # a copy knows its own layers
    ids, _ = sample(ema, (3, DATA.seq_len, 32), cosine, 2, generator=torch.Generator().manual_seed(0))
    assert ids.shape == (3, DATA.seq_len) and ids.max() < DATA.vocab_size

def test_an_untied_model_begins_as_a_tied_one():
    tied, untied = a_model('tied').eval(), a_model('untied').eval()
    untied.latents.head.load_state_dict(tied.latents.head.state_dict())
    x, t = torch.randn(2, 5, 32), torch.tensor([.3, .6])
    with torch.no_grad(): torch.testing.assert_close(tied(x, t)[1], untied(x, t)[1])
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == DATA.vocab_size*32

def test_look_up_falls_with_width_spread_and_noise():
    assert looked_up(400, 64, 1., 1500, 500) > looked_up(400, 16, 1., 1500, 500) > looked_up(400, 4, 1., 1500, 500)
    assert looked_up(400, 64, 1., 1500, 500) > looked_up(400, 64, .3, 1500, 500) and looked_up(400, 64, 1., 500, 500) == 1
    assert abs(looked_up(821, 16, 1., 1500, 2000) - .045) < .02 and looked_up(821, 16, 1., 1999, 2000) < .01

def test_measures_of_collapse():
    table = torch.randn(300, 8)
    assert collapse(table)['spacing'] == word_spacing(table).item() and abs(collapse(3*table)['rank'] - collapse(table)['rank']) < 1e-3
    assert effective_rank(torch.eye(6)) == pytest.approx(5, abs=1e-3) and effective_rank(torch.zeros(4, 4)) == 1      # centred, one direction is lost
    cos = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    assert collapse(table)['alike'] == pytest.approx(((cos.sum() - 300)/(300*299)).item(), abs=1e-5)

def test_a_related_error_is_a_near_one():
    places = torch.arange(201.)[:, None]
    assert related(torch.tensor([101, 99, 110, 150]), torch.tensor([100]*4), places) == (.75, 4)

def test_presets_are_of_one_make(): assert all(set(p) == set(PRESETS['cpu']) for p in PRESETS.values()) and PRESETS['long']['steps'] % 42 == 0 and STAGES[-1] == 42
