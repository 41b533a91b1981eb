#!/usr/bin/env bash
# diffusers 0.42.1: in BlockRefinementScheduler a lower temperature, top_k or top_p means fewer calls.
# The threshold on confidence is compared with the probability *after* temperature and filtering: under top_k=1 every
# guess has probability 1, and all 32 places are filled in one call although 32 were asked for and no token of the
# model is more likely than 22 %. Greedy (temperature 0) uses the unfiltered probability and takes 32 calls. So a
# comparison of temperatures at "equal steps" compares different numbers of calls, and different orders of filling.
# DiscreteDDIMScheduler, beside it, reports the unscaled probability.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import torch
from diffusers import BlockRefinementScheduler

L, V = 32, 100
logits = torch.randn(1, L, V, generator=torch.Generator().manual_seed(0))
print(f'the likeliest token anywhere has probability {logits.softmax(-1).max():.2f}; the threshold is 0.95')

def calls(**how):
    scheduler = BlockRefinementScheduler(block_length=L, num_inference_steps=L, threshold=.95)
    scheduler.set_timesteps(L)
    x, n, generator = torch.full((1, L), V), 0, torch.Generator().manual_seed(0)
    while (x == V).any() and n < 2*L:
        x = scheduler.step(logits, n, x, mask_token_id=V, generator=generator, **how).prev_sample
        n += 1
    return n

ways = [dict(temperature=0.), dict(temperature=1.), dict(temperature=.1), dict(temperature=.02),
        dict(temperature=1., top_k=1), dict(temperature=1., top_p=.05)]
seen = [calls(**how) for how in ways]
for how, n in zip(ways, seen): print(how, 'calls:', n)
if not (seen[0] == seen[1] == L and seen[2] < 24 and seen[3] < 10 and seen[4] == 1 and seen[5] < 4):
    raise SystemExit('the behaviour has changed')
PYTHON
