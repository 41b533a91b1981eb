"Entry 05b with the loop and the corpora it stands on"
import pytest
import torch

from textdiffusion.corpora import load_corpus
from textdiffusion.reading_text import repair_encoding
from textdiffusion.garbling import garbled, misread, restored
from textdiffusion.models import GaussianConfig, GaussianDenoiser
from textdiffusion.objectives import diffusion_lm
from textdiffusion.presets import settle
from textdiffusion.released import PlainAverage
from textdiffusion.report_causes import PRESETS, check
from textdiffusion.optimizers import muon_adamw
from textdiffusion.training import fit

DATA = load_corpus('restaurants')


class Killed(RuntimeError):
    "Raised in the middle of a training"


def plain_average(folder, kill_at=None):
    "The plain average of six steps of training"
    torch.manual_seed(0)
    sizes, kept = dict(emb_dim=8, d_model=16, n_layers=1, n_heads=2), []
    model = GaussianDenoiser(GaussianConfig(vocab_size=DATA.vocab_size, **sizes))
    def optimizer(model):
        kept[:] = [PlainAverage(model.parameters(), .9)]
        return muon_adamw(model) + kept
    def batches(step):
        if step == kill_at: raise Killed
        return DATA.batch(step, 4)
    fit(model, diffusion_lm(), batches, 6, optimizer=optimizer, every=1, save_every=2, folder=folder)
    return [kept[0].state[p]['average'] for p in kept[0].param_groups[0]['params']]


def test_plain_average_survives_a_kill(tmp_path):
    whole = plain_average(tmp_path/'whole')
    with pytest.raises(Killed): plain_average(tmp_path/'killed', kill_at=5)
    for a, b in zip(whole, plain_average(tmp_path/'killed')): torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize('times', [1, 2, 3])
def test_the_repair_of_corpora_undoes_any_number_of_misreadings(times):
    assert repair_encoding(misread('Café £20', times)) == 'Café £20' != misread('Café £20', times)


def test_garbled_batches_are_the_clean_ones_in_other_words():
    names = dict(the='café', a='£')
    bad = garbled(DATA, names)
    assert torch.equal(restored(bad.batch(3, 16, seed=1), bad, DATA, names), DATA.batch(3, 16, seed=1))


def test_a_row_without_an_end_stays_without_one():
    names = dict(the='café')
    bad = garbled(DATA, names)
    ids = bad.test[:2].clone()
    ids[0] = ids[0].masked_fill(ids[0] == bad.eos_id, bad.pad_id)
    rows = restored(ids, bad, DATA, names)
    assert DATA.eos_id not in rows[0] and torch.equal(rows[1], DATA.test[1])


def test_a_plan_that_is_not_longer_is_refused():
    with pytest.raises(ValueError, match='few must be smaller than steps'):
        check(settle(PRESETS, preset='smoke', few=20), DATA)


def test_running_text_is_refused():
    with pytest.raises(ValueError, match='needs a corpus of sentences'):
        check(settle(PRESETS, preset='smoke'), type('Running', (), dict(eos_id=None, name='tiny_shakespeare')))
