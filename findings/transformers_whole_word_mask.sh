#!/usr/bin/env bash
# transformers 5.23.0: whole_word_mask masks all of a row or nothing of it under GPT-2's and DeBERTa's tokenizers.
# DataCollatorForLanguageModeling(whole_word_mask=True) begins a word where the offsets of a token do not begin where
# those of the token before end, that is where a space was left out between them. WordPiece and RoBERTa leave it out.
# The tokenizers of GPT-2, DeBERTa, DeBERTa-v2, BigBird and RemBERT count the space to the token after it: there is no
# gap, and the row is one word (in the last three its first piece is another). Asked for 15 %, the collator masks 15 % of
# the tokens under all of them and says nothing. But with BERT and RoBERTa a masked word has most of its row to be
# guessed from; with the others it has nothing, and 77 to 86 % of the rows have no mask, so that the model learns how
# frequent words are and no more. The documentation asks for fast tokenizers, for their offsets; all of these are fast.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -I -W ignore - <<'PYTHON'
import random
import torch
from transformers import (BertTokenizer, BigBirdTokenizer, DataCollatorForLanguageModeling, DebertaTokenizer,
                          DebertaV2Tokenizer, GPT2Tokenizer, RemBertTokenizer, RobertaTokenizer)

ROWS, WORDS, SHARE, LENGTH = 2000, 16, .15, 128
chance = random.Random(0)
words = [''.join(chance.choice('bdfgklmnprst') + chance.choice('aeiou') for _ in range(3)) for _ in range(30)]
text = [' '.join(chance.choice(words) for _ in range(WORDS)) for _ in range(ROWS)]

def learned(kind):
    "A tokenizer of this kind, with its own rules of splitting, learned on the text"
    tokenizer = kind().train_new_from_iterator(text, vocab_size=300, show_progress=False)
    if tokenizer.mask_token is None: tokenizer.add_special_tokens({'mask_token': '[MASK]'})
    if tokenizer.pad_token is None: tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

def masks(tokenizer):
    "Which tokens the collator masked, and which could have been"
    rows = tokenizer(text, padding='max_length', max_length=LENGTH, return_offsets_mapping=True,
                     return_special_tokens_mask=True)
    collate = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True, mlm_probability=SHARE,
                                              mask_replace_prob=1., random_replace_prob=0., seed=0)
    batch = collate([{name: rows[name][i] for name in rows} for i in range(ROWS)])
    return batch['labels'] != -100, ~torch.tensor(rows['special_tokens_mask']).bool()

seen = {}
for kind in (BertTokenizer, RobertaTokenizer, GPT2Tokenizer, DebertaTokenizer, DebertaV2Tokenizer, BigBirdTokenizer,
             RemBertTokenizer):
    masked, tokens = masks(learned(kind))
    share = masked.sum(1)/tokens.sum(1)
    readable = masked[share <= .5].sum()/masked.sum()
    seen[kind] = [float(x) for x in (masked.sum()/tokens.sum(), readable, (share == 0).float().mean())]
    print(f'{kind.__name__:18s} masked {seen[kind][0]:.1%} of the tokens; {seen[kind][1]:.1%} of these have half of '
          f'their row or more to be guessed from; rows without a mask {seen[kind][2]:.1%}')
good, others = [seen.pop(kind) for kind in (BertTokenizer, RobertaTokenizer)], seen.values()
alike = all(.13 < share < .17 for share, _, _ in [*good, *others])
whole = all(readable > .99 and empty < .15 for _, readable, empty in good)
broken = all(readable < .03 and empty > .7 for _, readable, empty in others)
if not (alike and whole and broken): raise SystemExit('the behaviour has changed')
PYTHON
