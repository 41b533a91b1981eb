"""A model to take away: a new user's hour with real commands, damaged folders, and the door of transformers."""
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import call, new_model, told
from safetensors.torch import load_file, save_file

from textdiffusion import corpora
from textdiffusion.command import main
from textdiffusion.model_commands import text_for
from textdiffusion.sampling import sample
from textdiffusion.saved import load_model, save_model
from textdiffusion.schedules import rescale, sqrt
from textdiffusion.tokenizing import list_tokenizer

TINY = '--steps 3 --width 32 --layers 1 --batch-size 8'.split()

@pytest.fixture
def folder(corpus, tmp_path): return save_model(new_model(corpus), tmp_path/'my model', corpus.tokenizer)

# --- a new user's hour ---

def test_a_new_users_hour(tmp_path, corpus):
    "README's own text: train, evaluate, sample, infill, load in a fresh process; the same seed gives the same text"
    text, out = tmp_path/'my dir'/'my text.txt', tmp_path/'my dir'/'my model'
    text.parent.mkdir()
    text.write_text('\n'.join(corpus.text['train'][:600]) + '\n', encoding='utf-8')
    def run(*words):
        done = call('textdiffusion', *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout
    said = run('train', 'masked', '--corpus', text, '--out', out, *TINY)
    assert 'sentences' in said and 'unknown words' in said and f'textdiffusion sample "{out}"' in said
    rows = json.loads(run('evaluate', out, '--corpus', text, '-n', 16, '--calls', 2, '--json'))['rows']
    assert [r['text'] for r in rows] == ['model', 'real'] and rows[0]['cost'] > 0 and not rows[0]['exact']
    first = run('sample', out, '-n', 3, '--calls', 4)
    assert first == run('sample', out, '-n', 3, '--calls', 4) and len(first.splitlines()) == 3
    filled = json.loads(run('sample', out, '--infill', 'the [MASK] is near', '--json'))['texts']
    assert len(filled) == 5 and all(t.split()[0] == 'the' and t.split()[2:] == ['is', 'near'] for t in filled)
    code = """import sys, textdiffusion
assert 'torch' not in sys.modules
from transformers import AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
from textdiffusion.saved import texts_of
print(*texts_of(model.generate(num_return_sequences=3, steps=4, seed=0), model.config, tokenizer), sep='\\n')"""
    moved = shutil.move(out, tmp_path/'elsewhere')
    shutil.rmtree(moved/'checkpoints'); (moved/'training.json').unlink()          # nothing but the model is needed
    assert call(sys.executable, '-c', code, moved, cwd=tmp_path).stdout == first
    written = [p.read_text(encoding='utf-8') for p in moved.iterdir() if p.suffix != '.safetensors']
    assert str(tmp_path) not in ''.join(written)

def test_curves_go_into_the_folder(tmp_path, corpus, monkeypatch):
    "A tracker that writes into the model's folder: begun, extended, and the same weights as without"
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.tracking import GeneralTracker

    from textdiffusion import model_commands
    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker, steps = 'kept', False, None, []
        def log(self, values, step=None, **kwargs): self.steps.append(step)
        def finish(self): self.steps.append('end')
    def begin(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder/'events').touch()
        accelerator = Accelerator(cpu=True, log_with=Kept())
        accelerator.init_trackers('test')
        return accelerator
    text = tmp_path/'text.txt'
    text.write_text('\n'.join(corpus.text['train'][:300]) + '\n', encoding='utf-8')
    words = ['train', 'masked', '--corpus', str(text), *TINY]
    assert main([*words, '--out', str(tmp_path/'plain')]) == 0
    monkeypatch.setattr(model_commands, 'tracked', lambda tracker, told: begin)
    assert main([*words, '--out', str(tmp_path/'kept')]) == 0 and Kept.steps == [3, 'end']
    assert (tmp_path/'kept/model.safetensors').read_bytes() == (tmp_path/'plain/model.safetensors').read_bytes()
    assert main([*words, '--out', str(tmp_path/'kept'), '--steps', '5']) == 0 and Kept.steps[2:] == [5, 'end']
    AcceleratorState._reset_state(True)

def test_transformers_says_what_to_import(folder):
    "Without `import textdiffusion` its message names it"
    code = 'import sys; from transformers import AutoModel; AutoModel.from_pretrained(sys.argv[1])'
    done = subprocess.run([sys.executable, '-c', code, folder], capture_output=True, text=True)
    assert 'ValueError' in done.stderr and 'import textdiffusion first' in done.stderr

# --- the folder ---

def weights(change):
    "A folder whose tensors are changed"
    def spoil(folder):
        found = load_file(folder/'model.safetensors')
        change(found)
        save_file(found, folder/'model.safetensors', metadata=dict(format='pt'))
    return spoil

def config(change):
    "A folder whose config is changed"
    def spoil(folder):
        fields = json.loads((folder/'config.json').read_text())
        change(fields)
        (folder/'config.json').write_text(json.dumps(fields))
    return spoil

def cut(name):
    "A folder in which a file lacks its second half"
    def spoil(folder): (folder/name).write_bytes((folder/name).read_bytes()[:(folder/name).stat().st_size//2])
    return spoil

def pickled(folder):
    (folder/'model.safetensors').unlink()
    torch.save({}, folder/'pytorch_model.bin')

def small_tokenizer(folder):
    list_tokenizer(['a', 'b']).save_pretrained(folder)

def maskless(folder):
    "A tokenizer without a mask, of a model whose mask is one of its tokens"
    config(lambda c: c.update(mask_id=7))(folder)
    fields = json.loads((folder/'tokenizer.json').read_text())
    fields['added_tokens'] = [t for t in fields['added_tokens'] if t['content'] != '[MASK]']
    (folder/'tokenizer.json').write_text(json.dumps(fields))
    about = json.loads((folder/'tokenizer_config.json').read_text())
    (folder/'tokenizer_config.json').write_text(json.dumps({k: v for k, v in about.items() if k != 'mask_token'}))

DAMAGE = {
    'missing tensor': (weights(lambda w: w.pop('table.weight')), 'lacks table.weight'),
    'renamed tensor': (weights(lambda w: w.update(tables=w.pop('table.weight'))), 'has the unknown tables'),
    'foreign tensor': (weights(lambda w: w.update(head=torch.zeros(3))), 'has the unknown head'),
    'shape': (weights(lambda w: w.update({'out.weight': w['out.weight'][:9].clone()})), 'out.weight has shape (9, 32)'),
    'nan': (weights(lambda w: w['out.weight'].fill_(torch.nan)), 'not finite'),
    'truncated weights': (cut('model.safetensors'), 'cut short or damaged'),
    'truncated config': (cut('config.json'), 'config.json is not JSON'),
    'truncated tokenizer': (cut('tokenizer.json'), 'tokenizer.json cannot be read'),
    'config without vocabulary': (config(lambda c: c.pop('vocab_size')), 'does not say vocab_size'),
    'config without window': (config(lambda c: c.pop('seq_len')), 'does not say seq_len'),
    'config of another model': (config(lambda c: c.update(model_type='bert')), "type 'bert'"),
    'width of another model': (config(lambda c: c.update(d_model=64)), 'weights and config are of two models'),
    'no heads': (config(lambda c: c.update(n_heads=0)), 'config.json is of no model: n_heads must be'),
    'a width in words': (config(lambda c: c.update(d_model='wide')), 'd_model must be a whole number'),
    'no window': (config(lambda c: c.update(seq_len=0)), 'seq_len must be'),
    'config is a list': (lambda f: (f/'config.json').write_text('[]'), 'of type None'),
    'no config': (lambda f: (f/'config.json').unlink(), 'has no config.json'),
    'no weights': (lambda f: (f/'model.safetensors').unlink(), 'has no model.safetensors'),
    'only a pickle': (pickled, 'a pickle, which can run anything, is never read'),
    'no tokenizer': (lambda f: (f/'tokenizer.json').unlink(), 'has no tokenizer.json'),
    'small tokenizer': (small_tokenizer, 'tokenizer.json has 6 tokens and the model 82'),
    'no mask token': (maskless, 'tokenizer.json has no mask token, and the model has its mask at id 7')}

@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_folder(name, folder, capsys):
    spoil, words = DAMAGE[name]
    spoil(folder)
    before = sorted(folder.iterdir())
    line = told(capsys, 'sample', folder)
    assert words in line and folder.name in line and sorted(folder.iterdir()) == before

def test_no_folder(tmp_path, capsys):
    assert 'neither a folder' in told(capsys, 'sample', tmp_path/'nowhere')
    assert 'neither a folder' in told(capsys, 'evaluate', 'no-such-model', '--corpus', 'restaurants')

def test_target(tmp_path, folder, corpus, capsys):
    "What is written to is new, empty or one's own; anything else is left as it was"
    mine = tmp_path/'mine'
    mine.mkdir(); (mine/'thesis.tex').write_text('years of work')
    train = lambda out, *more: told(capsys, 'train', 'masked', '--corpus', 'restaurants', '--out', out, *(more or TINY))
    assert 'holds something else' in train(mine) and [p.name for p in mine.iterdir()] == ['thesis.tex']
    assert 'is a file' in train(mine/'thesis.tex')
    for words, more in (('steps must be', '--steps 0'), ('multiple of 32', '--width 40'), ('lr must', '--lr -1')):
        assert words in train(tmp_path/'new', *more.split()) and not (tmp_path/'new').exists()
    assert 'unknown corpus' in told(capsys, 'train', 'masked', '--corpus', 'no such', '--out', tmp_path/'new')
    assert not (tmp_path/'new').exists()
    before = (folder/'model.safetensors').read_bytes()
    here = ['train', 'masked', '--corpus', 'restaurants', '--out', str(tmp_path/'a')]
    assert main([*here, *TINY]) == 0
    capsys.readouterr()
    line = train(tmp_path/'a', *TINY, '--seed', '1', '--layers', '2')
    assert 'seed was 0 and is now 1' in line and 'layers was 1 and is now 2' in line
    assert 'grow and not shrink' in train(tmp_path/'a', *TINY[2:], '--steps', '2')
    assert main([*here, *TINY[2:], '--steps', '5']) == 0 and load_model(tmp_path/'a')[0].config.trained_on['steps'] == 5
    assert before == (folder/'model.safetensors').read_bytes()
    capsys.readouterr()
    for torn in ('', '[]', '{"steps": "x"}'):
        (tmp_path/'a/training.json').write_text(torn)
        assert 'training.json is damaged' in train(tmp_path/'a')

def test_a_training_that_cannot_begin_is_refused_before_a_text_is_read(tmp_path, monkeypatch, capsys):
    (tmp_path/'a').mkdir()
    begun = dict(kind='masked', seed=3, steps=9, width=32, layers=1, batch_size=8, lr=6e-3)
    (tmp_path/'a/training.json').write_text(json.dumps(begun))
    monkeypatch.setattr(corpora, 'load_corpus', lambda *_, **__: pytest.fail('a text was read'))
    train = lambda out, *more: told(capsys, 'train', 'masked', '--corpus', 'restaurants', '--out', out, *TINY, *more)
    assert 'seed was 3 and is now 0' in train(tmp_path/'a')
    for more in ('--width 33', '--layers 100000', '--batch-size -1', '--lr nan', f'--seed {10**30}', '--lr 2'):
        assert 'must be' in train(tmp_path/'b', *more.split())
    assert [p.name for p in tmp_path.iterdir()] == ['a']

# --- use that does not fit ---

def test_wrong_use(folder, corpus, tmp_path, capsys):
    ours = save_model(new_model(corpus, 'vectors'), tmp_path/'vectors', corpus.tokenizer)
    twin = save_model(new_model(corpus, 'causal'), tmp_path/'twin', corpus.tokenizer)
    for words, args in {
            'exclude each other': [folder, '--prefix', 'the', '--infill', 'the [MASK]'],
            'at most 27 tokens fit': [folder, '--prefix', 'the '*40],
            'a text with gaps of 41': [folder, '--infill', 'the '*40 + '[MASK]'],
            "no token for 'zebra'": [folder, '--prefix', 'the zebra'],
            'temperature must be a number': [folder, '--temperature', '-1'],
            'steps must be': [folder, '--calls', '-1'], 'num_return_sequences': [folder, '-n', '0'],
            'temperature must be 1': [ours, '--temperature', '.5'], 'one call per token': [twin, '--calls', '3'],
            'cannot fill gaps': [twin, '--infill', 'the [MASK]'],
            'needs a text with [MASK]': [ours, '--infill', 'the']}.items():
        assert words in told(capsys, 'sample', *args), words

def test_wrong_text(corpus, tmp_path):
    "A model of running text and a file of sentences; a model that lacks most of the words"
    model, own = new_model(corpus), tmp_path/'own.txt'
    own.write_text('\n'.join(corpus.text['train'][:300]))
    where = lambda name: SimpleNamespace(corpus=name, data_dir=None, column=None)
    assert text_for(where('restaurants'), model, corpus.tokenizer).fingerprint == corpus.fingerprint
    assert text_for(where(str(own)), model, corpus.tokenizer).seq_len == corpus.seq_len
    with pytest.raises(ValueError, match='unknown'):
        text_for(where('restaurants'), model, list_tokenizer(corpus.grammar.words[:9]))
    model.config.running = True
    with pytest.raises(ValueError, match='was trained on running text and own is single sentences'):
        text_for(where(str(own)), model, corpus.tokenizer)

def test_wrong_schedule(corpus):
    "Where the config knows its schedule, another is refused; the right one, and self-conditioning, need no argument"
    model = new_model(corpus, 'vectors')
    with pytest.raises(ValueError, match='was trained with the schedule sqrt, noise factor 2'):
        sample(model, (1, 29, 8), sqrt, 2)
    g = lambda: torch.Generator().manual_seed(0)
    given, _ = sample(model, (1, 29, 8), rescale(sqrt, 2.), 3, self_condition=True, generator=g())
    assert torch.equal(given, sample(model, (1, 29, 8), rescale(sqrt, 2.), 3, generator=g())[0])
