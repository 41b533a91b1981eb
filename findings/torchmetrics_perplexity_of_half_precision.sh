#!/usr/bin/env bash
# torchmetrics 1.9.0: Perplexity adds up in the precision of the scores, and takes the logarithm of a softmax.
# Scores in bfloat16, as models return them under autocast: the sum over a batch has eight bits, so two models whose
# perplexities on 16,384 tokens are 816 and 833 both report 827.78, to the last digit; differences between models vanish
# or appear. In float16 the sum passes 65,504 and the perplexity is inf. One token whose score lies 18 below
# the best one makes it inf too, since its probability is 0 in float16 (in float32 and bfloat16 from 104 on), where the
# logarithm of the softmax is finite. No warning is given; scores.float() before update() cures all but the last.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import math
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.text import Perplexity

def measured(scores, ids):
    metric = Perplexity()
    metric.update(scores, ids)
    return metric.compute().item()

def exact(scores, ids): return math.exp(cross_entropy(scores.double().flatten(0, 1), ids.flatten()).item())

generator, seen = torch.Generator().manual_seed(0), {}
for scale in (.99, 1.01):
    scores, ids = scale*torch.randn(256, 64, 500, generator=generator), torch.randint(500, (256, 64), generator=generator)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        seen[scale, dtype] = measured(scores.to(dtype), ids), exact(scores.to(dtype), ids)
        print(f'scores times {scale} in {dtype}: {seen[scale, dtype][0]:.2f}, exactly {seen[scale, dtype][1]:.2f}')

unlikely, ids = torch.zeros(1, 100, 50), torch.zeros(1, 100, dtype=torch.long)
unlikely[0, 0, 1] = 18.
one = measured(unlikely.half(), ids), exact(unlikely.half(), ids)
print(f'one of 100 tokens is 18 below the best, float16: {one[0]:.2f}, exactly {one[1]:.2f}')
far = unlikely.clone(); far[0, 0, 1] = 110.
two = measured(far, ids), exact(far, ids)
print(f'one of 100 tokens is 110 below the best, float32: {two[0]:.2f}, exactly {two[1]:.2f}')

fine = all(abs(a/b - 1) < 1e-4 for a, b in (seen[n, torch.float32] for n in (.99, 1.01)))
same = seen[.99, torch.bfloat16][0] == seen[1.01, torch.bfloat16][0]
apart = seen[1.01, torch.bfloat16][1] - seen[.99, torch.bfloat16][1] > 8
endless = all(math.isinf(x) for x in (seen[.99, torch.float16][0], one[0], two[0])) and max(one[1], two[1]) < 200
if not (fine and same and apart and endless): raise SystemExit('the behaviour has changed')
PYTHON
