"""A reader opens the journal in a real JupyterLab: looking changes nothing, a training shows itself and can be
interrupted, an entry runs from a fresh kernel."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from helpers import ROOT, environment

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium')
sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no chromium on this machine')
FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync']
READY = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
AUTOSAVE = 3 # seconds

def lay_settings(config):
    "Settings of a JupyterLab that asks nothing and saves every few seconds"
    wanted = {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
              'notebook-extension/tracker': dict(windowingMode='none'),
              'docmanager-extension/plugin': dict(autosave=True, autosaveInterval=AUTOSAVE)}
    for name, value in wanted.items():
        path = config/'lab/user-settings/@jupyterlab'/f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))

def free_port():
    "A port on which nobody listens"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def answers(url):
    "Whether a server answers"
    try: return bool(urllib.request.urlopen(url, timeout=1).read())
    except OSError: return False

@pytest.fixture
def lab(tmp_path):
    "A JupyterLab on loopback over a copy of the notebooks and the journal; its address, and the folder"
    work = tmp_path/'work'
    for folder in ('nbs', 'journal'): shutil.copytree(ROOT/folder, work/folder)
    lay_settings(tmp_path/'config')
    port, log = free_port(), open(tmp_path/'lab.log', 'w')
    env = environment(JUPYTER_CONFIG_DIR=str(tmp_path/'config'), JUPYTER_DATA_DIR=str(tmp_path/'data'), IN_TEST='1',
                      JUPYTER_RUNTIME_DIR=str(tmp_path/'run'), PYTHONPATH=str(ROOT))
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}',
               '--ServerApp.port_retries=0', '--IdentityProvider.token=t', f'--ServerApp.root_dir={work}']
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    end = time.monotonic() + 90
    while not answers(f'http://127.0.0.1:{port}/api/status?token=t'):
        assert server.poll() is None and time.monotonic() < end, (tmp_path/'lab.log').read_text()[-2000:]
        time.sleep(.5)
    yield f'http://127.0.0.1:{port}/lab/tree', work
    server.terminate()
    server.wait(30)

def opened(browser, url):
    "A notebook, open, with its kernel idle and no dialog left"
    page = browser.new_page(viewport=dict(width=1280, height=1000))
    page.goto(f'{url}?token=t&reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=60_000)
    page.wait_for_selector(READY, timeout=60_000)
    return page

def headline():
    "The headline page of entry 05, as a path in the checkout"
    mine = json.loads((ROOT/'journal/pinned.json').read_text())['05_anchor_loss']
    return f"journal/{mine['pins'][mine['headline']]}.ipynb"

def test_looking_at_a_page_and_at_a_source_changes_neither(lab):
    url, work = lab
    names = [headline(), 'nbs/05_anchor_loss.ipynb']
    before = [(work/name).read_bytes() for name in names]
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        pages = [opened(browser, f'{url}/{name}') for name in names]
        pages[0].wait_for_timeout(1000*(2*AUTOSAVE + 2))
        dirty = [page.locator('.lm-TabBar-tab.lm-mod-current.jp-mod-dirty').count() for page in pages]
        browser.close()
    assert dirty == [0, 0]
    assert [(work/name).read_bytes() for name in names] == before

# working in it --------------------------------------------------------------------------------------------------------

TRAINING = ['''import time
import torch
from textdiffusion.optimizers import adamw
from textdiffusion.training import fit
class Toy(torch.nn.Module):
    def __init__(self): super().__init__(); self.w = torch.nn.Linear(4, 4)
    def forward(self, x): return self.w(x)
def batches(step):
    time.sleep(.005)
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
def loss_fn(m, x): return dict(loss=(m(x) - x).square().mean())''', '''torch.manual_seed(0)
fitted = fit(Toy(), loss_fn, batches, 900, optimizer=adamw, every=50, save_every=50, folder='kept', name='toy')''',
            'fitted']
BAR = '.textdiffusion-progress'

def written(path, cells):
    "A notebook with these code cells"
    made = [dict(cell_type='code', id=f'cell{i}', source=s, outputs=[], execution_count=None, metadata={})
            for i, s in enumerate(cells)]
    kernelspec = dict(name='python3', display_name='Python 3 (ipykernel)', language='python')
    path.write_text(json.dumps(dict(cells=made, metadata=dict(kernelspec=kernelspec), nbformat=4, nbformat_minor=5)))

def with_kernel(page):
    "A page whose notebook has a kernel: run before it is there, cells ask for one in a dialog"
    quiet = 0
    while quiet < 6:
        ask = page.locator('.jp-Dialog button.jp-mod-accept')
        quiet = 0 if ask.count() else quiet + 1
        if ask.count(): ask.first.click()
        page.wait_for_timeout(500)
    return page

def menu(page, name, command):
    "Choose a command from a menu"
    page.click(f'.lm-MenuBar-itemLabel:text-is("{name}")')
    page.click(f'.lm-Menu-item[data-command="{command}"]')

def until(page, seconds, script, why):
    "Wait until a script is true on the page"
    try: page.wait_for_function(script, timeout=1000*seconds)
    except sync_api.TimeoutError: pytest.fail(f'{why}: {page.inner_text(".jp-Notebook")[-1500:]}')

def outputs_of(page, i):
    "What stands below a code cell"
    return page.locator('.jp-Notebook .jp-CodeCell').nth(i).locator('.jp-Cell-outputArea').inner_text()

IDLE = """() => document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status === 'idle'
          && ![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.trim() === '[*]:')
          && [...document.querySelectorAll('.jp-InputPrompt')].some(e => /^\\[\\d+\\]:$/.test(e.textContent.trim()))"""
STDERR = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'

def test_a_training_shows_itself_is_interrupted_and_goes_on(lab):
    url, work = lab
    written(work/'training.ipynb', TRAINING)
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = with_kernel(opened(browser, f'{url}/training.ipynb'))
        menu(page, 'Run', 'runmenu:run-all')
        at_250 = """() => { const bar = document.querySelector('.textdiffusion-progress');
            const m = bar && bar.innerText.match(/training toy ([0-9]+) of 900/);
            return m && +m[1] >= 250 && bar.querySelector('polyline') }"""
        until(page, 60, at_250, 'no bar with a curve')
        below = [page.locator('.jp-CodeCell').nth(i).locator(BAR).count() for i in range(3)]
        menu(page, 'Kernel', 'kernelmenu:interrupt')
        until(page, 20, IDLE, 'not interrupted')
        said = outputs_of(page, 1)
        menu(page, 'Run', 'runmenu:run-all')
        until(page, 60, "() => document.querySelector('.jp-Notebook').innerText.includes('900 of 900 steps')", 'no end')
        stderr, again = page.locator(STDERR).count(), outputs_of(page, 1)
        browser.close()
    assert below == [0, 1, 0] and stderr == 0                       # in the cell that trains, and nothing on red
    last = said.strip().splitlines()[-1]
    assert 'Interrupted: toy was stopped after' in last and 'run the same again and it goes on from step' in last
    assert 'Interrupted' not in again and 'loss' in again

def test_run_all_of_an_entry_from_a_fresh_kernel(lab):
    url, work = lab
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = with_kernel(opened(browser, f'{url}/nbs/04b_width.ipynb'))
        menu(page, 'Run', 'runmenu:run-all')
        until(page, 120, f"() => document.querySelector('{BAR} progress')", 'no bar')
        line = page.locator(BAR).first.inner_text()
        until(page, 180, IDLE, 'not finished')
        found = page.locator('.jp-OutputArea-output').evaluate_all('all => all.map(e => e.dataset.mimeType)')
        images = page.locator('.jp-OutputArea-output img').count()
        browser.close()
    assert images >= 1 and not [m for m in found if m in ('application/vnd.jupyter.error',
                                                          'application/vnd.jupyter.stderr')], line
