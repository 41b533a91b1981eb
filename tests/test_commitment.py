"Entry 05c: what it measures, and what it refuses"
import pytest
import torch

from textdiffusion.commitment import PRESETS, check, commitment, over_noise
from textdiffusion.presets import settle


class Arm:
    "A schedule, and no noise on clean vectors"
    sigma0 = 0.

    @staticmethod
    def alpha_bar(t): return 1 - t


def test_real_text_is_refused():
    with pytest.raises(ValueError, match='takes a grammar, and e2e has none: choose restaurants'):
        check(settle(PRESETS, preset='smoke'), type('RealText', (), dict(grammar=None, name='e2e')))


def test_a_guess_on_the_true_word_has_no_distance_and_is_never_wrong():
    emb, ids = torch.eye(5), torch.tensor([[0, 1, 2], [3, 4, 0]])
    def knows(x_t, t, x0_prev): return emb[ids], 50*torch.nn.functional.one_hot(ids, 5).float()
    rows = commitment(knows, emb, ids, Arm, torch.ones_like(ids, dtype=torch.bool), [.2, .5])
    assert [r['t'] for r in rows] == [.2, .5] and rows[0]['log_snr'] > rows[1]['log_snr']
    assert all(r[k] == 0 for r in rows for k in ('distance', 'wrong', 'changed', 'mse'))


def test_only_the_shared_noise_counts():
    rest = dict(changed=0., wrong=0., mse=1., mse_scores=1.)
    rows = [rest | dict(log_snr=x, distance=float(x > 0)) for x in (-9, -4, 0, 1e-9, 9)]
    assert over_noise(rows, 1.)['distance'] == 0
