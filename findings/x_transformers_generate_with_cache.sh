#!/usr/bin/env bash
# x-transformers 2.31.10: under shift_tokens or attn_data_dependent_alibi generate() does not write what the model says.
# shift_tokens gives a layer half of the vector one place back, attn_data_dependent_alibi a sum over the places before.
# generate() keeps keys and values, as it comes, and feeds one place at a time: the shift then takes zeros for the place
# before, the sum begins anew, and nothing is said (other layers that cannot be cached turn the cache off). Both models
# here learn rows where every number is the sum of the two before it, modulo 7, down to the least possible loss. Asked to
# go on after six numbers they get 23 % and 48 % of them right; with cache_kv=False 100 %, as by calls on the whole row,
# and as a plain Decoder with the cache. The first number written is right, the rest drifts to chance: it looks like a
# model with a good likelihood that writes badly.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 x-transformers==2.31.10 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import math
import torch
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

L, V, PROMPT, STEPS = 24, 7, 6, 250
torch.set_num_threads(1)

def rows(n):
    "Two random numbers, then sums of the last two modulo V"
    x = [torch.randint(V, (n,)), torch.randint(V, (n,))]
    while len(x) < L: x.append((x[-1] + x[-2]) % V)
    return torch.stack(x, 1)

def trained(**how):
    torch.manual_seed(0)
    layers = Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **how)
    model = AutoregressiveWrapper(TransformerWrapper(num_tokens=V, max_seq_len=L, attn_layers=layers))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(STEPS):
        loss = model(rows(128))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    return model.eval(), loss.item()

@torch.no_grad()
def by_hand(model, prompt):
    "The likeliest next number, each from one call on the whole row so far"
    x = prompt
    while x.shape[1] < L: x = torch.cat([x, model.net(x)[:, -1:].argmax(-1)], 1)
    return x[:, PROMPT:]

print(f'least possible loss {math.log(V)/(L - 1):.3f}')
seen = {}
for how in ({}, dict(shift_tokens=1), dict(attn_data_dependent_alibi=True)):
    model, loss = trained(**how)
    row = rows(512)
    prompt, rest = row[:, :PROMPT], row[:, PROMPT:]
    ways = [model.generate(prompt, L - PROMPT, temperature=0.),
            model.generate(prompt, L - PROMPT, temperature=0., cache_kv=False), by_hand(model, prompt)]
    name = next(iter(how), 'plain')
    seen[name] = [(way == rest).float().mean().item() for way in ways]
    first = (ways[0] == rest)[:, 0].float().mean().item()
    print(f'{name}: loss {loss:.3f}; right {seen[name][0]:.1%} (the first {first:.1%}), without the cache '
          f'{seen[name][1]:.1%}, by hand {seen[name][2]:.1%}')
right = all(x > .98 for found in seen.values() for x in found[1:]) and seen['plain'][0] > .98
if not (right and seen['shift_tokens'][0] < .4 and seen['attn_data_dependent_alibi'][0] < .7):
    raise SystemExit('the behaviour has changed')
PYTHON
