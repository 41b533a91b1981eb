"What `make bench` is made of, at sizes that take seconds; the times themselves are nobody's test"
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers import ROOT, call

sys.path.insert(0, str(ROOT/'tools'))
import bench

TINY = bench.Sizes(batch=8, width=16, layers=1, heads=2, samples=4, calls=4, steps=4, rows=24, lines=60)

@pytest.fixture(scope='module')
def builds(tmp_path_factory):
    "This build, and a copy of it in the place of an earlier one"
    folder = tmp_path_factory.mktemp('builds')
    bench.renamed(ROOT/'textdiffusion', folder)
    yield dict(now=bench.PACKAGE, before=bench.BEFORE)
    sys.path.remove(str(folder))

def test_two_builds_live_in_one_process(builds):
    ours, theirs = (bench.build(package)('models') for package in builds.values())
    assert ours.MaskedDenoiser is not theirs.MaskedDenoiser and theirs.__name__ == 'textdiffusion_before.models'
    assert ours.MaskedConfig.model_type != theirs.MaskedConfig.model_type             # both are known to transformers
    assert issubclass(theirs.MaskedDenoiser, theirs.TextDiffusionModel)

def test_who_is_first_alternates():
    asked = []
    def ask(name):
        asked.append(name)
        return len(asked)
    took = bench.turns({name: partial(ask, name) for name in 'abc'}, 3)
    assert ''.join(asked) == 'abc' + 'cba' + 'abc' and took == dict(a=[1, 6, 7], b=[2, 5, 8], c=[3, 4, 9])

def test_each_side_works_in_a_fork_of_its_own():
    left = []
    def make(name):
        left.append(name)
        return lambda: None
    with bench.forks({name: partial(make, name) for name in 'ab'}, iter([2., 5., 7., 8.]).__next__) as asks:
        assert [asks['a'](), asks['a'](), asks['b']()] == [3., 1., 3.] and left == []

def test_a_ratio_has_a_spread():
    assert bench.ratio([2., 2., 3., 4., 9.], [1.]*5) == dict(median=3., low=2., high=6.5)

@pytest.mark.parametrize('task', bench.TASKS, ids=lambda t: t.name)
def test_every_task_runs_on_both_sides_and_plainly(task, builds):
    row, = bench.bench(builds, TINY, 0., [task])
    sides = {'plain'} if task.new else {'before', 'plain'}
    assert row['rounds'] == 4 and {*row['seconds']} == {'now'} | sides
    assert all(row[f'by {side}']['low'] <= row[f'by {side}']['median'] <= row[f'by {side}']['high'] for side in sides)

def test_both_builds_do_the_same_work(builds):
    for task in bench.TASKS[:12]:                                         # those that have a result to compare
        one, two = (task.ours(bench.build(package), TINY)() for package in builds.values())
        assert one == two if isinstance(one, dict) else torch.equal(one, two), task.name

def test_the_plain_code_finds_the_same_numbers():
    lib = bench.build(bench.PACKAGE)
    ours = bench.evaluator(lib, TINY)()
    plain = bench.plain_evaluator(TINY)()
    assert len(plain) == 11 and 0 < plain['valid'] < 1
    for name, value in plain.items(): assert math.isclose(ours[name], value, rel_tol=1e-5), name
    priced = bench.pricing(lib, TINY)(), bench.plain_pricing(TINY)()
    assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(*priced, strict=True))
    assert all(map(bench.language().grammar.contains, bench.plain_drawing(TINY)()))
    read = bench.plain_reading(TINY)()
    assert len(read) == TINY.lines and (read[:, 0] == 1).all()
    assert all(bench.language().words(bench.plain_batching(TINY)()))

def test_the_network_alone_is_asked_what_the_sampler_asked():
    asked = bench.questions(TINY, 'masked', bench.surest)
    assert len(asked) == TINY.calls and all(z.shape == (TINY.samples, 29) for z, _ in asked)

def test_nothing_published_is_overwritten_and_the_page_shows_the_newest(tmp_path):
    ratio = dict(median=.98765, low=.9, high=1.2)
    row = {'task': bench.TASKS[3].name, 'rounds': 4, 'seconds': dict(now=.012345, before=.01, plain=.01),
           'by before': ratio, 'by plain': ratio}
    record = bench.record_of([row], TINY)
    first, second = bench.publish(record, tmp_path), bench.publish(dict(record, device='another'), tmp_path)
    assert second.stem == f'{first.stem}-2' and json.loads(first.read_text())['device'] != 'another'
    text = (tmp_path/'README.md').read_text(encoding='utf-8')
    assert '| 12.3 | 0.99 (0.90 to 1.20) | 0.99 (0.90 to 1.20) | plain: 1.10, met |' in text
    assert 'another' in text and f'({second.name})' in text and text == bench.page(tmp_path)

def test_the_published_page_is_made_from_the_newest_record():
    assert (bench.FOLDER/'README.md').read_text(encoding='utf-8') == bench.page(bench.FOLDER)

def test_records_of_times_are_no_records_of_entries():
    known = {p.parent.name for p in (ROOT/'journal').glob('*/*.json')}
    assert 'bench' in known
    done = call('textdiffusion', 'log')
    assert done.returncode == 0 and 'bench' not in done.stdout
    done = call('textdiffusion', 'pin', 'bench')
    assert done.returncode == 2 and 'no record is called' in done.stderr and 'bench/' not in done.stderr

def test_a_history_that_is_cut_short_is_one_sentence(tmp_path):
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    code = f'import sys; sys.path.insert(0, {str(ROOT/"tools")!r}); import bench; from pathlib import Path; ' \
           f'bench.ROOT = Path({str(tmp_path)!r}); bench.unpacked("4f5a304", bench.ROOT)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().endswith('git fetch --unshallow') and 'Trace' not in done.stderr

def test_no_run_of_the_tests_times_anything():
    recipe = (ROOT/'Makefile').read_text(encoding='utf-8').partition('\ntest: $(STAMP)')[2].partition('\n\n')[0]
    assert 'pytest' in recipe and 'bench' not in recipe
    assert not [p for p in Path(ROOT/'.ci').iterdir() if 'bench' in p.read_text(encoding='utf-8')]
