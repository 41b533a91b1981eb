"""Pages say what their records say: facts, beliefs, claims, links, HTML; measured on the published journal."""
import html
import importlib
import json
import platform
import re
from pathlib import Path

import pytest
from helpers import ROOT, shifted

from textdiffusion.checkout import entries
from textdiffusion.claims import RELATIONS, claims_page, judged_claims, pinned_log
from textdiffusion.reading import show_table, told
from textdiffusion.records import read_pins, read_record
from textdiffusion.runs import page_faults, render

PINS = read_pins(ROOT)
HEADLINES = {name: PINS[name]['pins'][PINS[name]['headline']] for name in entries(ROOT) if name in PINS}
SOURCES = {p.stem: json.loads(p.read_text(encoding='utf-8')) for p in sorted((ROOT/'nbs').glob('*.ipynb'))}
CLAIMS = json.loads((ROOT/'journal/claims.json').read_text(encoding='utf-8'))
FIXED = ('parameters', 'seeds', 'corpus_info', 'seconds', 'training_minutes', 'schema', 'lam', 't', 'calls', 'steps',
         'width', 'level', 'temperature')

def module(entry): return importlib.import_module(f"textdiffusion.{entry.split('_', 1)[1]}")

def headline_record(entry): return read_record(ROOT/'journal'/f'{HEADLINES[entry]}.json')

def source(name): return '\n'.join(''.join(c['source']) for c in SOURCES[name]['cells'])

def outputs(path):
    "Every output of a page"
    return [o for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]

def test_every_entry_has_a_headline():
    assert list(HEADLINES) == [e for e in SOURCES if e != 'index']

# facts ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('entry', HEADLINES)
def test_the_answer_follows_the_record(entry):
    record, m = headline_record(entry), module(entry)
    said = told(m.ANSWER, m.facts(record))
    assert len(re.split('[ \n]+', said)) <= 60 and '{{' not in said and re.search(r'\d', said), said
    assert told(m.ANSWER, m.facts(shifted(record, FIXED))) != said

@pytest.mark.parametrize('entry', HEADLINES)
def test_every_fact_is_used(entry):
    text = '\n'.join(source(name) for name in SOURCES) + json.dumps([c.get('found', '') for c in CLAIMS])
    used = set(re.findall(r'\{\{(\w+)', text)) | {c['fact'] for c in CLAIMS if 'fact' in c}
    used |= set(re.findall(r'\bf\w*\.(\w+)', text)) | set(re.findall(r"'(\w+)'", source(entry)))
    starts = tuple(re.findall(r"f['\"](\w+_)\{", source(entry)))                       # f[f'clamp_{arm}']
    def is_used(fact): return fact in used or fact.startswith(starts) or any(u.endswith(f'_{fact}') for u in used)
    unused = [fact for fact in module(entry).facts(headline_record(entry)) if not is_used(fact)]
    assert not unused

@pytest.mark.parametrize('entry', HEADLINES)
def test_beliefs_are_few_and_have_a_fact(entry):
    beliefs = module(entry).BELIEFS
    assert 1 <= len(beliefs) <= 5 and all(re.search(r'\w', b.text) and b.relation in RELATIONS.values()
                                          for b in beliefs)

# claims ---------------------------------------------------------------------------------------------------------------

def test_every_measured_claim_is_judged_by_a_fact():
    rows = {r['id']: r for r in judged_claims(PINS, ROOT)}
    assert len(rows) == len(CLAIMS)
    for claim in CLAIMS:
        if claim.get('verdict') == 'measured' and claim['entry'] in HEADLINES:
            assert 'fact' in claim and claim['relation'] in RELATIONS and rows[claim['id']]['found'], claim['id']

def found_after(claim):
    "What is said of a claim when every number of its record has moved; a fact that is gone is an error of its own"
    record = shifted(headline_record(claim['entry']), FIXED)
    try: return told(claim['found'], module(claim['entry']).facts(record))
    except ValueError: return 'the record says too little now'

def test_claims_follow_the_record():
    before = {r['id']: r['found'] for r in judged_claims(PINS, ROOT)}
    numbers = [c for c in CLAIMS if '{{' in c.get('found', '') and not c.get('on') and c['entry'] in HEADLINES]
    same = [c['id'] for c in numbers if before[c['id']] == found_after(c)]
    assert len(numbers) > 30 and len(same) < len(numbers)/10, same

def test_the_log_and_the_claims_are_what_the_records_give():
    assert (ROOT/'journal/README.md').read_text(encoding='utf-8') == pinned_log(PINS, ROOT)
    assert (ROOT/'journal/CLAIMS.md').read_text(encoding='utf-8') == claims_page(PINS, ROOT)

# what stood before this form still stands -----------------------------------------------------------------------------

STANDING = json.loads((ROOT/'tests/standing.json').read_text(encoding='utf-8'))

def table_rows(path):
    "Rows of the tables of a page, as dicts"
    for o in outputs(path):
        for table in re.findall(r'<table.*?</table>', ''.join(o.get('data', {}).get('text/html', [])), re.S):
            cells = [[html.unescape(re.sub('<[^>]+>', '', c)).strip()
                      for c in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]
                     for row in re.findall(r'<tr.*?</tr>', table, re.S)]
            yield from (dict(zip(cells[0], row)) for row in cells[1:])

def test_claims_stand():
    now = {r['id']: r['verdict'] for r in judged_claims(PINS, ROOT)}
    moved = {i: (old, now.get(i)) for i, old in STANDING['claims'].items() if now.get(i) != old
             and i not in STANDING['moved']}
    assert not moved, moved

@pytest.mark.parametrize('entry', STANDING['beliefs'])
def test_beliefs_stand(entry):
    rows = [r for r in table_rows(ROOT/'journal'/f'{HEADLINES[entry]}.ipynb') if 'outcome' in r]
    assert [[r['belief'], r['outcome']] for r in rows] == STANDING['beliefs'][entry]

def carved():
    "Records that were made from an older one"
    for path in sorted((ROOT/'journal').glob('*/*.json')):
        record = json.loads(path.read_text(encoding='utf-8'))
        if 'made_from' in record: yield pytest.param(path, record, id=path.stem)

@pytest.mark.parametrize('path, record', list(carved()))
def test_a_record_made_from_an_older_one_holds_its_numbers(path, record):
    names = [record['made_from']] if isinstance(record['made_from'], str) else record['made_from']
    text = ''.join((ROOT/'journal'/f'{name}.json').read_text(encoding='utf-8') for name in names)
    known = {float(f'{float(x):.4g}') for x in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', text)}
    values = [v for row in record['rows'] for v in row.values() if isinstance(v, float)]
    assert values and sum(v in known for v in values) >= .9*len(values)      # the others are differences of these

# pages ----------------------------------------------------------------------------------------------------------------

PAGES = [ROOT/'journal'/f'{name}.ipynb' for mine in PINS.values() for name in mine['pins'].values()]

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_page_leads_somewhere_and_says_nothing_about_the_machine(page):
    text = page.read_text(encoding='utf-8')
    assert not page_faults(page.with_suffix('.json'), ROOT)
    for word in (str(ROOT), str(Path.home()) + '/'): assert word not in text
    legible = re.sub(r'"image/png": "[^"]*"', '', text)          # in a coded picture any two letters stand somewhere
    assert not re.search(rf'(?<![A-Za-z0-9]){re.escape(platform.node() or "?")}(?![A-Za-z0-9])', legible)
    shown = [''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown']
    shown += [''.join(o.get('data', {}).get('text/markdown', [])) for o in outputs(page)]
    assert not dead_links('\n'.join(shown), page.parent)

LINK = re.compile(r'\]\((?!https?:|#|mailto:)([^)#\s]+)')

def dead_links(text, folder):
    "Relative links of a Markdown text that lead nowhere"
    return [link for link in LINK.findall(re.sub(r'```.*?```|`[^`]*`|\$[^$]*\$', '', text, flags=re.S))
            if not (folder/link).exists()]

DOCUMENTS = [ROOT/'README.md', *sorted((ROOT/'docs').glob('*.md')), ROOT/'journal/README.md', ROOT/'journal/CLAIMS.md',
             ROOT/'journal/bench/README.md']

@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_documents_have_no_dead_link(path):
    assert not dead_links(path.read_text(encoding='utf-8'), path.parent)

@pytest.mark.parametrize('name', SOURCES)
def test_sources_have_no_dead_link(name):
    assert not dead_links('\n'.join(''.join(c['source']) for c in SOURCES[name]['cells']
                                    if c['cell_type'] == 'markdown'), ROOT/'nbs')

def test_a_page_is_the_same_when_it_is_rendered_again(tmp_path):
    page = ROOT/'journal'/f"{HEADLINES['05_anchor_loss']}.ipynb"
    again = render(page.with_suffix('.json'), ROOT, tmp_path/'page.ipynb')
    def shown(path):
        return [(c['source'], [o.get('data', {}).get('text/markdown') for o in c.get('outputs', [])])
                for c in json.loads(path.read_text())['cells']]
    assert shown(again) == shown(page)
    twice = render(page.with_suffix('.json'), ROOT, tmp_path/'page.ipynb').read_bytes()
    assert twice == again.read_bytes()

# untrusted text -------------------------------------------------------------------------------------------------------

HOSTILE = ['<script>alert(1)</script>', '<unk> & </td>', '<img src=x onerror=alert(1)>', '| a | b |', '\x1b[31mred',
           '&lt;b&gt;']

def test_no_text_in_a_table_is_taken_for_html(capsys, monkeypatch):
    import textdiffusion.reading as reading
    shown = []
    monkeypatch.setattr(reading, 'display', lambda value: shown.append(value))
    show_table([{'arm': text, text: text} for text in HOSTILE])
    page = shown[-1].data
    for text in HOSTILE:
        if '<' in text: assert text not in page
        assert html.escape(text) in page or text.startswith('\x1b')

def test_no_published_table_holds_an_unescaped_mark():
    for page in PAGES:
        for o in outputs(page):
            for table in re.findall(r'<table.*?</table>', ''.join(o.get('data', {}).get('text/html', [])), re.S):
                assert set(re.findall(r'<(\w+)', table)) <= {'table', 'thead', 'tbody', 'tr', 'th', 'td'}, page

DECODING = ('07_confidence_decoding', '07b_dependence', '07c_taking_back', '07e_unknown_gaps', '07f_block_cache',
            '08_control', '08b_masked_control', '08d_anchor_control', '08e_e2e_control', '08g_two_wishes',
            '08h_own_levels', '08i_e2e_spans', '10_few_steps', '10b_distillation', '10c_padding', '10e_same_seconds',
            '10f_good_teacher', '10g_levers')

@pytest.mark.parametrize('entry', DECODING)
def test_every_belief_has_its_fact(entry):
    m = module(entry)
    assert all(b.fact in m.facts(headline_record(entry)) for b in m.BELIEFS) and len(m.BELIEFS) <= 5

@pytest.mark.parametrize('entry', [*DECODING, '07d_real_text'])
def test_presets_grow(entry):
    size = {k: p['seeds']*p['steps']*p['samples'] for k, p in module(entry).PRESETS.items()}
    assert size['smoke'] < size['cpu'] < size['long'] < size['gpu']
