#!/usr/bin/env bash
# sacrebleu 2.6.0: a missing reference that is written '' counts as a reference of no words; BLEU of short texts is 100.
# Where texts have different numbers of references, as in E2E, the shorter lists are filled up. README and docstring say
# that a missing one may be None or ''. None is left out, and the signature says nrefs:var. But '' stays: the signature
# says nrefs:3, and the length to which BLEU compares a text is that of its closest reference, 0 for one that has less
# than half the words. The brevity penalty is gone, and a system that stops after a few right words (BLEU 30.5 by None)
# has 100.0, above one that writes whole sentences (69.6). TER, whose errors are divided by the mean length of the
# references, becomes dearer for long texts (18.5 to 28.8) and cheaper for short ones; chrF, which takes the best
# reference, stays. In 2.0.0, which made the README's example, '' was left out.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check sacrebleu==2.6.0
cd "$folder"
"$folder/env/bin/python" -I - <<'PYTHON'
from itertools import zip_longest
from sacrebleu.metrics import BLEU, CHRF, TER

WHOLE = ['The Mill is a cheap French pub near the river .', 'The Wrestlers serves Italian food at low prices .',
         'Cotto is a coffee shop in the city centre that families like .']
SHORT = ['The Mill is a cheap French pub', 'The Wrestlers serves Italian', 'Cotto is a coffee shop']
REFERENCES = [['The Mill is a cheap French pub by the river .', 'The Mill , a cheap pub near the river , is French .',
               'Near the river there is a cheap French pub , The Mill .'],
              ['The Wrestlers serves Italian food , and its prices are low .',
               'At The Wrestlers Italian food has low prices .'],
              ['Cotto is a coffee shop in the city centre , and families like it .']]

def scores(missing):
    "metric -> score of whole sentences, score of short ones, signature"
    found, filled = {}, list(map(list, zip_longest(*REFERENCES, fillvalue=missing)))
    for metric in (BLEU(tokenize='none'), CHRF(), TER()):
        values = [round(metric.corpus_score(texts, filled).score, 1) for texts in (WHOLE, SHORT)]
        found[type(metric).__name__] = (*values, str(metric.get_signature()).split('|')[0])
    print(f'missing references written {missing!r}:', found)
    return found

left_out, counted = scores(None), scores('')
assert left_out == dict(BLEU=(69.6, 30.5, 'nrefs:var'), CHRF=(80.4, 51.8, 'nrefs:var'), TER=(18.5, 55.5, 'nrefs:var'))
assert counted == dict(BLEU=(69.6, 100.0, 'nrefs:3'), CHRF=(80.4, 51.8, 'nrefs:3'), TER=(28.8, 53.4, 'nrefs:3'))
print("As described: written '' a missing reference lifts the BLEU of texts that stop early from 30.5 to 100.")
PYTHON
