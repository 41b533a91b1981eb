"Entry 06c: what is refused, a saved model in the place of the stand-in, the parts"
import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import refused_at_once
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, RobertaConfig, RobertaForMaskedLM

from textdiffusion.corpora import load_corpus
from textdiffusion.tokenizing import bpe_tokenizer
from textdiffusion.objectives import masked_ce
from textdiffusion.presets import settle
from textdiffusion.pretrained_masks import (ARMS, PRESETS, MaskedLM, bound_of, check, check_fit, masked_lm, priced,
                                            protected, roberta_task, small_roberta)
from textdiffusion.optimizers import adamw
from textdiffusion.stand_in import pretrain_stand_in
from textdiffusion.training import reseed
from textdiffusion.renoising import Collator

DATA = load_corpus('restaurants', tokenizer=partial(bpe_tokenizer, vocab_size=400))

def small(seq_len=DATA.seq_len): return small_roberta(DATA.tokenizer, seq_len, width=32, layers=1, heads=2)

# refusals -------------------------------------------------------------------------------------------------------------

def settled(**given): return settle(PRESETS, preset='smoke', **given)

@pytest.mark.parametrize('name, value, words', [
    ('base_model', 'nowhere/at/all', 'folder with a saved model'), ('prefix_length', '100', 'nothing left to mask')])
def test_what_does_not_fit_is_refused_before_a_kernel_starts(name, value, words):
    refused_at_once([name, words], 'run', '06c_pretrained_masks', '--preset', 'smoke', '-p', name, value)

def test_the_longest_prefix_leaves_something_to_mask_in_every_row():
    special = torch.tensor(DATA.tokenizer.all_special_ids)
    longest = int((~torch.isin(DATA.test, special) * torch.arange(DATA.seq_len)).amax(1).min())
    check(settled(prefix_length=longest), None, lambda cfg: DATA)
    with pytest.raises(ValueError, match=f'from 0 to {longest}, got {longest + 1}'):
        check(settled(prefix_length=longest + 1), None, lambda cfg: DATA)

def test_a_tokenizer_without_a_mask_is_refused(saved):
    tokenizer = bpe_tokenizer(DATA.text['train'][:2000], 400)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match='no mask token'): check_fit(masked_lm(str(saved)), tokenizer, 8)

def test_a_model_without_a_tokenizer_is_refused(damaged):
    for name in ('tokenizer.json', 'tokenizer_config.json'): (damaged/name).unlink()
    with pytest.raises(ValueError, match='tokenizer'): check(settled(base_model=str(damaged)), None)

def test_code_that_comes_with_weights_is_not_run(tmp_path):
    maps = {'AutoConfig': 'configuration_mdlm.MDLMConfig', 'AutoModelForMaskedLM': 'modeling_mdlm.MDLM'}
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='mdlm', auto_map=maps)))
    for name in ('configuration_mdlm', 'modeling_mdlm'):
        (tmp_path/f'{name}.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(ValueError, match='base_model'): masked_lm(str(tmp_path))
    assert not (tmp_path/'ran').exists()

def test_a_model_without_its_head_is_refused(saved, tmp_path):
    AutoModelForMaskedLM.from_pretrained(saved).roberta.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='lacks weights'): masked_lm(str(tmp_path))

def test_a_pickle_is_not_opened(damaged):
    (damaged/'model.safetensors').rename(damaged/'pytorch_model.bin')
    with pytest.raises(ValueError, match='safetensors'): masked_lm(str(damaged))

def test_truncated_weights_are_refused(damaged):
    weights = damaged/'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match='cannot be loaded'): masked_lm(str(damaged))

def test_weights_that_are_not_finite_are_refused(damaged):
    weights = load_file(damaged/'model.safetensors')
    next(iter(weights.values())).flatten()[0] = math.nan
    save_file(weights, damaged/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='not finite'): masked_lm(str(damaged))

def test_another_vocabulary_is_refused(saved):
    lm = masked_lm(str(saved))
    check_fit(lm, DATA.tokenizer, DATA.seq_len)
    with pytest.raises(ValueError, match='longer than the window'): check_fit(lm, DATA.tokenizer, DATA.seq_len + 1)
    for size in (300, 600):
        other = bpe_tokenizer(DATA.text['train'][:2000], size)
        with pytest.raises(ValueError, match='do not belong together'): check_fit(lm, other, 8)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_read_as_float32(saved, tmp_path, dtype):
    AutoModelForMaskedLM.from_pretrained(saved, dtype=dtype).save_pretrained(tmp_path)
    lm = masked_lm(str(tmp_path))
    assert {p.dtype for p in lm.parameters()} == {torch.float32}

# the parts ------------------------------------------------------------------------------------------------------------

def test_published_sizes():
    "What the document says about distilroberta-base and roberta-base: 82 and 125 million parameters, with the head"
    def size(layers):
        config = RobertaConfig(vocab_size=50265, num_hidden_layers=layers, max_position_embeddings=514,
                               type_vocab_size=1)
        with torch.device('meta'): return sum(p.numel() for p in RobertaForMaskedLM(config).parameters())
    assert round(size(6)/1e6) == 82 and round(size(12)/1e6) == 125

def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary():
    "To the digits that 32-bit sums have, also over a vocabulary of BERT's size"
    run, V = SimpleNamespace(cfg=settled(), corpus=DATA), 30_522
    found = bound_of(run, lambda z, share: torch.zeros(*z.shape, V))['nats_per_token']
    assert math.isclose(found, math.log(V), rel_tol=1e-5), f'expected ln {V} = {math.log(V)}, got {found}'
    assert priced(run, torch.zeros(run.cfg.rows)) == dict(nats_per_token=0., bits_per_char=0.)

def test_a_copy_has_its_own_time_network():
    timed = MaskedLM(small().eval(), time=True).eval()
    import copy
    text, share, twin = torch.randint(4, 300, (2, 12)), torch.full((2,), .9), copy.deepcopy(timed)
    with torch.no_grad():
        for p in timed.time.parameters(): p.zero_()
        assert torch.equal(timed(text, share), timed.lm(text).logits) and not torch.equal(twin(text, share),
                                                                                          timed(text, share))

def test_the_stand_ins_task_masks_replaces_and_leaves():
    seen = {}
    def says_seven(z_t, share):
        seen['z'] = z_t
        return 50.*torch.nn.functional.one_hot(torch.full_like(z_t, 7), 101)
    loss = roberta_task(100, 100, protected([], 5))(says_seven, torch.full((400, 50), 7))['loss']
    masked, replaced = seen['z'] == 100, (seen['z'] != 100) & (seen['z'] != 7)
    assert abs(masked.float().mean() - .9*.15*.8) < .01 and abs(replaced.float().mean() - .9*.15*.1*.99) < .004
    assert (seen['z'][:, :5] == 7).all() and loss < 1e-6

def test_a_stand_in_is_found_again(tmp_path):
    "The same folder gives the same weights without training; a copy of it with time input trains on its own"
    keep = protected(DATA.tokenizer.all_special_ids, 5)
    how = dict(stands_for='roberta-base', task='15 %', optimizer=partial(adamw, lr=1e-3), every=2, save_every=2)
    def made():
        torch.manual_seed(0)
        task = roberta_task(DATA.mask_id, DATA.vocab_size, keep)
        return pretrain_stand_in(MaskedLM(small()), task, lambda step: DATA.batch(step, 4), 4, folder=tmp_path, **how)
    (one, line), (two, again) = made(), made()
    assert line['weights'] == again['weights']
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    timed, ids = MaskedLM(one.lm, time=True), DATA.batch(9, 4)
    reseed(0, 0)
    masked_ce(DATA.mask_id, keep=keep)(timed, ids)['loss'].backward()
    assert all(p.grad is not None and p.grad.any() for p in timed.time.parameters())

def test_every_arm_is_known_to_the_presets():
    assert list(ARMS) == PRESETS['smoke']['arms'] == PRESETS['long']['arms']

@pytest.mark.parametrize('side', ['right', 'left'])
def test_the_collator_spares_the_beginning_of_the_text_wherever_it_is_padded(side):
    tok = bpe_tokenizer(['one two three four five six seven\n'], 260)
    tok.padding_side, tok.eos_token = side, '[EOS]'
    rows = [tok(text).input_ids for text in ('one two three four five six', 'three four five')]
    batch = Collator(tok, draw_t=lambda n: torch.ones(n))([dict(input_ids=ids) for ids in rows])
    for z, real, ids in zip(batch['input_ids'], batch['attention_mask'].bool(), rows):
        assert z[real][:5].tolist() == ids[:5] and (z[real][5:] == tok.mask_token_id).all() and len(ids) > 6
        assert (z[~real] == tok.pad_token_id).all()
