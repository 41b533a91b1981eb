"Entry 02 as a reader runs it, and what its parts promise"
import math

import pytest
import torch
from helpers import obeyed, refused_at_once, smoke_run

from textdiffusion.bart import small_bart
from textdiffusion.bart_x0 import BartLayers
from textdiffusion.corpora import load_corpus
from textdiffusion.denoising import word_spacing
from textdiffusion.latents import split_adamw
from textdiffusion.sampling import sample
from textdiffusion.schedules import cosine
from textdiffusion.training import fit
from textdiffusion.weight_tying import ARMS, PRESETS, collapse, effective_rank, loss_of, model_of

DATA = load_corpus('restaurants')

def a_model(name, seed=0):
    "A tiny denoiser of an arm"
    torch.manual_seed(seed)
    bart = small_bart(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2)
    return model_of(ARMS[name], bart, torch.randn(DATA.vocab_size, 32))

# as a reader runs it -------------------------------------------------------------------------------------------------

def test_all_arms_are_in_the_record():
    record = smoke_run('02_weight_tying')
    assert [r['arm'] for r in record['rows']] == list(ARMS) and 'stand-in' in record['pretrained'][0]['note']
    assert set(record['steps_done'].values()) == {record['parameters']['steps']}

def test_a_saved_model_and_a_wrong_one(tmp_path):
    small_bart(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2).save_pretrained(tmp_path/'bart')
    DATA.tokenizer.save_pretrained(tmp_path/'bart')
    record = smoke_run('02_weight_tying', base_model=str(tmp_path/'bart'), arms='tied', steps=2)
    assert record['pretrained'][0]['note'] == 'published weights'
    refused_at_once(['base_model'], 'run', '02_weight_tying', '--preset', 'smoke', '-p', 'base_model',
                    tmp_path/'nowhere/at/all')
    longer = obeyed('run', '02_weight_tying', '--preset', 'smoke', '-p', 'base_model', tmp_path/'bart',
                    '-p', 'seq_len', '40')
    assert longer.returncode != 0 and 'seq_len must be below' in longer.stderr.strip().splitlines()[-1]

# the parts -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ARMS)
def test_every_arm_trains_copies_and_samples(name):
    model = a_model(name)
    before = model.emb.detach().clone()
    fitted = fit(model, loss_of(ARMS[name]), lambda step: DATA.batch(step, 8), 3,
                 optimizer=lambda m: split_adamw(m, 1e-3, 1e-1), every=1, save_every=1)
    ema = fitted.ema
    assert not torch.equal(before, fitted.model.emb) and all(math.isfinite(h['loss']) for h in fitted.history)
    assert ema.latents.through[0] is ema.backbone                             # a copy knows its own layers
    assert model.latents.through[0] is model.backbone and isinstance(model.backbone, BartLayers)
    ids, _ = sample(ema, (3, DATA.seq_len, 32), cosine, 2, generator=torch.Generator().manual_seed(0))
    assert ids.shape == (3, DATA.seq_len) and ids.max() < DATA.vocab_size

def test_an_untied_model_begins_as_a_tied_one():
    tied, untied = a_model('tied').eval(), a_model('untied').eval()
    untied.latents.head.load_state_dict(tied.latents.head.state_dict())
    x, t = torch.randn(2, 5, 32), torch.tensor([.3, .6])
    with torch.no_grad(): torch.testing.assert_close(tied(x, t)[1], untied(x, t)[1])
    def size(model): return sum(p.numel() for p in model.parameters())
    assert size(untied) - size(tied) == DATA.vocab_size*32 and size(a_model('shared')) == size(tied)

def test_measures_of_collapse():
    table = torch.randn(300, 8)
    seen, tripled = collapse(table, table), collapse(3*table, table)
    assert seen['spacing'] == word_spacing(table).item() and abs(tripled['rank'] - seen['rank']) < 1e-3
    assert seen['distance'] == 1 and abs(tripled['distance'] - 3) < 1e-5
    assert effective_rank(torch.eye(6)) == pytest.approx(5, abs=1e-3)         # centred, one direction is lost
    assert effective_rank(torch.zeros(4, 4)) == 1
    cos = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    assert seen['alike'] == pytest.approx(((cos.sum() - 300)/(300*299)).item(), abs=1e-5)

def test_presets_are_of_one_make():
    assert all(set(p) == set(PRESETS['cpu']) for p in PRESETS.values())
