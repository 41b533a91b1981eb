#!/usr/bin/env bash
# diffusers 0.42.1: BlockRefinementScheduler with a mask token never fills anything unless set_timesteps was called.
# The constructor takes num_inference_steps and fills `timesteps`, so a loop over them runs to its end without a word,
# and every mask is still there. Other schedulers of diffusers raise an error here, or work.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from diffusers import BlockRefinementScheduler

L, V, N = 32, 100, 8
logits = torch.zeros(1, L, V)
logits[..., 7] = 30.
left = {}
for told in (False, True):
    scheduler = BlockRefinementScheduler(block_length=L, num_inference_steps=N)
    if told: scheduler.set_timesteps(N)
    x = torch.full((1, L), V)
    for t in scheduler.timesteps: x = scheduler.step(logits, t, x, mask_token_id=V).prev_sample
    left[told] = int((x == V).sum())
print(f'masks left after {N} steps: {left[False]} of {L}; after set_timesteps({N}): {left[True]}')
if left != {False: L, True: 0}: raise SystemExit('the behaviour has changed')
PYTHON
