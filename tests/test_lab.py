"""A reader opens the journal in a real JupyterLab: looking at a page or a source changes nothing."""
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
