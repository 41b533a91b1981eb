#!/usr/bin/env bash
# datasets 5.2.0: all processes of map(num_proc=8) draw the same noise, so a masked corpus has every mask eight times.
# Hiding words once, in `map`, is how static masks are made. By one process the masks of 800 rows differ. Of several,
# each begins as a copy of the first, generators as they stand: rows 1, 101, 201, ... get the same noise level and the same
# mask, from torch, from NumPy and from a generator that the function holds; only Python's `random` is begun anew.
# Nothing is said, the share of masks is as asked for, and what a seed gives depends on num_proc. The row's number, by
# with_indices, as the seed of a generator of its own gives 800 masks, whatever the number of processes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > masks.py <<'PYTHON'
import random
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars

ROWS, WORDS, MASK = 800, 32, -1

def by_torch(row):
    level = torch.rand(())
    return dict(ids=torch.arange(WORDS).masked_fill(torch.rand(WORDS) < level, MASK).tolist())

def by_numpy(row): return dict(ids=np.where(np.random.rand(WORDS) < np.random.rand(), MASK, np.arange(WORDS)).tolist())

def by_python(row):
    level = random.random()
    return dict(ids=[MASK if random.random() < level else i for i in range(WORDS)])

kept = torch.Generator().manual_seed(1)
def by_its_own(row):
    hidden = torch.rand(WORDS, generator=kept) < .5
    return dict(ids=torch.arange(WORDS).masked_fill(hidden, MASK).tolist())

def by_row(row, index):
    own = torch.Generator().manual_seed(index)
    return dict(ids=torch.arange(WORDS).masked_fill(torch.rand(WORDS, generator=own) < .5, MASK).tolist())

def patterns(hide, processes, **how):
    "How many different masks there are, the share of masks, the rows"
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    rows = Dataset.from_dict(dict(row=list(range(ROWS))))
    found = list(rows.map(hide, num_proc=processes, load_from_cache_file=False, **how)['ids'])
    return len(set(map(tuple, found))), sum(i == MASK for ids in found for i in ids)/ROWS/WORDS, found

if __name__ == '__main__':
    disable_progress_bars()
    for hide, expected in ((by_torch, 100), (by_numpy, 100), (by_its_own, 100), (by_python, 800)):
        (one, share, _), (eight, share_eight, rows) = patterns(hide, None), patterns(hide, 8)
        print(f'{hide.__name__}: {one} masks of {ROWS} rows by one process, {eight} by eight; '
              f'share {share:.3f} and {share_eight:.3f}')
        assert one > .9*ROWS and abs(share - .5) < .05 and abs(share_eight - .5) < .08
        assert (eight <= expected) if expected == 100 else (eight > .8*ROWS)
        if expected == 100: assert all(rows[i] == rows[i + 100*k] for i in range(100) for k in range(8))
    assert patterns(by_row, 8, with_indices=True)[0] == patterns(by_row, None, with_indices=True)[0] == ROWS
    print('As described: eight processes of map repeat one stream of noise eight times.')
PYTHON
HF_HOME="$folder/hf" "$folder/env/bin/python" -W ignore masks.py
