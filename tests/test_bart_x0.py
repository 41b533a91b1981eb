"Entry 01 as a reader runs it: a saved BART in the place of the stand-in, what is refused, what its parts promise"
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2Model

from helpers import made_on_saved_weights, refused_at_once, smoke_run
from textdiffusion import unlocked_embeddings
from textdiffusion.bart import (Infiller, bart_from_bert, bart_model, check_fit, infill, infilling, own_corpus,
                                small_bart, stand_in, written)
from textdiffusion.bart_x0 import ARMS as FROZEN, PRESETS, BartLayers, ConvUNet, built
from textdiffusion.latents import (Encoded, Latents, Words, improvement, levels_of, split_adamw, through_decoder,
                                   word_distance)
from textdiffusion.corpora import load_corpus
from textdiffusion.tokenizing import bpe_tokenizer
from textdiffusion.denoising import input_sensitivity
from textdiffusion.objectives import draw
from textdiffusion.schedules import cosine
from textdiffusion.optimizers import adamw
from textdiffusion.stand_in import pretrain_stand_in
from textdiffusion.training import fit

ARMS = FROZEN | unlocked_embeddings.ARMS
DATA = load_corpus('restaurants')
SPECIAL = [DATA.pad_id, DATA.bos_id, DATA.eos_id]

def tiny(seed=0, dropout=0.):
    torch.manual_seed(seed)
    bart = small_bart(DATA.tokenizer, DATA.seq_len, width=32, layers=1, heads=2)
    for m in bart.modules():
        if isinstance(getattr(m, 'dropout', None), float): m.dropout = dropout
    return bart

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A saved BART with its tokenizer"
    folder = tmp_path_factory.mktemp('model')
    tiny().save_pretrained(folder)
    DATA.tokenizer.save_pretrained(folder)
    return folder

# as a reader runs it --------------------------------------------------------------------------------------------------

def test_a_saved_model_takes_the_place_of_the_stand_in(saved):
    record = smoke_run('01_bart_x0', base_model=str(saved), arms='encoder,unet', steps=2, seq_len=DATA.seq_len)
    made_on_saved_weights(record, saved, bart_model(str(saved)).num_parameters())
    assert [r['arm'] for r in record['rows']] == ['encoder', 'unet'] and len(record['paradox']) == 6

def refused(words, folder):
    refused_at_once(['base_model', words], 'run', '01_bart_x0', '--preset', 'smoke', '-p', 'base_model', folder)

def test_a_wrong_path_is_refused(): refused('folder with a saved model', 'nowhere/at/all')

def test_another_class_is_refused(tmp_path):
    GPT2Model(GPT2Config(vocab_size=99, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    DATA.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='not a BART.*type gpt2'): bart_model(str(tmp_path))
    refused('not a BART', tmp_path)

@pytest.fixture(scope='module')
def berts(tmp_path_factory):
    "A saved BERT with its tokenizer, and the model"
    folder, pieces = tmp_path_factory.mktemp('bert'), bpe_tokenizer(DATA.text['train'][:2000], 300)
    pieces.cls_token, pieces.sep_token = pieces.bos_token, pieces.eos_token
    torch.manual_seed(0)
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    bert = BertForMaskedLM(BertConfig(vocab_size=len(pieces), pad_token_id=pieces.pad_token_id, **size)).eval()
    bert.save_pretrained(folder)
    pieces.save_pretrained(folder)
    return folder, bert.bert

def test_the_encoder_of_a_bart_made_of_a_bert_is_bert(berts):
    folder, bert = berts
    made, ids = bart_from_bert(str(folder)), torch.randint(5, 300, (3, 20))
    with torch.no_grad(): torch.testing.assert_close(made.model.encoder(ids)[0], bert(ids)[0], atol=1e-5, rtol=0)
    assert torch.equal(made.model.shared.weight, bert.embeddings.word_embeddings.weight)
    assert bart_model(str(folder)).config.model_type == 'bart'

def test_only_the_decoder_of_a_bart_made_of_a_bert_learns_and_the_record_says_so(berts):
    folder, bert = berts
    cfg = SimpleNamespace(corpus='restaurants', seq_len=None, base_model=str(folder), data_dir='', vocab_size=300,
                          batch_size=4, pretrain_steps=2)
    run = SimpleNamespace(cfg=cfg, corpus=own_corpus(cfg), device='cpu', folder_of=lambda name: None)
    (bart, said), before = stand_in(run, 0), bart_from_bert(str(folder))
    same = {n: torch.equal(a, b) for (n, a), b in zip(bart.named_parameters(), before.parameters())}
    assert all(same[n] for n in same if 'decoder' not in n) and not same['model.decoder.layers.0.fc1.weight']
    assert 'decoder learnt here' in said['note'] and said['name'] == 'local' and all(p.requires_grad
                                                                                     for p in bart.parameters())

def test_code_that_comes_with_weights_is_not_run(tmp_path):
    classes = {'AutoConfig': 'configuration_mine.Mine', 'AutoModel': 'modeling_mine.Mine'}
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='mine', auto_map=classes)))
    for name in ('configuration_mine', 'modeling_mine'):
        (tmp_path/f'{name}.py').write_text(f'open({str(tmp_path/"ran")!r}, "w")')
    with pytest.raises(ValueError, match='base_model'): bart_model(str(tmp_path))
    assert not (tmp_path/'ran').exists()

def test_the_body_alone_will_do_and_missing_weights_will_not(saved, tmp_path):
    from safetensors.torch import load_file, save_file
    whole = bart_model(str(saved))
    whole.model.save_pretrained(tmp_path/'body')
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), bart_model(str(tmp_path/'body')).parameters()))
    weights = load_file(saved/'model.safetensors')
    whole.config.save_pretrained(tmp_path/'part')
    part = {k: v for k, v in weights.items() if 'decoder.layers' not in k}
    save_file(part, tmp_path/'part'/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='lacks weights'): bart_model(str(tmp_path/'part'))

def test_window_and_tokenizer_must_fit(saved):
    bart = bart_model(str(saved))
    check_fit(bart, DATA.tokenizer, DATA.seq_len)
    with pytest.raises(ValueError, match='seq_len must be below'): check_fit(bart, DATA.tokenizer, DATA.seq_len + 1)
    other = bpe_tokenizer(DATA.text['train'][:2000], 400)
    with pytest.raises(ValueError, match='do not belong together'): check_fit(bart, other, 8)

# the parts ------------------------------------------------------------------------------------------------------------

def test_infilling_keeps_order_specials_and_padding():
    ids, keep = DATA.train[:200], torch.isin(DATA.train[:200], torch.tensor(SPECIAL))
    torch.manual_seed(0)
    shown = infill(ids, DATA.mask_id, DATA.pad_id, keep)
    for row, true in zip(shown.tolist(), ids.tolist()):
        words, rest = [i for i in row if i not in (DATA.mask_id, DATA.pad_id)], iter(true)
        assert all(w in rest for w in words) and row[0] == DATA.bos_id and DATA.eos_id in row     # in order
        assert not any(a == b == DATA.mask_id for a, b in zip(row, row[1:]))
        assert sorted(row, key=lambda i: i == DATA.pad_id) == row
    assert torch.equal(infill(ids, DATA.mask_id, DATA.pad_id, torch.ones_like(keep)), ids)

def test_a_stand_in_is_found_again(tmp_path):
    def made():
        return pretrain_stand_in(Infiller(tiny()), infilling(DATA.mask_id, DATA.pad_id, SPECIAL),
                                 lambda step: DATA.batch(step, 4), 4, stands_for='facebook/bart-base', task='infilling',
                                 optimizer=partial(adamw, lr=1e-3), every=2, save_every=2, folder=tmp_path)
    (one, line), (two, again) = made(), made()
    assert line['weights'] == again['weights']
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))

@pytest.mark.parametrize('kind', [Words, Encoded])
def test_frozen_vectors_stay_frozen(kind):
    "Neither a training step nor the dropout of a mode changes what is denoised; the pretrained model stays whole"
    bart = tiny(dropout=.5)
    before = {k: v.clone() for k, v in bart.state_dict().items()}
    latents = Latents(kind(bart), DATA.train[:100], DATA.vocab_size, DATA.pad_id)
    model, loss_fn = built(ARMS['encoder'], bart, latents)
    x0 = model.embed(DATA.test[:4]).clone()
    fitted = fit(model, loss_fn, lambda step: DATA.batch(step, 8), 3,
                 optimizer=partial(split_adamw, lr=1e-2, table_lr=1e-2), every=1, save_every=1)
    assert torch.equal(model.train().embed(DATA.test[:4]), x0) and torch.equal(fitted.ema.embed(DATA.test[:4]), x0)
    assert not model.latents.raw.training
    assert all(torch.equal(v, before[k]) for k, v in bart.state_dict().items())
    pairs = zip(model.backbone.named_parameters(), BartLayers(bart).parameters())
    moved = {n for (n, p), q in pairs if not torch.equal(p, q)}
    assert any('layers' in n for n in moved)
    assert not any('embed_positions' in n or 'layernorm_embedding' in n for n in moved)

@pytest.mark.parametrize('name', ARMS)
def test_every_arm_takes_a_step(name):
    bart = tiny()
    latents = Latents(ARMS[name].raw(bart), DATA.train[:100], DATA.vocab_size, DATA.pad_id)
    model, loss_fn = built(ARMS[name], bart, latents)
    before = word_distance(model, draw(model, DATA.test[:2]))[0].item()
    fitted = fit(model, loss_fn, lambda step: DATA.batch(step, 8), 2,
                 optimizer=partial(split_adamw, lr=1e-3, table_lr=.1), every=1, save_every=1)
    after = word_distance(model, draw(model, DATA.test[:2]))[0].item()
    assert all(torch.isfinite(torch.tensor(h['loss'])) for h in fitted.history)
    assert (before != after) == (ARMS[name].terms is not None)
    model, ids = fitted.ema, DATA.test[:4]
    rows = levels_of(lambda x, t: model(x, t)[0], model.embed(ids), ids, DATA, model.latents.score)
    assert len(rows) == 8 and abs(rows[0]['cosine_in'] - 1) < 1e-3 and -1 <= improvement(rows) <= 1

def test_what_training_never_saw_is_not_guessed():
    assert not Latents(Words(tiny()), DATA.train[:3], DATA.vocab_size, DATA.pad_id).unseen.any()  # has its own
    latents = Latents(Encoded(tiny()), DATA.train[:3], DATA.vocab_size, DATA.pad_id)
    guessed = latents.score(torch.randn(50, 32)).argmax(-1).tolist()
    assert latents.unseen.any() and set(guessed) <= set(DATA.train[:3].flatten().tolist())

def test_text_of_a_constant_follows_nothing():
    bart = tiny().eval()
    latents = Latents(Encoded(bart), DATA.train[:50], DATA.vocab_size, DATA.pad_id)
    out = written(bart, latents.raw(DATA.test[:6]), True)
    assert out.shape == (6, DATA.seq_len)
    predict = through_decoder(lambda x, t: torch.zeros_like(x), bart, latents, DATA.vocab_size)
    row, = input_sensitivity(predict, latents(DATA.test[:6]), DATA.test[:6], DATA, cosine, ts=(.9,))
    assert row['sensitivity'] == 0

def test_the_unet_takes_any_length():
    net = ConvUNet(tiny())
    for L in (1, 2, 5, 30): assert net(torch.randn(2, L, 32), torch.rand(2)).shape == (2, L, 32)

def test_presets_are_of_one_make():
    assert all(set(p) == set(PRESETS['cpu']) for p in PRESETS.values()) and PRESETS['gpu']['batch_size'] == 96
