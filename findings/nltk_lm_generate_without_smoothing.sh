#!/usr/bin/env bash
# nltk 3.10.4: generate() of a smoothed n-gram model draws only words that followed the context in training.
# score() and perplexity() give the words never seen there their share, the reason for smoothing; generate() chooses
# among the seen ones, with their smoothed scores put to sum 1. On text of 100 equally likely words a Laplace bigram model
# gives 82 % to unseen followers of a word and generate() 0 %; the words it draws have an entropy of 3.3 bits where the
# model's distribution has 6.6. Every bigram written stands in the training text, whatever the smoothing and its strength.
# An n-gram baseline sampled this way looks fluent and little varied beside a neural model, and its own text costs it less
# than its entropy says. The documentation has only "Generate words from the model".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check nltk==3.10.4
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import math
import random
from collections import Counter
from nltk import bigrams
from nltk.lm import KneserNeyInterpolated, Laplace, Lidstone, WittenBellInterpolated
from nltk.lm.preprocessing import padded_everygram_pipeline

DRAWS, CONTEXT = 2000, ['w1']
words, chance = [f'w{i}' for i in range(100)], random.Random(0)
text = [[chance.choice(words) for _ in range(10)] for _ in range(100)]
stands = {pair for sentence in text for pair in bigrams(sentence)}

def entropy(shares): return -sum(p*math.log2(p) for p in shares if p > 0)

seen = {}
for kind, how in ((Laplace, {}), (Lidstone, dict(gamma=.1)), (WittenBellInterpolated, {}), (KneserNeyInterpolated, {})):
    model = kind(order=2, **how)
    model.fit(*padded_everygram_pipeline(2, text))
    followers = set(model.counts[CONTEXT])
    unseen = 1 - sum(model.score(word, CONTEXT) for word in followers)
    due = entropy([model.score(word, CONTEXT) for word in model.vocab])
    drawn = Counter(model.generate(1, text_seed=CONTEXT, random_seed=seed) for seed in range(DRAWS))
    missed = sum(n for word, n in drawn.items() if word not in followers)/DRAWS
    written = model.generate(300, text_seed=CONTEXT, random_seed=0)
    new = sum(pair not in stands for pair in bigrams(written) if not {'<s>', '</s>'} & set(pair))
    found = entropy([n/DRAWS for n in drawn.values()])
    seen[kind.__name__] = unseen, missed, due, found, new
    print(f'{kind.__name__}: unseen followers have {unseen:.1%}, drawn {missed:.1%}; entropy {due:.2f} bits, '
          f'of the draws {found:.2f}; new bigrams in 300 words: {new}')
laplace = seen['Laplace']
never = all(missed == 0 and new == 0 for _, missed, _, _, new in seen.values())
if not (never and laplace[0] > .8 and laplace[2] - laplace[3] > 3): raise SystemExit('the behaviour has changed')
PYTHON
