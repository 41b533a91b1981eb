"Entry 06c as a reader runs it: the command, a saved model in the place of the stand-in, and what is refused"
import json
import shutil
from functools import partial

import pytest
import torch
from transformers import AutoModelForMaskedLM

from helpers import call, checkout_at, ended_untrained, environment, made_on_saved_weights, overhead
from textdiffusion.corpora import load_corpus
from textdiffusion.tokenizing import bpe_tokenizer
from textdiffusion.objectives import grid_t, masked_ce
from textdiffusion.pretrained_masks import ARMS, Collator, MaskedLM, check_fit, linear_shares, masked_lm, per_batch, protected, renoise, roberta_task, small_roberta
from textdiffusion.unmasking import unmask
from textdiffusion.optimizers import adamw
from textdiffusion.training import pretrain_stand_in, reseed

DATA = load_corpus('restaurants', tokenizer=partial(bpe_tokenizer, vocab_size=400))

@pytest.fixture
def copy(tmp_path):
    "A checkout of its own, so that nothing here is touched"
    return checkout_at(tmp_path/'checkout')

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A saved masked language model with its tokenizer"
    folder = tmp_path_factory.mktemp('model')
    torch.manual_seed(0)
    small_roberta(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2).save_pretrained(folder)
    DATA.tokenizer.save_pretrained(folder)
    return folder

def run(root, *options): return call('textdiffusion', 'run', '06c_pretrained_masks', '--preset', 'smoke', *options, cwd=root, env=environment(PYTHONPATH=str(root)))

def the_record(root):
    page, = root.glob('.runs/*/page.ipynb')
    return json.loads(page.with_name('record.json').read_text(encoding='utf-8')), page.read_text(encoding='utf-8')

# the command ----------------------------------------------------------------------------------------------------------

def test_smoke_by_the_command(copy):
    done = run(copy)
    assert done.returncode == 0, done.stderr[-2000:]
    record, _ = the_record(copy)
    assert {r['arm'] for r in record['rows']} >= {*ARMS, 'untuned', 'judge', '3-gram', 'uniform'}
    line, = record['pretrained']
    assert line['stands_for'] == 'roberta-base' and line['steps'] == record['parameters']['pretrain_steps'] and 'stand-in' in line['note']
    assert record['steps_planned'] == record['steps_done'] and record['steps_done']['scratch-total-0'] == record['steps_done']['scratch-0'] + line['steps']
    assert not list((copy/'journal').glob('06c*'))                          # a smoke run is not published

def test_a_saved_model_takes_the_place_of_the_stand_in(copy, saved):
    done = run(copy, '-p', 'base_model', saved, '-p', 'arms', '10-batch,time', '-p', 'steps', '2')
    assert done.returncode == 0, done.stderr[-2000:]
    record, page = the_record(copy)
    made_on_saved_weights(record, saved, masked_lm(str(saved)).num_parameters())

# refusals -------------------------------------------------------------------------------------------------------------

def refused(root, words, *options):
    "The command ends with one sentence that holds the words; nothing was trained"
    ended_untrained(run(root, *options), root, words, 'stand-in, seed')

def test_a_wrong_path_is_refused(copy): refused(copy, ['base_model', 'folder with a saved model'], '-p', 'base_model', copy/'nowhere/at/all')

def test_a_prefix_as_long_as_the_window_is_refused(copy): refused(copy, ['prefix_length', 'window'], '-p', 'prefix_length', '400')

def test_a_tokenizer_without_a_mask_is_refused(copy, saved, tmp_path):
    shutil.copytree(saved, tmp_path/'maskless')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'): (tmp_path/'maskless'/name).unlink(missing_ok=True)
    tokenizer = bpe_tokenizer(DATA.text['train'][:2000], 400)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path/'maskless')
    refused(copy, ['no mask token'], '-p', 'base_model', tmp_path/'maskless')

def test_code_that_comes_with_weights_is_not_run(tmp_path):
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='mdlm', auto_map={'AutoConfig': 'configuration_mdlm.MDLMConfig', 'AutoModelForMaskedLM': 'modeling_mdlm.MDLM'})))
    for name in ('configuration_mdlm', 'modeling_mdlm'): (tmp_path/f'{name}.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(ValueError, match='base_model'): masked_lm(str(tmp_path))
    assert not (tmp_path/'ran').exists()

def test_a_model_without_its_head_is_refused(saved, tmp_path):
    AutoModelForMaskedLM.from_pretrained(saved).roberta.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='lacks weights'): masked_lm(str(tmp_path))

def test_a_window_longer_than_the_model_is_refused(saved):
    lm = masked_lm(str(saved))
    check_fit(lm, DATA.tokenizer, DATA.seq_len, 5)
    with pytest.raises(ValueError, match='longer than the window'): check_fit(lm, DATA.tokenizer, DATA.seq_len + 1, 5)
    with pytest.raises(ValueError, match='do not belong together'): check_fit(lm, bpe_tokenizer(DATA.text['train'][:2000], 600), 8, 5)


# the parts ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('draw_t', [per_batch(10), per_batch(100), partial(grid_t, T=10), partial(grid_t, T=128)])
def test_the_collator_leaves_prefix_specials_and_padding(draw_t):
    tokenizer = DATA.tokenizer
    examples = [dict(input_ids=tokenizer(text).input_ids) for text in DATA.text['train'][:16]]
    for _ in range(20):
        batch = Collator(tokenizer, draw_t)(examples)
        hidden = batch['input_ids'] == tokenizer.mask_token_id
        clear = batch['labels'].where(hidden, batch['input_ids'])
        assert torch.equal(clear, Collator(tokenizer, lambda n: torch.zeros(n))(examples)['input_ids']) and (batch['labels'][~hidden] == -100).all()
        assert not hidden[:, :5].any() and not hidden[torch.isin(clear, torch.tensor(tokenizer.all_special_ids))].any() and not hidden[batch['attention_mask'] == 0].any()

def test_a_stand_in_is_found_again(tmp_path):
    "The same folder gives the same weights without training; a copy of it with time input trains on its own"
    keep = protected(DATA.tokenizer.all_special_ids, 5)
    def made():
        torch.manual_seed(0)
        model = MaskedLM(small_roberta(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2))
        return pretrain_stand_in(model, roberta_task(DATA.mask_id, DATA.vocab_size, keep), lambda step: DATA.batch(step, 4), 4, stands_for='roberta-base', task='15 %', optimizer=partial(adamw, lr=1e-3), every=2, save_every=2, folder=tmp_path)
    (one, line), (two, again) = made(), made()
    assert line['weights'] == again['weights'] and all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    timed, ids = MaskedLM(one.lm, time=True), DATA.batch(9, 4)
    reseed(0, 0)
    masked_ce(DATA.mask_id, keep=keep)(timed, ids)['loss'].backward()
    assert all(p.grad is not None and p.grad.any() for p in timed.time.parameters())

def test_both_samplers_keep_what_is_given():
    torch.manual_seed(0)
    model, keep = MaskedLM(small_roberta(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2)), protected(DATA.tokenizer.all_special_ids, 5)(DATA.test[:4])
    z = DATA.test[:4].masked_fill(~keep, DATA.mask_id)
    for sampler in (partial(renoise, shares=linear_shares), unmask):
        ids, again = (sampler(model, z, 4, DATA.mask_id, generator=torch.Generator().manual_seed(0))[0] for _ in range(2))
        assert torch.equal(ids, again) and torch.equal(ids[keep], DATA.test[:4][keep]) and not (ids == DATA.mask_id).any()

def test_the_sources_sampler_costs_little_more_than_the_forward_passes():
    assert overhead(lambda denoiser, z: renoise(denoiser, z, 6, 78, generator=torch.Generator().manual_seed(0))) <= .10
