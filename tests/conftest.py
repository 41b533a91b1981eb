"What several test files are given by name"
import pytest

from textdiffusion.corpora import load_corpus

@pytest.fixture(scope='module')
def corpus(): return load_corpus('restaurants')
