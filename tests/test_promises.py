"""Every promise names tests, and these exist."""
import re

from helpers import ROOT

def test_each_promise_is_held_by_tests_that_exist():
    rows = [line for line in (ROOT/'docs/promises.md').read_text(encoding='utf-8').splitlines() if line[:2] == '| ']
    tests = {name for p in ROOT.glob('tests/test_*.py')
             for name in re.findall(r'^def (test_\w+)', p.read_text(encoding='utf-8'), re.M)}
    held = {row.split('|')[1].strip(): re.findall(r'`(test_\w+)`', row.split('|')[2]) for row in rows[1:]}
    assert len(held) >= 20 and len(rows) <= 25                                  # many, and one screen
    assert all(held.values()), held
    assert not {name for names in held.values() for name in names} - tests
