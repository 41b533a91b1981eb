#!/usr/bin/env bash
# diffusers 0.42.1: the usual loop `for t in scheduler.timesteps` drives BlockRefinementScheduler backwards.
# Its `timesteps` fall from N-1 to 0, but without a mask token `step` reads the number as the count of steps already
# taken: at N-1 the whole block is due and committed in the first call; at 0, the last call, it forgets what was
# committed and puts random tokens in all places but L/N. The sibling schedulers for the same models count upwards.
# A reader of diffusers expects the loop over `timesteps` to work for every scheduler.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from diffusers import BlockRefinementScheduler, DiscreteDDIMScheduler, EntropyBoundScheduler

L, V, N, TOKEN = 32, 100, 8, 7
logits = torch.zeros(1, L, V)
logits[..., TOKEN] = 30.                                # the model is sure of one token everywhere

def fill(times):
    scheduler = BlockRefinementScheduler(block_length=L, num_inference_steps=N, threshold=1.)
    scheduler.set_timesteps(N)
    x, committed, generator = torch.randint(V, (1, L)), [], torch.Generator().manual_seed(0)
    for t in times(scheduler):
        out = scheduler.step(logits, t, x, generator=generator)
        x = out.prev_sample
        committed.append(int(out.transfer_index.sum()))
    return committed, int((x == TOKEN).sum())

usual, upwards = fill(lambda s: s.timesteps), fill(lambda s: range(N))
print('for t in scheduler.timesteps: committed per call', usual[0], 'right at the end', usual[1], 'of', L)
print('for t in range(N):            committed per call', upwards[0], 'right at the end', upwards[1], 'of', L)
for kind in (BlockRefinementScheduler, EntropyBoundScheduler, DiscreteDDIMScheduler):
    scheduler = kind(num_inference_steps=N)
    scheduler.set_timesteps(N)
    print(f'{kind.__name__}.timesteps', scheduler.timesteps.tolist())
if usual[0] != [32, 0, 0, 0, 0, 0, 0, 4] or usual[1] > 8 or upwards != ([4]*8, 32):
    raise SystemExit('the behaviour has changed')
PYTHON
