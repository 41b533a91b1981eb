"""The statements of the sources: each has one owner, and each owner that exists has judged it on its page."""
import json
import re
from pathlib import Path

import pytest

from textdiffusion.journal import VERDICTS, entries, pinned

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = json.loads((ROOT/'journal/claims.json').read_text(encoding='utf-8'))
OWNERS = [name for name in entries(ROOT) if any(c['entry'] == name for c in CLAIMS)]

def page_rows(name):
    "The claims on the page of an entry's headline: id -> verdict"
    nb = json.loads((ROOT/'journal'/f'{name}.ipynb').read_text(encoding='utf-8'))
    html = ''.join(''.join(o['data'].get('text/html', [])) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o)
    text = ''.join(''.join(o['data'].get('text/markdown', [])) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o)
    cells = [re.sub('<[^>]+>', '', x).strip() for x in re.findall(r'<td[^>]*>(.*?)</td>', html, re.S)]
    shown = {a: v for a, _, v in zip(cells, cells[1:], cells[2:]) if re.fullmatch(r'[a-z]+-\d+', a)}
    return shown | {i: 'implemented' for i in re.findall(r'\(`([a-z]+-\d+)`\)', text)}

def test_every_claim_is_listed_once():
    assert len({c['id'] for c in CLAIMS}) == len(CLAIMS) == 668

@pytest.mark.parametrize('owner', OWNERS)
def test_every_claim_that_can_be_judged_has_a_verdict(owner):
    for c in (c for c in CLAIMS if c['entry'] == owner):
        assert c.get('verdict') in (*VERDICTS[:-1], 'measured'), c['id']
        if c['verdict'] != 'measured': assert c['because'], c['id']
        if c['verdict'] in ('reproduced', 'refuted'): assert c['by'], f"{c['id']} is judged without a published source, arithmetic or a record"
        if c['checkable'] == 'no': assert c['verdict'] == 'cannot be judged', c['id']

@pytest.mark.parametrize('owner', OWNERS)
def test_the_page_shows_them(owner):
    "The headline's page has a row for each claim of its entry; what had to be measured is judged there"
    record = pinned(owner, root=ROOT)
    assert record, f'{owner} has no headline'
    shown = page_rows(record['name'])
    for c in (c for c in CLAIMS if c['entry'] == owner):
        want = {'reproduced', 'refuted', 'undecided', 'not comparable'} if c['verdict'] == 'measured' else {c['verdict']}
        assert shown.get(c['id']) in want, (c['id'], shown.get(c['id']), want)
