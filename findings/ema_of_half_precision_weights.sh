#!/usr/bin/env bash
# torch 2.13.0, ema-pytorch 0.8.3: the exponential average of a bfloat16 model never leaves its first value.
# torch.optim.swa_utils.AveragedModel (with get_ema_multi_avg_fn) and ema_pytorch.EMA keep the average in the dtype of
# the weights. At a decay of 0.999 a step moves it by a thousandth of the distance, less than half the spacing of
# bfloat16 numbers: every update is rounded away. Weights go from 1 to 2; after 5,000 updates the average, which should
# be 1.993, is still exactly 1, and no warning is given. float16 stalls at about half of the way. Training "in bf16" with
# the averages that diffusion models are sampled from therefore samples from the first weights. The average has to be a
# float32 copy.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from ema_pytorch import EMA
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY, UPDATES = .999, 5000

def averages(dtype):
    "The averages of one weight that goes from 1 to 2 and stays there"
    model = nn.Linear(1, 1, bias=False).to(dtype)
    model.weight.data.fill_(1.)
    ours = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    theirs = EMA(model, beta=DECAY, update_after_step=0, update_every=1, inv_gamma=1e-9)
    ours.update_parameters(model); theirs.update()                      # the first update copies
    model.weight.data.fill_(2.)
    for _ in range(UPDATES):
        ours.update_parameters(model); theirs.update()
    return ours.module.weight.item(), theirs.ema_model.weight.item()

due, seen = 2 - DECAY**UPDATES, {dtype: averages(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
print(f'due after {UPDATES} updates: {due:.4f}')
for dtype, (of_torch, of_ema_pytorch) in seen.items():
    print(f'{dtype}: torch {of_torch:.4f}, ema-pytorch {of_ema_pytorch:.4f}')
right = all(abs(x - due) < 1e-3 for x in seen[torch.float32])
stuck = seen[torch.bfloat16] == (1., 1.) and all(1.4 < x < 1.6 for x in seen[torch.float16])
if not (right and stuck): raise SystemExit('the behaviour has changed')
PYTHON
