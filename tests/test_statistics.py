"""Estimates, bars and tables: what is known, what is refused, what was not measured."""
import math, subprocess, sys

import pytest

from helpers import ROOT
from textdiffusion.statistics import above, estimate, interval, mean_of, paired, summarise, t_quantile

def test_summarise_shows_a_spread_only_where_there_is_one():
    rows = [dict(arm='a', clamp='', seed=0, valid=.5, n=8), dict(arm='a', clamp='', seed=1, valid=.7, n=8),
            dict(arm='b', clamp='on', seed=0, n=8)]
    table = summarise(rows, by=['arm', 'clamp'], columns=['valid'], digits=2)
    assert table['valid'].tolist() == ['0.60 ± 0.14', ''] and table['runs'].tolist() == [2, 1]
    assert list(summarise(rows)) == ['runs', 'valid', 'n'] and list(table) == ['runs', 'valid']
    with pytest.raises(ValueError, match='vlid'): summarise(rows, columns=['vlid'])


ROWS = [dict(arm='a', seed=0, valid=.5), dict(arm='a', seed=1, valid=.7), dict(arm='b', seed=0, valid=.6, nats=1.)]

@pytest.mark.parametrize('column, which, name', [('typo', dict(arm='a'), 'typo'), ('valid', dict(amr='a'), 'amr')])
def test_a_name_that_no_row_has_is_an_error_that_names_the_columns(column, which, name):
    words = f"no row has '{name}'; the columns are arm, seed, valid, nats"
    for ask in (lambda: mean_of(ROWS, column, **which), lambda: estimate(ROWS, column, **which),
                lambda: paired(ROWS, column, which, which)):
        with pytest.raises(ValueError, match=words): ask()

def test_what_these_rows_lack_was_not_measured():
    assert math.isnan(mean_of(ROWS, 'nats', arm='a')) and above(estimate(ROWS, 'nats', arm='a'), 0) is None
    assert math.isnan(mean_of(ROWS, 'valid', arm='none')) and math.isnan(mean_of([], 'valid', arm='a'))

def test_statistics_need_no_torch():
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('s', sys.argv[1]); m = u.module_from_spec(s)"
    code += "; s.loader.exec_module(m); m.interval([1., 2.]); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, '-c', code, ROOT/'textdiffusion/statistics.py']).returncode == 0

def test_more_than_thirty_one_seeds_take_the_wider_interval():
    assert t_quantile(31) == t_quantile(30) == 2.0423 and interval(range(100)).half > 1.96*29.01/10
