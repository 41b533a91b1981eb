#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler is right only at numbers of steps that divide the number of training steps.
# Both spacings compute with 1000 // steps. "leading" begins at (steps - 1)·(1000 // steps): 500 steps begin at time 998,
# and 501 begin at 500, where half of the process is left out although pure noise goes in. "trailing" places its 501
# times over the whole range, 2 apart, and step() walks 1000 // 501 = 1 between them: half of the noise is never taken
# away. With the exact denoiser of N(2, 0.25) 500 steps give mean 1.98 and deviation 0.50; 501 steps 1.70 and 0.52
# (leading), 1.21 and 0.71 (trailing). So a curve of quality over calls that asks for 300, 400 or 600 of 1000 measures
# the scheduler.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from diffusers import DDIMScheduler

MEAN, VARIANCE = 2., .25

def drawn(steps, spacing):
    "First time of the chain, mean and deviation of its draws with the exact denoiser of N(MEAN, VARIANCE)"
    scheduler = DDIMScheduler(1000, prediction_type='sample', clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    x = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[t].double()
        pull = signal.sqrt()*VARIANCE/(signal*VARIANCE + 1 - signal)
        x = scheduler.step(MEAN + pull*(x - signal.sqrt()*MEAN), t, x).prev_sample
    return int(scheduler.timesteps[0]), x.mean().item(), x.std().item()

seen = {(steps, spacing): drawn(steps, spacing) for spacing in ('leading', 'trailing') for steps in (250, 500, 501, 600)}
for (steps, spacing), (first, mean, deviation) in seen.items():
    print(f'{steps} steps, {spacing}: begins at {first}, mean {mean:.3f}, deviation {deviation:.3f}')
def near(which, first, mean, deviation):
    found = seen[which]
    return found[0] == first and abs(found[1] - mean) < .03 and abs(found[2] - deviation) < .03
right = near((250, 'leading'), 996, 1.985, .5) and near((500, 'leading'), 998, 1.985, .5)
wrong = near((501, 'leading'), 500, 1.704, .519) and near((600, 'leading'), 599, 1.829, .509)
noisy = near((501, 'trailing'), 999, 1.212, .713)
if not (right and wrong and noisy): raise SystemExit('the behaviour has changed')
PYTHON
