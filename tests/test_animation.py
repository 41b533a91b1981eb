"""Denoising as a page, in Chromium: play, pause, slider, two decoders on one clock; a text that would be markup; a
phone and the dark; nothing is loaded."""
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from textdiffusion.animation import LIMIT, denoising_page
from textdiffusion.plotting import moments, order_map
from textdiffusion.unmasking import canvas, random_k, top_k, unmask

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium')
NASTY = ['<script>document.title="broken"</script>', '<img src=x onerror=alert(1)>', '</script><b>', '"&\u2028\x1b[2J',
         '${document.title="broken"}', 'café', '[MASK]']

def traced(tokens, L, rule):
    "What a made-up network writes in these tokens, the mask the last of them"
    mask_id = len(tokens) - 1
    def denoiser(z, share): return torch.zeros(*z.shape, len(tokens))
    blank = canvas(torch.empty(1, 0, dtype=torch.long), L, mask_id)
    chance = torch.Generator().manual_seed(0)
    trace = unmask(denoiser, blank, L, mask_id, pick=rule, trace_every=1, generator=chance)[1]
    return moments(trace, SimpleNamespace(convert_ids_to_tokens=lambda ids: [tokens[i] for i in ids]))

def two(path, tokens=NASTY, L=12):
    "A page on which one decoder fills a place a call and the other three"
    traces = {'<b>one</b> a call': traced(tokens, L, random_k(1)), 'three a call': traced(tokens, L, top_k(3))}
    return denoising_page(traces, path, title='<i>Two</i>', seconds=.15)

@pytest.fixture(scope='module')
def browser():
    "Chromium, for all tests here"
    if not CHROMIUM: pytest.skip('there is no chromium on this machine')
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        yield browser
        browser.close()

def opened(browser, path, width=1280, scheme='light'):
    "A page in a window of this width, with what it complained of and what it asked for"
    page = browser.new_context(viewport=dict(width=width, height=800), color_scheme=scheme).new_page()
    page.heard, page.asked = [], []
    page.on('console', lambda m: page.heard.append(m.text))
    page.on('pageerror', lambda e: page.heard.append(str(e)))
    page.on('dialog', lambda d: (page.heard.append(d.message), d.dismiss()))
    page.on('request', lambda r: page.asked.append(r.url))
    page.goto(f'file://{path}')
    return page

def at(page): return int(page.locator('input').input_value())

def wait(page, come):
    "Until something has come about, ten seconds at most; the page itself forbids to evaluate strings"
    for _ in range(500):
        if come(): return
        page.wait_for_timeout(20)
    raise AssertionError('it never came')

def said(page): return [f.inner_text() for f in page.locator('figure > div').all()]
def masks(page): return [f.locator('.mask').count() for f in page.locator('figure').all()]

def test_play_pause_and_slider_move_both_decoders(browser, tmp_path):
    path = two(tmp_path/'two.html')
    assert path.stat().st_size < LIMIT/10
    page = opened(browser, path)
    assert masks(page) == [0, 0] and page.locator('input').get_attribute('max') == '12'
    page.locator('input').fill('0')                                       # the slider, to the beginning
    assert masks(page) == [12, 12] and '█' in said(page)[0] and 'step 1 of 13' in page.inner_text('.bar')
    page.locator('input').fill('4')
    assert masks(page) == [8, 0] and [f.inner_text() for f in page.locator('figcaption i').all()] == [
        '5 of 13, 33 %', '5 of 5, 100 %']
    page.locator('input').fill('0')
    page.get_by_role('button', name='play').click()
    wait(page, lambda: at(page) >= 2)
    page.get_by_role('button', name='pause').click()
    stands = at(page)
    assert 2 <= stands < 12 and masks(page) == [12-stands, max(12-3*stands, 0)]
    page.wait_for_timeout(300)
    assert at(page) == stands
    page.get_by_role('button', name='play').click()
    wait(page, lambda: page.inner_text('button') == 'play')
    assert masks(page) == [0, 0] and not page.heard and page.asked == [f'file://{path}']

def test_keys_are_enough(browser, tmp_path):
    page = opened(browser, two(tmp_path/'two.html'))
    page.keyboard.press('Tab'); page.keyboard.press('Tab')
    page.keyboard.press('Home'); page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowRight')
    assert masks(page) == [10, 6] and page.locator('input').get_attribute('aria-valuetext') == 'step 3 of 13'
    page.keyboard.press('Shift+Tab'); page.keyboard.press('Space')
    wait(page, lambda: at(page) > 2)
    page.keyboard.press('Space')
    assert page.inner_text('button') == 'play'

def test_words_are_never_markup(browser, tmp_path):
    page = opened(browser, two(tmp_path/'two.html', L=40))
    text = ''.join(said(page))
    assert all(word in text for word in NASTY[:3]) and page.title() == '<i>Two</i>'
    assert page.locator('figure img, figure b b, figure script').count() == 0 and not page.heard
    assert page.locator('figcaption b').first.inner_text() == '<b>one</b> a call'

def contrasts(page):
    "Of the text of every word with what is behind it"
    colours = page.evaluate('''[...document.querySelectorAll("figure span:not(.mask):not(.pad)")].map(s => {
        const c = getComputedStyle(s); return [c.color, c.backgroundColor]; })''')
    def light(colour):
        parts = [float(x) for x in re.findall(r'[\d.]+', colour.replace('srgb', ''))][:3]
        parts = parts if 'srgb' in colour else [x/255 for x in parts]
        return sum(w*(x/12.92 if x <= .04 else ((x+.055)/1.055)**2.4) for w, x in zip((.2126, .7152, .0722), parts))
    pairs = [sorted(map(light, pair)) for pair in colours]
    return [(b + .05)/(a + .05) for a, b in pairs]

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_phone_and_the_dark(browser, tmp_path, scheme):
    sure = [dict(t=0., words=['word']*101, confidence=[p/100 for p in range(101)])]
    letters = traced([*'abc', ' ', '\n', '[MASK]'], 300, random_k(9))
    path = denoising_page(dict(every=sure, letters=letters), tmp_path/'a.html')
    page = opened(browser, path, width=400, scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= 400 and not page.heard
    boxes = [f.bounding_box() for f in page.locator('figure').all()]
    assert boxes[1]['y'] > boxes[0]['y'] + boxes[0]['height'] - 1
    assert page.locator('button').bounding_box()['height'] >= 32                    # a finger finds it
    assert len(contrasts(page)) > 101 and min(contrasts(page)) > 4.3

def test_the_order_of_a_rule_is_seen():
    tokens = [*'abc', '[MASK]']
    ax = order_map({'chance': [traced(tokens, 9, random_k(1))], 'three': traced(tokens, 9, top_k(3))})
    chance, three = ax.collections[0].get_array().reshape(2, 9)
    assert sorted(chance) == list(range(1, 10)) and sorted(three) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
