#!/usr/bin/env bash
# diffusers 0.42.1: what EntropyBoundScheduler returns after its last step is mostly random tokens.
# In every step all places that were not accepted are renoised with uniform tokens, in the last step too, and what an
# earlier step accepted counts for nothing later. Where each place is a fair coin (ln 2 nats, above the default bound of
# 0.1), one place is accepted per step: after all 8 steps 31 of 32 tokens are noise that the model gives probability 0.
# A sampler is expected to end in a sample: DiscreteDDIMScheduler commits the whole block in its last step.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from diffusers import DiscreteDDIMScheduler, EntropyBoundScheduler

L, V, N = 32, 100, 8
logits = torch.full((1, L, V), -30.)
logits[..., :2] = 0.                                    # two tokens, equally likely, at every place
found = {}
for kind in (EntropyBoundScheduler, DiscreteDDIMScheduler):
    scheduler = kind(num_inference_steps=N)
    scheduler.set_timesteps(N)
    x, generator, accepted = torch.randint(V, (1, L)), torch.Generator().manual_seed(0), []
    for t in scheduler.timesteps:
        out = scheduler.step(logits, t, x, generator=generator)
        x = out.prev_sample
        accepted.append(int(out.accepted_index.sum()) if hasattr(out, 'accepted_index') else None)
    found[kind.__name__] = accepted, int((x < 2).sum())
    print(kind.__name__, 'accepted per step', accepted, 'possible tokens at the end', int((x < 2).sum()), 'of', L)
if found['EntropyBoundScheduler'][0] != [1]*N or found['EntropyBoundScheduler'][1] > 4:
    raise SystemExit('the behaviour has changed')
if found['DiscreteDDIMScheduler'][1] != L: raise SystemExit('the sibling has changed')
PYTHON
