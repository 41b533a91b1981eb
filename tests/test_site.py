"""The site of the whole checkout: it builds without a warning, no link leads nowhere, nothing comes from elsewhere, and
what a corpus says is never markup. The same pages in Chromium, wide and narrow, light and dark."""
import os, shutil, sys
from html.parser import HTMLParser
from urllib.parse import unquote
import nbformat
import pytest
from helpers import ROOT

for needed in ('sphinx', 'myst_nb', 'furo', 'math_core'):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -c constraints.txt -e '.[dev,site]'")
sys.path.insert(0, str(ROOT/'tools'))
import build_site, reference     # noqa: E402

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium')
LOADED = dict(script='src', img='src', link='href', iframe='src', source='src', video='src')

class Page(HTMLParser):
    "What a page links to, what it loads, and the places in it that can be linked to"
    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places, self.scripts = [], [], set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given.get('id'), given.get('name')}
        if tag == 'a' and given.get('href'): self.links.append(given['href'])
        if given.get(LOADED.get(tag)): self.loaded.append(given[LOADED[tag]])

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site of this checkout"
    out = tmp_path_factory.mktemp('site')/'html'
    assert build_site.build(ROOT, out, tmp_path_factory.mktemp('work')) == 0
    return out

@pytest.fixture(scope='session')
def pages(site):
    "path -> what stands in a page"
    return {p: Page(p) for p in sorted(site.rglob('*.html'))}

def dead(pages):
    "Links that lead nowhere: page and link"
    for path, page in pages.items():
        for link in page.links + page.loaded:
            if link.startswith(('http:', 'https:', 'mailto:', 'data:')): continue
            name, _, place = unquote(link).partition('#')
            target = (path.parent/name.partition('?')[0]).resolve() if name else path
            if not target.is_file(): yield path, link
            elif place and target in pages and place not in pages[target].places: yield path, link

def test_no_link_leads_nowhere(site, pages):
    assert len(pages) > 100 and not list(dead(pages))

def test_a_dead_link_is_seen(tmp_path):
    links = ''.join(f'<a href="{link}">there</a>' for link in ('b.html#x', 'c.html', '#here', 'b.html#y'))
    (tmp_path/'a.html').write_text(links + '<p id="here">')
    (tmp_path/'b.html').write_text('<p id="y">')
    found = {p: Page(p) for p in tmp_path.glob('*.html')}
    assert [link for _, link in dead(found)] == ['b.html#x', 'c.html']

def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = {link for page in pages.values() for link in page.loaded}
    assert loaded and not [link for link in loaded if link.startswith(('http:', 'https:', '//'))]
    assert not [p for p in site.rglob('*.css') if 'url(http' in p.read_text(encoding='utf-8')]

def test_every_entry_and_every_module_has_its_page(site, pages):
    for page in build_site.Source(ROOT, site).pages.values():
        assert (site/page).with_suffix('.html') in pages
    names = [n.module for n in build_site.notebooks(ROOT) if n.number]
    assert all(site/f'reference/{n}.html' in pages for n in names)
    fit = pages[site/'reference/training.html']
    assert 'textdiffusion.training.fit' in fit.places
    assert any('nbs/lib/40_training.html#training-' in link for link in fit.links)
    assert any('journal/05_anchor_loss' in link for link in fit.links)

def test_markup_in_a_text_is_shown_and_not_obeyed(tmp_path):
    evil = '<script>alert(1)</script> <img src=x onerror=alert(2)> {{ secret }} $a$'
    said = [nbformat.v4.new_output('stream', text=evil)]
    said += [nbformat.v4.new_output('display_data', {kind: evil}) for kind in ('text/markdown', 'text/plain')]
    cells = [nbformat.v4.new_markdown_cell(f'# Texts\n\n{evil}'), nbformat.v4.new_code_cell('show()', outputs=said)]
    nb = nbformat.v4.new_notebook(cells=cells, metadata=dict(language_info=dict(name='python')))
    (tmp_path/'index.ipynb').write_text(nbformat.writes(nb))
    assert build_site.sphinx(tmp_path, tmp_path/'out') == 0
    text = (tmp_path/'out/html/index.html').read_text(encoding='utf-8')
    assert '<script>alert' not in text and '<img src="x"' not in text and '<img src=x' not in text
    assert text.count('&lt;script&gt;alert(1)') == 4

def test_a_signature_is_told_with_its_comments():
    def halve(x:float|None=None, *, often:int=1) -> list[float]: "Half of `x`, <b>*twice*</b>"
    assert reference.signature(halve) == 'x=None, *, often=1'
    assert reference.escaped(halve.__doc__) == r'Half of `x`, \<b\>\*twice\*\</b\>'
    table = reference.table(halve)
    assert r'| `x` | `float \| None` |' in table and '| *returns* | `list[float]` |' in table

@pytest.mark.skipif(not CHROMIUM, reason='there is no chromium on this machine')
def test_pages_fit_a_desk_and_a_phone(site):
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    entry = build_site.Source(ROOT, site).pages['06_masked_diffusion'].replace('.ipynb', '.html')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        for width, scheme in ((1280, 'light'), (400, 'dark')):
            errors, size = [], dict(width=width, height=900)
            page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
            page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
            page.on('pageerror', lambda e: errors.append(str(e)))
            for name in ('index.html', entry, 'journal/CLAIMS.html', 'reference/training.html'):
                page.goto(f'file://{site/name}')
                wide = page.evaluate('document.documentElement.scrollWidth')
                assert wide <= width and not errors, (name, width, wide, errors)
        page.goto(f'file://{site}/search.html?q=anchor')
        page.wait_for_selector('#search-results li a')
        assert not errors and 'Anchor loss' in page.inner_text('#search-results')
        browser.close()
