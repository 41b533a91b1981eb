"""The training loop with real objectives, in lower precision, and shared by processes. Run by torch.distributed.run, this file is one such process."""
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from textdiffusion.models import GaussianConfig, GaussianDenoiser
from textdiffusion.objectives import diffusion_lm, stratified_t, token_nll
from textdiffusion.training import adamw, fit

STEPS = 12

def batches(step):
    "12 sentences of 6 words out of 11"
    return torch.randint(11, (12, 6), generator=torch.Generator().manual_seed(step))

def small():
    "A self-conditioned denoiser, the same every time"
    torch.manual_seed(0)
    return GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=2, n_heads=2, self_condition=True))

def plain(model, ids):
    "A loss without draws: name the words, their embeddings given"
    err = token_nll(model(model.embed(ids), torch.full((len(ids),), .5))[1], ids)
    return dict(loss=err.mean(), err=err.detach())

def train(loss_fn, batches=batches, **kwargs):
    return fit(small(), loss_fn, batches, STEPS, every=4, save_every=4, **kwargs)

def close(a, b):
    "Do two runs have the same weights, up to the order of sums"
    return all(torch.allclose(p, q, atol=1e-5) for p, q in zip(a.model.parameters(), b.model.parameters()))

noisy = diffusion_lm(draw_t=stratified_t, p_self=.5)

# --- lower precision ---

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_lower_precision_is_close_to_full(dtype):
    full, low = train(noisy), train(noisy, autocast=dtype)
    assert all(p.dtype == torch.float32 for p in low.model.parameters())
    assert full.weights_hash() != low.weights_hash()
    assert abs(full.history[-1]['loss'] - low.history[-1]['loss']) < .02

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_self_conditioning_keeps_its_gradient(dtype):
    "The forward pass without gradient must not leave its weights in autocast's cache"
    start, run = small(), train(diffusion_lm(p_self=1.), autocast=dtype)
    assert not [n for (n, p), q in zip(run.model.named_parameters(), start.parameters()) if torch.equal(p, q)]

def test_all_optimisers_skip_together():
    "A gradient that overflows in one part of the model leaves the other part alone too, even without clipping"
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    seen, model = [], Two()
    def loss_fn(m, ids):
        seen.append((m.a.item(), m.b.item()))
        return dict(loss=(m.a*1e36 + m.b).sum() if len(seen) == 1 else (m.a + m.b).sum())
    two = lambda m: [torch.optim.SGD([p], lr=.1) for p in (m.a, m.b)]
    run = fit(model, loss_fn, batches, 3, optimizer=two, clip=None, every=1, save_every=1, autocast=torch.float16)
    assert seen[1] == (1., 1.) and seen[2][0] < 1 and seen[2][1] < 1
    assert [(r['skipped'], math.isfinite(r['grad_norm'])) for r in run.history] == [(1, True), (0, True), (0, True)]

def test_full_precision_checkpoint_is_not_resumed_in_half(tmp_path):
    train(noisy, folder=tmp_path)
    for other in (dict(autocast=torch.bfloat16), dict(accumulate=2)):
        with pytest.raises(ValueError, match='checkpoint of another run'): train(noisy, folder=tmp_path, **other)

# --- micro-batches ---

def test_micro_batches_train_as_one():
    runs = [train(plain, optimizer=adamw, accumulate=n) for n in (1, 3, 4)]
    assert close(runs[0], runs[1]) and close(runs[0], runs[2])
    assert all(abs(a['err'] - b['err']) < 1e-5 for a, b in zip(runs[0].history, runs[2].history))

def test_a_stale_gradient_does_no_harm():
    model = small()
    plain(model, batches(99))['loss'].backward()
    assert fit(model, plain, batches, STEPS).weights_hash() == fit(small(), plain, batches, STEPS).weights_hash()

# --- Accelerate ---

def test_accelerate_is_not_imported_without_need():
    code = 'import sys, textdiffusion.training; assert "accelerate" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)

def test_refused_accelerators():
    from types import SimpleNamespace
    for kind, precision in (('FSDP', 'no'), ('NO', 'fp8')):
        with pytest.raises(ValueError, match='the accelerator'): train(noisy, accelerator=SimpleNamespace(distributed_type=kind, mixed_precision=precision))

@pytest.mark.parametrize('name, dtype', [('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_the_accelerators_settings_count(name, dtype):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    AcceleratorState._reset_state(True)                      # one precision per process, says Accelerate
    accelerator = Accelerator(cpu=True, mixed_precision=name, gradient_accumulation_steps=2)
    shared = train(noisy, accelerator=accelerator)
    assert shared.weights_hash() == train(noisy, autocast=dtype, accumulate=2).weights_hash()
    AcceleratorState._reset_state(True)

def process(folder):
    "What each of two processes does"
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker
    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker = 'kept', False, None
        def __init__(self): super().__init__(); self.rows = []
        def log(self, values, step=None, **kwargs): self.rows.append(values)
    kept, times = Kept(), []
    accelerator = Accelerator(cpu=True, log_with=kept)
    accelerator.init_trackers('test')
    def watched(model, ids):
        out = noisy(model, ids)
        times.append(out['t'].tolist())
        return out
    def killed(step):
        if step == 6: raise KeyboardInterrupt
        return batches(step)
    def summary(run): return dict(hash=run.weights_hash(), history=run.history, done=run.steps_done)
    exact = train(plain, optimizer=adamw, accelerator=accelerator)
    drawn = train(watched, accelerator=accelerator)
    rows = list(kept.rows)
    try: train(noisy, killed, folder=folder/'checkpoint', accelerator=accelerator)
    except KeyboardInterrupt: pass
    again = train(noisy, folder=folder/'checkpoint', accelerator=accelerator)
    score = iter([3., 1., 2.] if accelerator.is_main_process else [3., 2., 1.])            # alone they would stop at different rows
    stopped = train(noisy, evaluate=lambda m: next(score), patience=1, accelerator=accelerator)
    facts = dict(exact=summary(exact), drawn=summary(drawn), again=summary(again), stopped=summary(stopped), rows=rows, times=times)
    (folder/f'{accelerator.process_index}.json').write_text(json.dumps(facts), encoding='utf-8')
    if accelerator.is_main_process: exact.model.save_pretrained(folder/'exact')

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "What two processes report, and their folder"
    folder = tmp_path_factory.mktemp('two')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__, folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((folder/f'{i}.json').read_text(encoding='utf-8')) for i in (0, 1)], folder, run.stderr

def test_two_processes_train_as_one(two):
    from textdiffusion.models import load
    (a, b), folder, _ = two
    alone, shared = train(plain, optimizer=adamw), load(folder/'exact')
    assert a['exact'] == b['exact']
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(alone.model.parameters(), shared.parameters()))
    assert all(abs(x[k] - y[k]) < 1e-5 for x, y in zip(alone.history, a['exact']['history']) for k in x)

def test_two_processes_draw_apart_and_log_together(two):
    (a, b), _, stderr = two
    assert a['drawn'] == b['drawn'] and len(a['times']) == STEPS and not {*sum(a['times'], [])} & {*sum(b['times'], [])}
    assert a['rows'] == a['exact']['history'] + a['drawn']['history'] and b['rows'] == []

def test_two_processes_resume_and_stop_together(two):
    (a, b), folder, _ = two
    assert a['again'] == b['again'] == a['drawn']
    assert [p.name for p in (folder/'checkpoint').iterdir()] == [f'step-{STEPS:08d}']
    assert a['stopped'] == b['stopped']

if __name__ == '__main__': process(Path(sys.argv[1]))
