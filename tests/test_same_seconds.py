"Entry 10e: how often each way asks, what its facts are made of, and what is refused"
import pytest

from helpers import needs_real_text, refused_at_once, REAL_TEXT, smoke_run
from textdiffusion.same_seconds import PRESETS, WAYS, answer_figure, facts, rows_of_05

def toy(way, seed, price, triples=.5, copies=.4, arm='best'):
    return dict(arm=arm, way=way, seed=seed, teacher_nll=price, distinct_3=triples, copy_share=copies, unigram=4.)

def test_facts_are_read_off_the_rows():
    fall = {'50 calls': 3., '100 calls': 2.8, '200 calls': 2.6, '400 calls': 2.4, '50 calls, DDIM': 3.1,
            '200 calls, DDIM': 3., '50 calls, clamped': 2.3}
    rows = [toy(way, s, fall[way]) for way in WAYS for s in (0, 1)]
    rows += [toy('50 calls', s, 3.5, arm='05') for s in (0, 1)]
    rows += [toy('', 0, 2., triples=.4, copies=.5, arm='real'), toy('', 0, 2.2, arm='5-gram')]
    f = facts(dict(rows=rows))
    assert f.bought.mean == pytest.approx(-.5) and f.calls.mean == pytest.approx(-.6)
    assert f.excess.mean == pytest.approx(.25) and f.ddim_share.mean == pytest.approx(.25)
    assert f.copied.mean == pytest.approx(-.1) and f.price_400.mean == pytest.approx(2.4)
    axes = answer_figure(dict(rows=rows)).axes
    assert [line.get_label() for line in axes[0].lines if line.get_label()[0] != '_'] == [
        'ancestral', 'DDIM', 'clamped', "05's record", '5-gram', 'real']

def test_what_05_published_is_its_best_model_unclamped():
    rows = rows_of_05('e2e')
    assert len(rows) == 3 and {(r['arm'], r['way'], r['clamp']) for r in rows} == {('05', '50 calls', 'off')}
    assert rows_of_05('wikitext2') == []

def test_the_same_network_in_as_many_texts_as_05():
    from textdiffusion.anchor_loss import PRESETS as BEFORE
    same = 'emb_dim d_model n_layers n_heads batch_size lr muon_lr samples calls seeds teacher_steps'.split()
    assert {k: PRESETS['long'][k] for k in same} == {k: BEFORE['long'][k] for k in same}
    assert PRESETS['long']['on']['e2e']['seq_len'] == BEFORE['long']['on']['e2e']['seq_len']

@needs_real_text
def test_real_text():
    record = smoke_run('10e_same_seconds', dict(TEXTDIFFUSION_DATA=REAL_TEXT), corpus='e2e')
    assert [r['way'] for r in record['rows'] if r['arm'] == 'best'] == list(WAYS) and REAL_TEXT not in str(record)

@pytest.mark.parametrize('name, value', [('steps', '0'), ('samples', '-1'), ('calls', '0')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([name], 'run', '10e_same_seconds', '-p', name, value)
