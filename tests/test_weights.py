"Published weights: where they are found, what is refused before anything is trained, what a record says of them"
import json
import re
import shutil

import pytest
import torch
from helpers import REAL_TEXT, ROOT, WEIGHTS, needs_real_text, needs_weights, refused_at_once, smoke_run
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

from textdiffusion.corpora import load_corpus
from textdiffusion.presets import settle
from textdiffusion.pretrained_masks import PRESETS, check, masked_lm
from textdiffusion.tokenizing import bpe_tokenizer
from textdiffusion.weights import about_weights, find_weights, folder_hash, public_weights

DATA = load_corpus('restaurants', tokenizer=lambda texts: bpe_tokenizer(texts, 400))

# where they are found -------------------------------------------------------------------------------------------------

def test_the_variable_names_a_folder_of_folders(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TEXTDIFFUSION_WEIGHTS', str(saved.parent))
    assert find_weights('base_model', 'mine') == str(saved) == find_weights('base_model', str(saved))
    assert find_weights('base_model', 'roberta-base') == 'roberta-base'      # goes on to the hub
    shutil.copytree(saved, tmp_path/'mine')
    assert find_weights('base_model', 'mine') == str(tmp_path/'mine')        # a folder that is named goes first
    monkeypatch.delenv('TEXTDIFFUSION_WEIGHTS')
    assert find_weights('base_model', 'other/mine') == 'other/mine'

def test_a_folder_of_the_variable_without_a_model_is_an_error_and_no_reason_to_ask_the_hub(tmp_path, monkeypatch):
    (tmp_path/'roberta-base').mkdir()
    monkeypatch.setenv('TEXTDIFFUSION_WEIGHTS', str(tmp_path))
    with pytest.raises(ValueError, match='no config.json'): find_weights('base_model', 'roberta-base')
    monkeypatch.setenv('TEXTDIFFUSION_WEIGHTS', str(tmp_path/'nowhere'))
    with pytest.raises(ValueError, match='does not exist'): find_weights('base_model', 'roberta-base')

# bad folders ----------------------------------------------------------------------------------------------------------

def no_config(folder): (folder/'config.json').unlink()
def config_no_json(folder): (folder/'config.json').write_text('{"model_type": ')
def truncated(folder):
    path = folder/'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])
def renamed(folder):
    path, old = folder/'model.safetensors', 'lm_head.dense.weight'
    save_file({k.replace(old, 'lm_head.thick.weight'): v for k, v in load_file(path).items()}, path,
              metadata=dict(format='pt'))
def other_shape(folder):
    path = folder/'model.safetensors'
    save_file({k: v[:5].clone() if k == 'lm_head.dense.weight' else v for k, v in load_file(path).items()}, path,
              metadata=dict(format='pt'))
def only_a_pickle(folder): (folder/'model.safetensors').rename(folder/'pytorch_model.bin')
def a_gpt2(folder):
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
def a_bart(folder):
    small = dict(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1)
    BartForConditionalGeneration(BartConfig(vocab_size=400, **small)).save_pretrained(folder)
def another_vocabulary(folder): bpe_tokenizer(DATA.text['train'][:2000], 300).save_pretrained(folder)
def no_tokenizer(folder):
    for path in folder.glob('tokenizer*'): path.unlink()

BAD = {no_config: 'no config.json', config_no_json: 'no JSON', truncated: 'cannot be loaded',
       renamed: 'lacks weights .*lm_head.dense.weight .*unexpected, lm_head.thick.weight',
       other_shape: 'cannot be loaded',
       only_a_pickle: 'only pytorch_model.bin, a pickle', a_gpt2: 'cannot be loaded as a masked language model',
       a_bart: 'model of type bart', another_vocabulary: 'do not belong together', no_tokenizer: 'without a tokenizer'}

@pytest.mark.parametrize('damage', BAD, ids=lambda f: f.__name__)
def test_a_bad_folder_is_refused_by_one_sentence(damaged, damage):
    damage(damaged)
    with pytest.raises(ValueError, match=BAD[damage]) as e:
        check(settle(PRESETS, preset='smoke', base_model=str(damaged)), None)
    assert '\n' not in str(e.value) and 'base_model' in str(e.value)

def test_a_wrong_fingerprint_is_refused(saved):
    right = folder_hash(saved)[:12]
    assert find_weights('base_model', f'{saved}@{right}') == str(saved)
    for wrong in ('0'*12, right[:4], ''.join(reversed(right))):
        with pytest.raises(ValueError, match=f'begins with {right}, not with'):
            find_weights('base_model', f'{saved}@{wrong}')
    with pytest.raises(ValueError, match='base_model must be'): find_weights('base_model', 'roberta-base@' + right)

def test_the_command_writes_nothing(damaged):
    only_a_pickle(damaged)
    before = set((ROOT/'.runs').glob('*'))
    refused_at_once(['a pickle, which is never opened'], 'run', '06c_pretrained_masks', '--preset', 'smoke',
                    '-p', 'base_model', damaged)
    assert set((ROOT/'.runs').glob('*')) == before

# what a record says ---------------------------------------------------------------------------------------------------

def test_a_record_says_name_fingerprint_licence_and_origin_and_no_path(damaged, monkeypatch):
    (damaged/'LICENSE').write_text(' '*30 + 'Apache License\n' + ' '*25 + 'Version 2.0, January 2004\n')
    (damaged/'README.md').write_text('---\nlanguage: en\nbase_model: someone/small-bert\n---\n# Mine\n')
    said = about_weights(str(damaged), masked_lm(str(damaged)))
    assert said['name'] == 'local' and said['licence'] == 'Apache-2.0' and said['origin'] == 'someone/small-bert'
    assert 'unused' not in said and str(damaged.parent) not in json.dumps(said)
    (damaged/'README.md').write_text('---\nlicense: mit\n---\n')
    monkeypatch.setenv('TEXTDIFFUSION_WEIGHTS', str(damaged.parent))
    said = public_weights(str(damaged))
    assert said['name'] == 'damaged' and said['licence'] == 'mit' and re.fullmatch('[0-9a-f]{12}', said['fingerprint'])
    assert public_weights('a/b') == dict(name='a/b', origin='huggingface.co/a/b')

def test_tensors_without_a_place_are_named(damaged):
    path = damaged/'model.safetensors'
    save_file(load_file(path) | {'cls.seq_relationship.weight': torch.zeros(2, 32)}, path, metadata=dict(format='pt'))
    assert about_weights(str(damaged), masked_lm(str(damaged)))['unused'] == ['cls.seq_relationship.weight']

# published weights ----------------------------------------------------------------------------------------------------

@needs_weights
def test_bert_tiny_is_what_its_readme_says():
    folder = find_weights('base_model', f'{WEIGHTS}/bert-tiny')
    said = about_weights(folder, masked_lm(folder))
    assert said['parameters'] == 4_416_698 and said['licence'] == 'Apache-2.0' and 'unused' not in said

@needs_weights
@needs_real_text
@pytest.mark.parametrize('entry, note, given', [
    ('06c_pretrained_masks', 'published weights', dict(corpus='wikitext2', arms='continuous,scratch,scratch-total')),
    ('01_bart_x0', 'the decoder learnt here, on text infilling', dict(corpus='wikitext2')),
    ('04_learned_rounding', 'a published table of word vectors', {})])
def test_an_entry_runs_on_published_weights(entry, note, given):
    found = dict(TEXTDIFFUSION_WEIGHTS=WEIGHTS, TEXTDIFFUSION_DATA=REAL_TEXT)
    record = smoke_run(entry, found, base_model='bert-tiny', **given)
    said = record['pretrained'][0]
    assert said['name'] == 'bert-tiny' and said['licence'] == 'Apache-2.0' and said['note'].endswith(note)
    assert record['parameters']['base_model'] == f"bert-tiny@{said['fingerprint']}"
    assert WEIGHTS not in json.dumps(record)
