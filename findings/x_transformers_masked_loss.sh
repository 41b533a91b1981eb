#!/usr/bin/env bash
# x-transformers 2.31.10: NonAutoregressiveWrapper, left as it comes, trains its masked model away from the text.
# use_simple_mdlm_loss_weight is on by default. MDLM weighs the cross-entropy of a row by 1 / (masked share), for the
# linear schedule. The wrapper puts its schedule, which is the masked share, where the formula has the unmasked one: the
# weight becomes -1 / (1 - masked share), negative at every time and largest where nearly all is masked; "cosine" too. On
# one repeated sentence the loss falls from -44 to -396 in 150 steps, while the cross-entropy of the sentence rises from
# 2.7 to 15 nats per token, and no place of a sample is right; without the weight it falls to 0.02 and all are right. So
# a masked baseline made with the defaults fails, under a curve that falls as one expects.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 x-transformers==2.31.10 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import random
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from x_transformers import Encoder, NonAutoregressiveWrapper, TransformerWrapper

torch.set_num_threads(1)
L, V, MASK, STEPS = 16, 11, 10, 150
text = torch.arange(L).remainder(8)                     # one sentence, 0 to 7 twice

def wrapped(**how):
    net = TransformerWrapper(num_tokens=V, max_seq_len=L, attn_layers=Encoder(dim=32, depth=2, heads=2))
    return NonAutoregressiveWrapper(net, mask_id=MASK, steps=8, **how)

times, weights = torch.tensor([.1, .5, .9]), {}
for schedule in ('linear', 'cosine'):
    wrapper = wrapped(schedule=schedule)
    masked, weights[schedule] = wrapper.schedule_fn(times), wrapper.loss_weight_fn(times)
    print(f'{schedule}: masked shares {masked.numpy().round(2)}, weights {weights[schedule].numpy().round(2)}')
    if schedule == 'linear': print(f'  the bound has {(1/masked).numpy().round(2)}')

def surprise(wrapper):
    "Nats per token of the text where every place is masked"
    with torch.no_grad(): return cross_entropy(wrapper.net(torch.full((1, L), MASK))[0], text).item()

def trained(**how):
    torch.manual_seed(0); random.seed(0)
    wrapper = wrapped(**how)
    optimizer, losses, before = torch.optim.Adam(wrapper.parameters(), 1e-3), [], surprise(wrapper)
    for _ in range(STEPS):
        loss = wrapper(text.expand(32, -1)).loss
        optimizer.zero_grad(); loss.backward(); clip_grad_norm_(wrapper.parameters(), 1.); optimizer.step()
        losses.append(loss.item())
    right = (wrapper.generate(batch_size=64) == text).float().mean().item()
    return sum(losses[:10])/10, sum(losses[-10:])/10, before, surprise(wrapper), right

seen = {}
for name, how in dict(default={}, unweighted=dict(use_simple_mdlm_loss_weight=False)).items():
    first, last, before, after, right = seen[name] = trained(**how)
    print(f'{name}: loss from {first:.2f} to {last:.2f}; the text costs {before:.2f}, then {after:.2f} nats per token; '
          f'right in samples {right:.1%}')
negative = all((w < 0).all() for w in weights.values()) and weights['linear'][0] < -9
away = seen['default'][1] < seen['default'][0] < 0 and seen['default'][3] > 10 and seen['default'][4] < .05
learnt = seen['unweighted'][3] < .2 and seen['unweighted'][4] > .95
if not (negative and away and learnt): raise SystemExit('the behaviour has changed')
PYTHON
