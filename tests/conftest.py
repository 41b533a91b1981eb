"What several test files are given by name"
import shutil
from functools import partial

import pytest
import torch

from textdiffusion.corpora import load_corpus
from textdiffusion.pretrained_masks import small_roberta
from textdiffusion.tokenizing import bpe_tokenizer

@pytest.fixture(scope='module')
def corpus(): return load_corpus('restaurants')

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A saved masked language model with its tokenizer, below a folder of weights"
    folder = tmp_path_factory.mktemp('weights')/'mine'
    data = load_corpus('restaurants', tokenizer=partial(bpe_tokenizer, vocab_size=400))
    torch.manual_seed(0)
    small_roberta(data.tokenizer, data.seq_len, width=32, layers=1, heads=2).save_pretrained(folder)
    data.tokenizer.save_pretrained(folder)
    return folder

@pytest.fixture
def damaged(saved, tmp_path):
    "A copy of it, to be damaged"
    return shutil.copytree(saved, tmp_path/'damaged')
