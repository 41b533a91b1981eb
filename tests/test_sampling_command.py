"""`textdiffusion sample`: every option for every kind of model, rules by name, watching on a terminal and in a pipe,
and what is refused before the first call."""
import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import termios
import threading

import pytest
from helpers import ROOT, new_model, told

from textdiffusion.command import main
from textdiffusion.named_rules import RULES, rule_named, spelled
from textdiffusion.saved import load_model, save_model, texts_of
from textdiffusion.tokenizing import list_tokenizer

KINDS = ('masked', 'vectors', 'causal')
CALLS = dict(masked=['--calls', '6'], vectors=['--calls', '3'], causal=[])

@pytest.fixture(scope='module')
def folders(corpus, tmp_path_factory):
    "A saved model of each kind"
    home = tmp_path_factory.mktemp('models')
    return {kind: save_model(new_model(corpus, kind), home/kind, corpus.tokenizer) for kind in KINDS}

@pytest.fixture
def say(capsys):
    "What a command prints on stdout"
    def run(*words):
        capsys.readouterr()
        assert main(['sample', *map(str, words)]) == 0
        return capsys.readouterr().out
    return run

@pytest.mark.parametrize('kind', KINDS)
def test_every_option(kind, folders, say):
    where = [folders[kind], '-n', 2, *CALLS[kind]]
    told = json.loads(say(*where, '--seed', 3, '--json'))
    assert told['seed'] == 3 and len(told['texts']) == 2 and told['rule'] is None
    assert len(told['calls']) == 2 and all(0 < n <= dict(masked=6, vectors=3, causal=29)[kind] for n in told['calls'])
    assert say(*where, '--seed', 3).splitlines() == told['texts'] != say(*where, '--seed', 4).splitlines()
    assert all(line.startswith('the mill') for line in say(*where, '--prefix', 'the mill').splitlines())
    if kind == 'causal': return
    for line in say(*where, '--infill', 'the [MASK] is near [MASK]').splitlines():
        words = line.split()
        assert (words[0], words[2:4], len(words)) == ('the', ['is', 'near'], 5)

@pytest.mark.parametrize('name', RULES)
def test_every_rule_writes(name, folders, say):
    told = json.loads(say(folders['masked'], '-n', 1, '--calls', 5, '--rule', spelled(name), '--json'))
    assert told['rule'] == spelled(name) and len(told['texts']) == 1

def test_a_rule_is_what_is_used(folders, say):
    "The command writes what the same rule writes in Python"
    model, tokenizer = load_model(folders['masked'])
    ids = model.generate(num_return_sequences=2, seed=0, pick=rule_named('random_k=2'))
    said = say(folders['masked'], '-n', 2, '--rule', 'random_k=2')
    assert said.splitlines() == texts_of(ids, model.config, tokenizer) and said != say(folders['masked'], '-n', 2)

def test_calls_are_those_of_each_text(folders, say):
    "From the left, a call for every place up to the end, what is behind it is free; vectors are asked as often each"
    def told(kind, *words): return json.loads(say(folders[kind], '-n', 70, *words, '--json'))['calls']  # in two parts
    for kind, words in dict(masked=['--rule', 'left=1'], causal=[]).items():
        model, how = load_model(folders[kind])[0], dict(pick=rule_named('left=1')) if kind == 'masked' else {}
        ids, c = model.generate(num_return_sequences=70, seed=0, **how)[:, 1:], model.config
        over = (ids == c.eos_token_id) | (ids == c.pad_token_id)*(kind == 'masked')
        assert told(kind, *words) == ((over.cumsum(1) == 0).sum(1) + 1).clamp(max=28).tolist()
    assert told('vectors', '--calls', 3) == [3]*70

def test_evaluate_takes_a_rule_as_sample_does(folders, capsys):
    def measured(*words):
        capsys.readouterr()
        assert main(['evaluate', str(folders['masked']), '--corpus', 'restaurants', '-n', '8', '--json', *words]) == 0
        return json.loads(capsys.readouterr().out)
    plain, ruled = measured('--calls', '4'), measured('--calls', '4', '--rule', 'random_k=2')
    assert (plain['rule'], ruled['rule']) == (None, 'random_k=2') and plain['rows'][1] == ruled['rows'][1]
    assert plain['rows'][0] != ruled['rows'][0] == measured('--calls', '4', '--rule', 'random_k=2')['rows'][0]

@pytest.mark.parametrize('kind, options, words', [
    ('masked', ['--rule', 'best'], 'choose one of ancestral'), ('vectors', ['--rule', 'top_k=1'], 'is for masked'),
    ('causal', ['--calls', '3'], 'one call per token'), ('masked', ['--rule', 'top_k=0'], 'k must be a whole number')])
def test_evaluate_refuses_before_a_text_is_read(kind, options, words, folders, capsys):
    assert words in told(capsys, 'evaluate', folders[kind], '--corpus', 'no such text', *options)

@pytest.mark.parametrize('command', ['sample', 'evaluate'])
def test_help_lists_the_rules(command, capsys):
    with pytest.raises(SystemExit): main([command, '--help'])
    text = capsys.readouterr().out
    assert all(f'  {spelled(name)} ' in text for name in RULES)

def test_the_guide_lists_the_rules():
    "docs/sampling.md and the table of rules are the same"
    rows = re.findall(r'^\| `([a-z_]+(?:=[\d.]+)?)` \|', (ROOT/'docs/sampling.md').read_text(encoding='utf-8'), re.M)
    assert rows == list(map(spelled, RULES))

# --- watching ---

def terminal(monkeypatch, *words, wide=80, **env):
    "What a command writes on stderr where that is a terminal of 24 lines"
    above, below = pty.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack('HHHH', 24, wide, 0, 0))
    parts = []
    def read():
        with contextlib.suppress(OSError):                                       # the other end is closed
            while part := os.read(above, 65536): parts.append(part)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for name, value in (dict(TERM='xterm', NO_COLOR='') | env).items(): monkeypatch.setenv(name, value)
    with os.fdopen(below, 'w', encoding='utf-8') as stream:
        monkeypatch.setattr('sys.stderr', stream)
        assert main(['sample', *map(str, words)]) == 0
        monkeypatch.undo()
    reader.join(10)
    os.close(above)
    return b''.join(parts).decode()

@pytest.mark.parametrize('kind', KINDS)
def test_watching_rewrites_a_terminal(kind, folders, say, monkeypatch, capsys):
    plain = say(folders[kind], '-n', 2, *CALLS[kind])
    drawn = terminal(monkeypatch, folders[kind], '-n', 2, '--watch', *CALLS[kind])
    assert capsys.readouterr().out == plain                                      # who watches changes nothing
    frames = drawn.split('\x1b[3F\x1b[J')
    assert len(frames) > 3 and '█' in frames[0] and '█' not in frames[-1]
    assert 'step 0, 0 %' in frames[0] and '100 %' in frames[-1] and '\x1b[48;5;' in drawn and '\x1b[?25h' in frames[-1]

def test_watching_without_colour(folders, monkeypatch):
    drawn = terminal(monkeypatch, folders['masked'], '-n', 1, '--watch', '--calls', 2, NO_COLOR='1', wide=40)
    assert '\x1b[2F\x1b[J' in drawn and 'm█' not in drawn and '\x1b[48' not in drawn
    lines = re.sub(r'\x1b\[[?\d;]*[A-Za-z]', '', drawn).splitlines()
    assert 30 < max(map(len, lines)) < 40                                         # no line is broken in two

def test_more_texts_than_lines(folders, monkeypatch):
    drawn = terminal(monkeypatch, folders['masked'], '-n', 30, '--watch', '--calls', 2)
    assert '… and 10 more' in drawn and '\x1b[22F\x1b[J' in drawn

def test_watching_in_a_pipe(folders, capsys):
    assert main(['sample', str(folders['masked']), '-n', '1', '--watch', '--calls', '2', '--json']) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(json.loads(said.out)['texts']) == 1 and '\x1b' not in said.err and lines[0] == 'step 0, 0 %'
    assert [line.split(',')[0] for line in lines[::2]] == ['step 0', 'step 1', 'step 2'] and lines[1].count('█') == 28

def test_a_text_cannot_command_the_terminal(corpus, tmp_path, capsys, monkeypatch):
    "Words of a corpus that are escape sequences are shown; JSON keeps them as they are"
    tokens = list(corpus.tokenizer.get_vocab())
    words = [f'\x1b[{i}m\x9b' for i in range(len(tokens) - 5)]
    model = new_model(corpus)
    own = list_tokenizer(words, r'\S+')
    model.config.update(dict(vocab_size=len(own) - 1))
    model = type(model)(model.config)
    folder = save_model(model, tmp_path/'own', own)
    drawn = terminal(monkeypatch, folder, '-n', 1, '--watch', '--calls', 2, NO_COLOR='1')
    out = capsys.readouterr().out
    assert '\x1b' not in out and '\x9b' not in out + drawn and '␛[' in out and '␛[' in drawn
    assert main(['sample', str(folder), '-n', '1', '--calls', '2', '--json']) == 0
    out = capsys.readouterr().out
    assert '\x9b' not in out and '\x1b[' in json.loads(out)['texts'][0]

# --- what is refused ---

LONG, GAPS = 'the '*40, '[MASK] '*40
REFUSED = {
    'a prefix longer than the window': ('masked', ['--prefix', LONG], 'prefix of 40 tokens is longer than the window'),
    'the same, vectors': ('vectors', ['--prefix', LONG], 'a prefix of 40 tokens is longer than the window'),
    'the same, left to right': ('causal', ['--prefix', LONG], 'a prefix of 40 tokens is longer than the window'),
    'an infill without gaps': ('masked', ['--infill', 'the mill'], 'needs a text with [MASK]'),
    'a prefix with gaps': ('masked', ['--prefix', 'the [MASK]'], 'a whole text with [MASK] to --infill'),
    'more gaps than places': ('masked', ['--infill', GAPS], 'a text with gaps of 40 tokens is longer than the window'),
    'the same with vectors': ('vectors', ['--infill', GAPS], 'a text with gaps of 40 tokens is longer than the window'),
    'gaps, left to right': ('causal', ['--infill', 'the [MASK]'], 'cannot fill gaps'),
    'an unknown word': ('masked', ['--prefix', 'the zebra'], "no token for 'zebra'"),
    'an unknown rule': ('masked', ['--rule', 'best'], 'choose one of ancestral, scheduled, random_k=1'),
    'tau above 1': ('masked', ['--rule', 'threshold=1.5'], 'must lie in (0, 1]'),
    'tau of 0': ('masked', ['--rule', 'threshold=0'], 'must lie in (0, 1]'),
    'tau below 0': ('masked', ['--rule', 'klass=-1'], 'must lie in (0, 1]'),
    'tau that is no number': ('masked', ['--rule', 'drawn=nan'], 'above 0 and at most 1'),
    'k = 0': ('masked', ['--rule', 'top_k=0'], 'k must be a whole number of at least 1'),
    'k = 0, by chance': ('masked', ['--rule', 'random_k=0'], 'k must be a whole number of at least 1'),
    'half a place': ('masked', ['--rule', 'entropy=1.5'], 'k must be a whole number of at least 1'),
    'a budget below 0': ('masked', ['--rule', 'entropy_budget=-.1'], '0 nats or more'),
    'a rule without its number': ('masked', ['--rule', 'one_doubt'], 'needs a number, as in one_doubt=0.1'),
    'a number too many': ('masked', ['--rule', 'ancestral=1'], 'has no number'),
    'an empty rule': ('masked', ['--rule', ''], "unknown rule ''"),
    'a rule for vectors': ('vectors', ['--rule', 'top_k=1'], 'is for masked models'),
    'a rule, left to right': ('causal', ['--rule', 'top_k=1'], 'is for masked models'),
    'no call': ('masked', ['--calls', '0'], 'steps must be a whole number of at least 1'),
    'no call of vectors': ('vectors', ['--calls', '0'], 'steps must be a whole number of at least 1'),
    'calls, left to right': ('causal', ['--calls', '3'], 'one call per token'),
    'no text': ('masked', ['-n', '0'], 'num_return_sequences must be'),
    'a temperature of vectors': ('vectors', ['--temperature', '.5'], 'temperature must be 1'),
    'no temperature': ('causal', ['--temperature', '0'], 'temperature must be a number above 0')}

@pytest.mark.parametrize('name', REFUSED)
def test_refused_before_the_first_call(name, folders, capsys, monkeypatch):
    kind, options, words = REFUSED[name]
    def called(self, *args, **how): raise AssertionError('the model was called')
    monkeypatch.setattr(type(load_model(folders[kind])[0]), 'forward', called)
    assert words in told(capsys, 'sample', folders[kind], *options)

def test_no_mask_token_is_needed(folders, tmp_path, say, capsys):
    "Where a tokenizer has no mask token it is one past the vocabulary; a gap is written and shown all the same"
    folder = shutil.copytree(folders['masked'], tmp_path/'maskless')
    fields, about = [json.loads((folder/name).read_text()) for name in ('tokenizer.json', 'tokenizer_config.json')]
    fields['added_tokens'] = [t for t in fields['added_tokens'] if t['content'] != '[MASK]']
    (folder/'tokenizer.json').write_text(json.dumps(fields))
    (folder/'tokenizer_config.json').write_text(json.dumps({k: v for k, v in about.items() if k != 'mask_token'}))
    assert load_model(folder)[1].mask_token_id is None
    options = ['-n', '2', '--infill', 'the [MASK] is']
    assert say(folder, *options) == say(folders['masked'], *options)
    assert main(['sample', str(folder), *options, '--watch']) == 0
    assert '⟨ the █ is ⟩' in capsys.readouterr().err
