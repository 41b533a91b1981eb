"""The training loop with real objectives, in lower precision, and shared by processes. Run by torch.distributed.run,
this file is one such process."""
import copy
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from textdiffusion.models import GaussianConfig, GaussianDenoiser, MaskedConfig, MaskedDenoiser
from textdiffusion.objectives import diffusion_lm, masked_bound, masked_ce, stratified_t, token_nll
from textdiffusion.optimizers import adamw, ema_update, linear_decay, muon_adamw
from textdiffusion.training import Fit, fit, reseed, train_step

STEPS = 12

def batches(step):
    "12 sentences of 6 words out of 11"
    return torch.randint(11, (12, 6), generator=torch.Generator().manual_seed(step))

def small():
    "A self-conditioned denoiser, the same every time"
    torch.manual_seed(0)
    return GaussianDenoiser(GaussianConfig(vocab_size=11, emb_dim=8, d_model=32, n_layers=2, n_heads=2,
                                           self_condition=True))

def plain(model, ids):
    "A loss without draws: name the words, their embeddings given"
    err = token_nll(model(model.embed(ids), torch.full((len(ids),), .5))[1], ids)
    return dict(loss=err.mean(), err=err.detach())

def pooled(model, ids):
    "A mean over the positions with a word above 7, of which rows and parts have very different numbers"
    nll, real = token_nll_at(model(model.embed(ids), torch.full((len(ids),), .5))[1], ids), ids > 7
    return dict(loss=nll[real].sum() / real.sum().clamp(min=1), weight=real.sum())

def token_nll_at(logits, ids):
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction='none')

def train(loss_fn, batches=batches, steps=STEPS, model=None, **kwargs):
    return fit(model or small(), loss_fn, batches, steps, **{'every': 4, 'save_every': 4, **kwargs})

def close(a, b):
    "Do two runs have the same weights, up to the order of sums"
    return all(torch.allclose(p, q, atol=1e-5) for p, q in zip(a.model.parameters(), b.model.parameters()))

noisy = diffusion_lm(draw_t=stratified_t, p_self=.5)

# --- the same numbers ---

def test_the_loop_is_what_one_would_write():
    "Bit by bit: reseed, backward, clip, step, average"
    model, run = small().train(), train(noisy)
    opts, avg = muon_adamw(model), copy.deepcopy(model).eval()
    groups = [(g, g['lr']) for o in opts for g in o.param_groups]
    for step in range(STEPS):
        for g, lr in groups: g['lr'] = lr * linear_decay(step, STEPS)
        ids = batches(step)
        reseed(0, step)
        noisy(model, ids)['loss'].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for o in opts: o.step(); o.zero_grad()
        ema_update(avg, model, step, .999)
    assert Fit(model, avg, [], STEPS, STEPS, 0.).weights_hash() == run.weights_hash()

def test_any_rhythm_of_rows_is_taken():
    for every in (3, 7, 300): assert fit(small(), plain, batches, 7, every=every).steps_done == 7

# --- another plan ---

def scaled(by): return lambda model, ids: {k: v*by for k, v in plain(model, ids).items()}
wide = partial(GaussianDenoiser, GaussianConfig(vocab_size=11, emb_dim=8, d_model=64, n_layers=2, n_heads=2,
                                                self_condition=True))

@pytest.mark.parametrize('how, said', [
    (dict(optimizer=partial(adamw, lr=2e-4)), 'lr was 0.0001 and is now 0.0002'),
    (dict(optimizer=partial(adamw, betas=(.5, .9))), 'betas'),
    (dict(optimizer=muon_adamw), 'optimizers'), (dict(loss_fn=scaled(3.)), 'loss.closure.by was 2.0 and is now 3.0'),
    (dict(loss_fn=noisy), 'loss was'), (dict(batches=lambda step: batches(step + 1)), 'data differs'),
    (dict(batches=lambda step: batches(step)[:6]), 'data differs'),
    (dict(clip=.5), 'clip was 1.0 and is now 0.5'), (dict(clip=None), 'clip'),
    (dict(ema=.5), 'ema'), (dict(seed=1), 'seed was 0 and is now 1'), (dict(every=2), 'every was 4 and is now 2'),
    (dict(rate=lambda step, steps: 1.), 'rate was'), (dict(accumulate=2), 'parts'),
    (dict(autocast=torch.bfloat16), 'precision'),
    (dict(evaluate=lambda m: 1.), 'evaluate was null'),
    (dict(model=wide()), 'model.config.d_model was 32 and is now 64'),
    (dict(steps=24), 'steps was 12 and is now 24')])
def test_another_plan_is_refused(how, said, tmp_path):
    "What differs is named in one sentence, and the finished run stays as it is"
    usual = dict(loss_fn=scaled(2.), optimizer=adamw, folder=tmp_path)
    first = train(**usual)
    with pytest.raises(ValueError, match='checkpoint of another run') as e: train(**{**usual, **how})
    assert said in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 900
    assert train(**usual).weights_hash() == first.weights_hash()

def redrawn(model):
    "The same network, begun elsewhere"
    with torch.no_grad():
        for p in model.parameters(): p.add_(.01*torch.randn_like(p))
    return model

def test_a_run_begins_with_the_weights_it_began_with(tmp_path):
    "Another start is another run; one made anew by the same seed goes on, and so does the very model that was stopped"
    whole, model = train(noisy), small()
    def stopped(step):
        if step == 9: raise KeyboardInterrupt
        return batches(step)
    with pytest.raises(KeyboardInterrupt): train(noisy, stopped, model=model, folder=tmp_path)
    with pytest.raises(ValueError, match='another run: starting weights differ'):
        train(noisy, model=redrawn(small()), folder=tmp_path)
    for again in (model, small(), model): # the model that was stopped has moved, and is told by its first weights
        assert train(noisy, model=again, folder=tmp_path).weights_hash() == whole.weights_hash()
    with pytest.raises(ValueError, match='starting weights differ'): train(noisy, model=whole.model, folder=tmp_path)

def test_a_longer_plan_goes_on(tmp_path):
    "The rates of the first chapter are those of its plan, then those of the longer one; a kill changes nothing"
    chapters = train(noisy, steps=24, rate=lambda step, steps: linear_decay(step, 12 if step < 12 else 24))
    def killed(step):
        if step == 18: raise KeyboardInterrupt
        return batches(step)
    train(noisy, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): train(noisy, killed, steps=24, folder=tmp_path, extend=True)
    longer = train(noisy, steps=24, folder=tmp_path, extend=True)
    assert longer.weights_hash() == chapters.weights_hash() != train(noisy, steps=24).weights_hash()
    assert longer.history == chapters.history and longer.steps_planned == longer.steps_done == 24
    assert train(noisy, steps=24, folder=tmp_path, extend=True).weights_hash() == longer.weights_hash()
    with pytest.raises(ValueError, match='extended'): train(noisy, steps=24, folder=tmp_path)   # not a run of 24
    with pytest.raises(ValueError, match='steps was 24 and is now 12'): train(noisy, folder=tmp_path, extend=True)
    with pytest.raises(ValueError, match='seed'): train(noisy, steps=36, seed=1, folder=tmp_path, extend=True)

@pytest.mark.parametrize('name', ['model.safetensors', 'ema.safetensors', 'optimizers.safetensors', 'facts.json'])
def test_a_damaged_checkpoint_is_refused(name, tmp_path):
    train(plain, folder=tmp_path)
    file = tmp_path/f'step-{STEPS:08d}'/name
    raw = file.read_bytes()
    for torn in (raw[:-9], raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], None):
        file.unlink() if torn is None else file.write_bytes(torn)
        with pytest.raises(ValueError, match='delete the folder') as e: train(plain, folder=tmp_path)
        assert str(file.parent) in str(e.value) and name in str(e.value)

# --- not finite ---

def rooted(model, ids):
    "From the batch of step 9 on a finite loss with a gradient that is not"
    root = (model.emb*0).sum().sqrt() if torch.equal(ids, batches(9)) else 0.
    return dict(loss=plain(model, ids)['loss'] + root)

@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_a_gradient_that_is_not_finite_stops_before_the_update(dtype, tmp_path):
    model = small()
    with pytest.raises(FloatingPointError, match='step 9: the gradient is not finite in table.weight'):
        train(rooted, model=model, folder=tmp_path, autocast=dtype)
    assert all(p.isfinite().all() for p in model.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ['step-00000008']

def test_weights_that_overflow_are_not_kept(tmp_path):
    leap = lambda m: [torch.optim.SGD(m.parameters(), lr=3e38)]
    with pytest.raises(FloatingPointError, match='step 0: the weights are not finite'):
        fit(nn.Linear(2, 1), lambda m, x: dict(loss=m(x).sum() * 100), lambda s: torch.ones(1, 2), 9, optimizer=leap,
            clip=None, every=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_an_evaluation_that_is_not_finite_stops(value):
    with pytest.raises(FloatingPointError, match='step 3: evaluate must return a finite number'):
        train(plain, evaluate=lambda m: value)

@pytest.mark.parametrize('bad', [
    dict(ema=math.nan), dict(ema=1.5), dict(ema=-1), dict(clip=-1.), dict(clip=0), dict(clip=math.nan), dict(seed=.5),
    dict(patience=-1, evaluate=lambda m: 1.), dict(patience=0, evaluate=lambda m: 1.), dict(steps=0), dict(steps=True),
                                 dict(every=0),
    dict(save_every=6), dict(optimizer=partial(adamw, lr=math.inf)), dict(optimizer=partial(adamw, lr=math.nan)),
    dict(optimizer=partial(adamw, betas=(math.nan, .9))), dict(optimizer=partial(adamw, lr=-1.)),
    dict(rate=lambda step, steps: math.nan),
    dict(optimizer=lambda m: adamw(small())), dict(optimizer=lambda m: adamw(m)[0]), dict(optimizer=lambda m: [])])
def test_what_makes_no_sense_is_refused_before_training(bad):
    model = small()
    with pytest.raises(ValueError): train(plain, model=model, **bad)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small().parameters()))

# --- averages ---

def test_averages_follow_buffers_and_half_precision():
    class Both(nn.Module):
        def __init__(self): super().__init__(); self.norm, self.out = nn.BatchNorm1d(2), nn.Linear(2, 1)
        def forward(self, x): return self.out(self.norm(x))
    data, sgd = (lambda step: torch.randn(8, 2) + 3), (lambda m: [torch.optim.SGD(m.parameters(), lr=.1)])
    run = fit(Both(), lambda m, x: dict(loss=m(x).square().mean()), data, 20, optimizer=sgd)
    assert torch.equal(run.ema.norm.running_mean, run.model.norm.running_mean) and run.ema.norm.running_mean.mean() > 1
    half = nn.Linear(2, 1).bfloat16(); start = copy.deepcopy(half)
    run = fit(half, lambda m, x: dict(loss=m(x.bfloat16()).float().mean()), data, 20, optimizer=sgd, ema=.9999)
    assert run.ema.weight.dtype == torch.float32 and not torch.equal(run.ema.weight, start.weight.float())
    assert run.model.weight.dtype == torch.bfloat16

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
        def __init__(self):
            super().__init__(); self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
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

@pytest.fixture
def same_draws(monkeypatch):
    "Noise that is the same in every row, so that a cut changes no draw"
    row = lambda x: torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    monkeypatch.setattr(torch, 'randn_like', lambda x: row(x[0]).expand_as(x))

def words(ids): return (ids % 3 == 0) | (ids.sum(1, keepdim=True) % 2 == 0)  # some rows have no mask
def half(n, device): return torch.full((n,), .5, device=device)
def ones(n, device): return torch.ones(n, device=device)
def masked(): return MaskedDenoiser(MaskedConfig(vocab_size=11, d_model=32, n_layers=1, n_heads=2))

@pytest.mark.parametrize('make, loss_fn', [
    (masked, masked_ce(11, draw_t=ones, keep=words)), (masked, masked_bound(11, draw_t=ones, keep=words)),
    (small, diffusion_lm(draw_t=half)), (small, pooled)])
def test_the_gradient_is_that_of_the_whole_batch(make, loss_fn, same_draws):
    torch.manual_seed(0)
    model, found = make().double(), {}
    for parts in (1, 2, 4):
        kept = torch.optim.SGD(model.parameters(), lr=0.)
        grads = []
        seen = lambda opt, *_: grads.extend(p.grad.clone() for p in opt.param_groups[0]['params'] if p.grad is not None)
        kept.register_step_pre_hook(seen)
        out = train_step(model, loss_fn, batches(0), [kept], None, accumulate=parts)
        found[parts] = torch.cat([g.flatten() for g in grads]), out['loss']
    for grad, loss in found.values():
        assert (grad - found[1][0]).norm() < 1e-6 * found[1][0].norm() and abs(loss - found[1][1]) < 1e-6 * found[1][1]

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
        with pytest.raises(ValueError, match='the accelerator'):
            train(noisy, accelerator=SimpleNamespace(distributed_type=kind, mixed_precision=precision))

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
    drawn, rows = train(watched, accelerator=accelerator), list(kept.rows)
    weighed = train(pooled, optimizer=adamw, accelerator=accelerator)
    try: train(noisy, killed, folder=folder/'checkpoint', accelerator=accelerator)
    except KeyboardInterrupt: pass
    again = train(noisy, folder=folder/'checkpoint', accelerator=accelerator)
    # alone they would stop at different rows
    score = iter([3., 1., 2.] if accelerator.is_main_process else [3., 2., 1.])
    stopped = train(noisy, evaluate=lambda m: next(score), patience=1, accelerator=accelerator)
    facts = dict(exact=summary(exact), drawn=summary(drawn), again=summary(again), stopped=summary(stopped),
                 weighed=summary(weighed), rows=rows, times=times)
    (folder/f'{accelerator.process_index}.json').write_text(json.dumps(facts), encoding='utf-8')
    if accelerator.is_main_process:
        exact.model.save_pretrained(folder/'exact')
        weighed.model.save_pretrained(folder/'weighed')

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

def test_two_processes_weigh_their_parts(two):
    from textdiffusion.models import load
    (a, b), folder, _ = two
    alone, shared = train(pooled, optimizer=adamw), load(folder/'weighed')
    assert a['weighed'] == b['weighed']
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(alone.model.parameters(), shared.parameters()))
    assert all(abs(x[k] - y[k]) < 1e-4 * x[k] for x, y in zip(alone.history, a['weighed']['history']) for k in x)

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
