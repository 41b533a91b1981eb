"""`make bench` times the library against plain code and against an earlier commit of itself, in forks of one process
and turn by turn, and writes journal/bench/DATE.json and journal/bench/README.md; under ten minutes on one core."""
import importlib, json, math, multiprocessing, os, random, resource, statistics, subprocess, sys, tarfile, tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
FOLDER, PACKAGE, BEFORE = ROOT/'journal/bench', 'textdiffusion', 'textdiffusion_before'
COMMIT = '4f5a304'     # the build that every measurement is compared with
SECONDS = 15           # for each task, all sides together

class Sizes(NamedTuple):
    "How large the tasks are"
    batch: int = 64      # rows of a training step
    width: int = 128     # of the networks, and their layers and heads
    layers: int = 3
    heads: int = 4
    samples: int = 64    # texts that are written at once
    calls: int = 29      # of a masked network
    steps: int = 50      # of a continuous one
    rows: int = 512      # texts that are judged
    lines: int = 20_000  # of a text that is read

# --- two builds in one process ---

def renamed(package, folder, name=BEFORE):
    "A copy of a package under another name, with its imports and registered names changed, importable from `folder`"
    for path in package.rglob('*'):
        if not path.is_file() or '__pycache__' in path.parts: continue
        there = folder/name/path.relative_to(package)
        there.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding='utf-8')
        there.write_text(text.replace(PACKAGE, name) if path.suffix == '.py' else text, encoding='utf-8')
    if str(folder) not in sys.path: sys.path.insert(0, str(folder))

def unpacked(commit, folder):
    "The package as it was at a commit, below `folder`; a sentence where the history here does not go back so far"
    tar = subprocess.run(['git', '-C', ROOT, 'archive', commit, PACKAGE], capture_output=True)
    if tar.returncode: sys.exit(f'the history here has no commit {commit} to compare with: git fetch --unshallow')
    tarfile.open(fileobj=BytesIO(tar.stdout)).extractall(folder, filter='data')
    return folder/PACKAGE

@cache
def build(package):
    "A build's modules by name: build('textdiffusion')('training').fit"
    return cache(lambda module: importlib.import_module(f'{package}.{module}'))

# --- turn by turn ---

def serve(make, clock, end):
    "In a fork: make a function, then call it as often as is asked, and tell each time how many seconds it took"
    call = make()
    while end.recv():
        begun = clock()
        call()
        end.send(clock() - begun)

@contextmanager
def forks(makes, clock):
    """name -> a function that lets a fork of this process do its work once: what one leaves behind, garbage or settings
    of its memory, is no other one's"""
    fork, ends = multiprocessing.get_context('fork'), {}
    def ask(end):
        end.send(True)
        return end.recv()
    for name, make in makes.items():
        ends[name], theirs = fork.Pipe()
        fork.Process(target=serve, args=(make, clock, theirs), daemon=True).start()
        theirs.close()
    yield {name: partial(ask, end) for name, end in ends.items()}
    for end in ends.values(): end.send(False)

def turns(asks, rounds):
    "Seconds of each of several, one call a round; who is first alternates, so that a drift hits all alike"
    took, order = {name: [] for name in asks}, list(asks)
    for _ in range(rounds):
        for name in order: took[name].append(asks[name]())
        order.reverse()
    return took

def ratio(ours, other):
    "Median over rounds of our time by the other's, with its quartiles"
    low, middle, high = statistics.quantiles([a/b for a, b in zip(ours, other)], n=4)
    return dict(median=middle, low=low, high=high)

def measured(task, sizes, builds, seconds):
    "A row of the record: times and ratios of one task"
    builds = {name: package for name, package in builds.items() if not (task.new and name == 'before')}
    makes = {name: partial(task.ours, build(package), sizes) for name, package in builds.items()}
    with forks(makes | dict(plain=partial(task.plain, sizes)), task.clock) as asks:
        trial = turns(asks, 2)                                          # warms up, too
        each = sum(took[-1] for took in trial.values())
        took = turns(asks, max(4, min(200, int(seconds/each))))
    row = dict(task=task.name, rounds=len(took['now']), seconds={k: statistics.median(v) for k, v in took.items()})
    return row | {f'by {k}': ratio(took['now'], v) for k, v in took.items() if k != 'now'}

@dataclass
class Task:
    "Something that is timed"
    name: str
    ours: object           # (build, sizes) -> a function without arguments
    plain: object          # sizes -> such a function
    plainly: str           # what the plain one is, in words
    clock: object = time.process_time
    bar: tuple = ()        # what we want: ('plain', 1.1) is at most 1.1 times its time
    new: bool = False      # the earlier build has no such thing

# --- a training step ---

@cache
def language():
    "The oracle language on which everything is timed"
    return build(PACKAGE)('corpora').load_corpus('restaurants')

@cache
def batches(rows):
    "Ten batches of it"
    return [language().batch(step, rows) for step in range(10)]

def model_of(lib, kind, sizes, corpus):
    "A model of a build, with the same weights in every build"
    models, size = lib('models'), dict(d_model=sizes.width, n_layers=sizes.layers, n_heads=sizes.heads)
    torch.manual_seed(0)
    if kind == 'masked': return models.MaskedDenoiser(models.MaskedConfig(vocab_size=corpus.vocab_size, **size))
    return models.GaussianDenoiser(models.GaussianConfig(vocab_size=corpus.vocab_size, self_condition=True, **size))

def step_of(lib, sizes, kind, optimizer):
    "A training step as `fit` makes it: batch checked, loss, gradient, clipping, update, moving average"
    corpus, rows, training, turn = language(), batches(sizes.batch), lib('training'), count()
    model, processes = model_of(lib, kind, sizes, corpus).train(), lib('processes')
    averaged, opts = lib('optimizers').average_of(model), getattr(lib('optimizers'), optimizer)(model)
    loss = lib('objectives').masked_bound(corpus.mask_id) if kind == 'masked' else lib('objectives').diffusion_lm()
    loss, scaler = processes.prepare(model, loss, processes.OneProcess(torch.device('cpu')))
    def step():
        i = next(turn)
        training.reseed(0, i)
        ids = training.check_batch(rows[i % len(rows)], model, i, False)
        out = training.train_step(model, loss, ids, opts, 1., scaler=scaler)
        training.ema_update(averaged, model, i, .999)
        return out['loss']
    return step

class Plain(nn.Module):
    "PyTorch's own encoder, with a place for what it reads and scores for what it says"
    def __init__(self, sizes, read, vocab_size, L):
        super().__init__()
        layer = nn.TransformerEncoderLayer(sizes.width, sizes.heads, 4*sizes.width, 0., batch_first=True,
                                           norm_first=True)
        self.read, self.places = read, nn.Parameter(torch.randn(L, sizes.width)*.02)
        self.encoder = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.say = nn.Linear(sizes.width, vocab_size)

    def forward(self, x): return self.say(self.encoder(self.read(x) + self.places))

def plain_step(sizes, loss_of, read, more=()):
    "A training step in ten lines: loss, gradient, clipping, AdamW"
    corpus, rows = language(), batches(sizes.batch)
    model, turn = Plain(sizes, read, corpus.vocab_size, corpus.seq_len).train(), count()
    parameters = [*model.parameters(), *more]
    opt = torch.optim.AdamW(parameters, lr=1e-3)
    def step():
        loss = loss_of(model, rows[next(turn) % len(rows)])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.)
        opt.step()
        opt.zero_grad()
        return loss
    return step

def plain_masked(sizes):
    "Masked diffusion: hide a share t of the words, cross-entropy where they are hidden, weighted by 1/t"
    corpus = language()
    def loss(model, ids):
        t = torch.rand(len(ids), 1).clamp(min=1e-3)
        hidden = torch.rand(ids.shape) < t
        logits = model(ids.masked_fill(hidden, corpus.mask_id))
        return (F.cross_entropy(logits.transpose(1, 2), ids, reduction='none')*hidden/t).mean()
    return plain_step(sizes, loss, nn.Embedding(corpus.vocab_size + 1, sizes.width))

def plain_gaussian(sizes):
    "Continuous diffusion: blur the word vectors, squared error of the guess and cross-entropy of the words"
    corpus = language()
    table, back = nn.Embedding(corpus.vocab_size, 16), nn.Linear(sizes.width, 16)
    def loss(model, ids):
        x0, t = table(ids), torch.rand(len(ids), 1, 1)
        x_t = (1 - t.sqrt()).sqrt()*x0 + t.sqrt().sqrt()*torch.randn_like(x0)
        guess = back(model.encoder(model.read(x_t) + model.places))
        return (guess - x0).square().mean() + F.cross_entropy((x0 @ table.weight.T).transpose(1, 2), ids)
    return plain_step(sizes, loss, nn.Linear(16, sizes.width), [*table.parameters(), *back.parameters()])

# --- a sampling step ---

def sampler(lib, sizes, kind, how, model=None):
    "Texts from nothing, by a rule of the build; the model is not trained, and all scores differ"
    corpus = language()
    model = model or speaker(lib, sizes, kind)
    made = partial(torch.Generator().manual_seed, 0)
    if kind == 'masked':
        z = torch.full((sizes.samples, corpus.seq_len), corpus.mask_id)
        return lambda: lib('unmasking').unmask(model, z, sizes.calls, corpus.mask_id, generator=made(), **how(lib))[0]
    shape = sizes.samples, corpus.seq_len, 16
    table = speaker(lib, sizes, kind).emb
    return lambda: lib('sampling').sample(model, shape, lib('schedules').sqrt, sizes.steps, generator=made(),
                                          self_condition=True, **how(lib, table))[0]

@cache
def speaker(lib, sizes, kind):
    "A model whose scores differ from word to word"
    model = model_of(lib, kind, sizes, language()).eval().requires_grad_(False)
    if kind == 'masked': model.out.weight.normal_(std=.1)
    return model

def heard(sizes, kind):
    "The network, and a list that what it is asked goes into, call by call"
    model, asked = speaker(build(PACKAGE), sizes, kind), []
    if kind == 'masked':
        def listening(z, share): asked.append((z, share)); return model(z, share)
    else:
        def listening(x_t, t, x0_prev): asked.append((x_t, t, x0_prev)); return model(x_t, t, x0_prev)
    return listening, asked

def answers(model, asked):
    "The network alone, on the same questions"
    @torch.no_grad()
    def calls():
        for question in asked: model(*question)
    return calls

def questions(sizes, kind, how):
    "What a sampler asks its network, call by call"
    listening, asked = heard(sizes, kind)
    sampler(build(PACKAGE), sizes, kind, how, listening)()
    return asked

def bare_calls(sizes, kind, how):
    "The network alone, on what a sampler asks it"
    return answers(speaker(build(PACKAGE), sizes, kind), questions(sizes, kind, how))

def rounding(lib, emb): return dict(round_fn=lib('sampling').clamp(emb))
def no_rounding(lib, emb): return {}
def solver(lib, emb): return dict(step=lib('sampling').dpm_step)
def at_random(lib): return {}
def surest(lib): return dict(pick=lib('unmasking').top_k(1))

# --- a guided step ---

@cache
def steered(sizes):
    "A model, and the cost of wishes for parts of speech, one a text, by a reader that is not trained"
    lib, corpus, model = build(PACKAGE), language(), speaker(build(PACKAGE), sizes, 'gaussian')
    torch.manual_seed(0)
    reader = lib('noisy_readers').Reader(model.emb, lib('noisy_readers').kinds_of(corpus.grammar), sizes.width//2,
                                         n_heads=sizes.heads).eval().requires_grad_(False)
    targets = lib('targets').draw_targets(corpus.grammar, 'tags', sizes.samples, 0)
    return model, lib('noisy_readers').wish_loss(reader, targets, corpus.seq_len)

def guided(lib, sizes, way, model=None, loss=None):
    "Texts that are steered"
    voice, wish = steered(sizes)
    shape = sizes.samples, language().seq_len, 16
    return lambda: lib('sampling').sample(model or voice, shape, lib('schedules').sqrt, sizes.steps,
                                          guide=way(lib, loss or wish), self_condition=True,
                                          generator=torch.Generator().manual_seed(0))[0]

def told(lib, sizes, model=None):
    "Masked texts behind a wish of one token, by a network that is asked with it and without it (D-CFG)"
    corpus = language()
    both = lib('guidance').classifier_free(model or speaker(lib, sizes, 'masked'), 1, corpus.pad_id, 2.)
    z = torch.full((sizes.samples, 1 + corpus.seq_len), corpus.mask_id)
    z[:, 0] = corpus.bos_id
    return lambda: lib('unmasking').unmask(both, z, sizes.calls, corpus.mask_id,
                                           generator=torch.Generator().manual_seed(0))[0]

def bare_told(sizes):
    "The network alone, on both questions of every call"
    model, (listening, asked) = speaker(build(PACKAGE), sizes, 'masked'), heard(sizes, 'masked')
    told(build(PACKAGE), sizes, listening)()
    return answers(model, asked)

def bare_passes(sizes, way):
    "The passes of both networks alone: the denoiser on what it was asked, the wish's cost and its gradient"
    model, loss = steered(sizes)
    wished, (listening, asked) = [], heard(sizes, 'gaussian')
    def costing(x, t): wished.append((x.detach().clone(), t)); return loss(x, t)
    guided(build(PACKAGE), sizes, way, listening, costing)()
    forward = answers(model, asked)
    def passes():
        forward()
        for x, t in wished: torch.autograd.grad(loss(x.requires_grad_(), t).sum(), x)
    return passes

def sign_steps(lib, loss): return lib('guiding').by_steps(loss)
def one_score(lib, loss): return lib('guiding').by_score(loss)

# --- the evaluator ---

@cache
def written(rows):
    "Texts of an oracle language, every fourth with its words in disorder, and the corpus that judges them"
    corpus = language()
    ids = corpus.fresh(rows, torch.Generator().manual_seed(1))
    ids[::4] = build(PACKAGE)('scoring').shuffle_words(ids[::4], corpus)
    return ids, corpus

def evaluator(lib, sizes):
    "One row of a table for a set of texts"
    ids, corpus = written(sizes.rows)[0], lib('corpora').load_corpus('restaurants')
    return lambda: lib('scoring').evaluate(ids, corpus, n=sizes.rows)

def sentences(ids, corpus):
    "The words of each row, as tuples of ids, row by row"
    rows = ids.tolist()
    return [tuple(row[1:row.index(corpus.eos_id)]) if corpus.eos_id in row else tuple(row[1:]) for row in rows]

def grams(row, k): return [row[i:i+k] for i in range(len(row) - k + 1)]

def plain_row(ids, corpus, rules):
    "The numbers of an evaluation in plain Python: sets of runs of words, a search through the rules for each sentence"
    from sacrebleu.metrics import BLEU
    rows, known, bleu = sentences(ids, corpus), sentences(corpus.train, corpus), BLEU(tokenize='none',
                                                                                      effective_order=True)
    counts = Counter(w for row in rows for w in row)
    found = {f'distinct_{k}': [g for row in rows for g in grams(row, k)] for k in (1, 2, 3)}
    total = sum(counts.values())
    runs = [{g for row in known for g in grams(row, k)} for k in range(corpus.seq_len)]
    def copied(row): return max(k for k in range(len(row) + 1) if k == 0 or any(g in runs[k] for g in grams(row, k)))
    texts = [' '.join(map(str, row)) for row in random.Random(0).sample(rows, min(64, len(rows)))]
    said = corpus.tokenizer.convert_ids_to_tokens
    p = [chance(rules, ('Text',), said(list(row))) for row in rows]
    valid, known = [row for row, x in zip(rows, p) if x], set(known)
    return {k: len(set(v))/len(v) for k, v in found.items()} | dict(
        unigram=sum(c/total*math.log(total/c) for c in counts.values()), distinct=len(set(rows))/len(rows),
        length=total/len(rows), copy=statistics.mean(map(copied, rows)), valid=len(valid)/len(rows),
        self_bleu=statistics.mean(bleu.sentence_score(t, texts[:i] + texts[i+1:]).score for i, t in enumerate(texts)),
        nll=statistics.mean(-math.log(x) for x in p if x), new=statistics.mean(row not in known for row in valid))

def plain_evaluator(sizes):
    ids, corpus = written(sizes.rows)
    return lambda: plain_row(ids, corpus, rules_of(corpus.grammar))

# --- the grammar ---

def rules_of(grammar):
    "symbol -> [(probability, right-hand side), …]; terminals are word/TAG"
    return build(PACKAGE)('rules').spell_out(grammar.rules, grammar.book.source)

def chance(rules, stack, words):
    "Probability of a sentence: every alternative of the first symbol is tried, word by word"
    if not stack: return float(not words)
    first, rest = stack[0], stack[1:]
    if '/' not in first: return sum(p*chance(rules, rhs + rest, words) for p, rhs in rules[first])
    return chance(rules, rest, words[1:]) if words and words[0] == first.rpartition('/')[0] else 0.

def spoken(rules, symbol, rng):
    "A sentence: every symbol is rewritten by an alternative that is drawn"
    if '/' in symbol: return [symbol.rpartition('/')[0]]
    weights, sides = zip(*rules[symbol])
    return [word for s in rng.choices(sides, weights)[0] for word in spoken(rules, s, rng)]

def drawing(lib, sizes):
    grammar = lib('grammar').load_grammar('restaurants')
    return lambda: grammar.sample(4*sizes.rows)

def plain_drawing(sizes):
    rules, rng = rules_of(language().grammar), random.Random(0)
    return lambda: [spoken(rules, 'Text', rng) for _ in range(4*sizes.rows)]

def pricing(lib, sizes):
    grammar, said = lib('grammar').load_grammar('restaurants'), language().grammar.sample(sizes.rows)
    return lambda: [grammar.log_prob(words) for words in said]

def plain_pricing(sizes):
    grammar = language().grammar
    rules, said = rules_of(grammar), grammar.sample(sizes.rows)
    return lambda: [math.log(chance(rules, ('Text',), words)) for words in said]

# --- data ---

_KEPT = tempfile.TemporaryDirectory(prefix='bench-')

@cache
def text_file(lines):
    "A text of one sentence a line, and the folder in which builds may keep what they made of it"
    folder = Path(_KEPT.name)
    texts = map(' '.join, language().grammar.sample(lines))
    (folder/'own.txt').write_text('\n'.join(texts), encoding='utf-8')
    return folder/'own.txt'

def reading(lib, sizes, again):
    "A text of one's own as a corpus; `again`: it was read before, and kept"
    path = text_file(sizes.lines)
    kept = path.parent/lib('corpora').__name__
    def read():
        os.environ['TEXTDIFFUSION_CACHE'] = str(kept if again else tempfile.mkdtemp(dir=path.parent))
        return lib('corpora').load_corpus(path)
    return read

def plain_reading(sizes):
    "Split at spaces, number the words that stand there twice, fill up to a length"
    path = text_file(sizes.lines)
    def read():
        rows = [line.split() for line in path.read_text(encoding='utf-8').splitlines()]
        seen = Counter(w for row in rows for w in row)
        index = {w: i for i, w in enumerate([w for w, n in seen.items() if n > 1], 4)}
        L = max(map(len, rows)) + 2
        return torch.tensor([([1, *(index.get(w, 3) for w in row), 2] + [0]*L)[:L] for row in rows])
    return read

def batching(lib, sizes):
    corpus, turn = lib('corpora').load_corpus('restaurants'), count()
    return lambda: corpus.batch(next(turn), sizes.batch)

def plain_batching(sizes):
    corpus = language()
    rules, index, rng = rules_of(corpus.grammar), corpus.tokenizer.get_vocab(), random.Random(0)
    def batch():
        rows = [[corpus.bos_id, *map(index.get, spoken(rules, 'Text', rng)), corpus.eos_id] for _ in range(sizes.batch)]
        return torch.tensor([row + [corpus.pad_id]*(corpus.seq_len - len(row)) for row in rows])
    return batch

# --- the command ---

def of_children():
    "Processor seconds of the processes that have ended"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

def command(lib, sizes, word):
    "The command in a process of its own; both builds list the journal of this checkout"
    package = lib('command').__package__
    code = f'import sys; from {package}.command import main; sys.exit(main([{word!r}], {str(ROOT)!r}))'
    env = dict(os.environ, PYTHONPATH=str(Path(sys.modules[package].__file__).parents[1]))
    return lambda: subprocess.run([sys.executable, '-c', code], env=env, check=True, stdout=subprocess.DEVNULL)

def bare_python(sizes):
    return lambda: subprocess.run([sys.executable, '-c', 'pass'], check=True)

# --- all of it ---

ENCODER = "PyTorch's TransformerEncoder of the same size, the loss by hand, AdamW"
ALONE = 'the network alone, on what the sampler asked it'
PASSES = 'the passes of network and reader alone, forward and back, on what they were asked'
TASKS = [
    Task('training step, masked, Muon and AdamW', partial(step_of, kind='masked', optimizer='muon_adamw'),
         plain_masked, ENCODER),
    Task('training step, masked, AdamW', partial(step_of, kind='masked', optimizer='adamw'), plain_masked, ENCODER),
    Task('training step, continuous, AdamW', partial(step_of, kind='gaussian', optimizer='adamw'), plain_gaussian,
         ENCODER),
    *(Task(f'sampling, masked, {said}', partial(sampler, kind='masked', how=how),
           partial(bare_calls, kind='masked', how=how), ALONE, bar=('plain', 1.1))
      for said, how in {'places at random': at_random, 'the surest place first': surest}.items()),
    *(Task(f'sampling, continuous, {said}', partial(sampler, kind='gaussian', how=how),
           partial(bare_calls, kind='gaussian', how=how), ALONE, bar=('plain', 1.1))
      for said, how in {'ancestral': no_rounding, 'rounded at each call': rounding, 'DPM-Solver++': solver}.items()),
    Task('guided sampling, masked, told and untold', told, bare_told, ALONE, bar=('plain', 1.15), new=True),
    *(Task(f'guided sampling, continuous, {said}', partial(guided, way=way), partial(bare_passes, way=way), PASSES,
           bar=('plain', 1.15), new=True)
      for said, way in {'three steps a draw': sign_steps, 'a score a draw': one_score}.items()),
    Task('evaluator, a row of a table', evaluator, plain_evaluator, 'sets of runs of words and loops in Python'),
    Task('grammar, to draw sentences', drawing, plain_drawing, 'rules rewritten at random, in Python'),
    Task('grammar, to price sentences', pricing, plain_pricing, 'every alternative tried, in Python'),
    Task('data, to read a text', partial(reading, again=False), plain_reading, 'split, count, number, fill, in Python'),
    Task('data, to read it again', partial(reading, again=True), plain_reading, 'the same, which keeps nothing'),
    Task('data, a fresh batch', batching, plain_batching, 'the grammar in Python, a dictionary'),
    Task('textdiffusion --help', partial(command, word='--help'), bare_python, 'Python itself',
         of_children, ('before', 1/3)),
    Task('textdiffusion list', partial(command, word='list'), bare_python, 'Python itself',
         of_children, ('before', 1/3)),
]

# --- record and page ---

def bench(builds, sizes=Sizes(), seconds=SECONDS, tasks=TASKS):
    "The rows of a record, printed as they come"
    rows, _ = [], text_file(sizes.lines)                                # before the forks
    for task in tasks:
        rows.append(row := measured(task, sizes, builds, seconds))
        print(f'{row["task"]:45}', *(f'{k} {said(v)}' for k, v in row.items() if k.startswith('by ')), flush=True)
    return rows

def record_of(rows, sizes):
    "What was measured, on what and when"
    from textdiffusion.records import commit_of, device_name
    return dict(date=date.today().isoformat(), commit=commit_of(ROOT), before=COMMIT, device=device_name(), threads=1,
                versions=dict(python='{}.{}.{}'.format(*sys.version_info), torch=torch.__version__),
                sizes=sizes._asdict(), rows=rows)

def publish(record, folder=FOLDER):
    "Put a record into the journal under a name of its own, and write the page anew"
    from textdiffusion.whole_files import create_whole
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(record), indent=1) + '\n'
    names = (folder/f"{record['date']}{n}.json" for n in chain([''], count(-2, -1)))
    path = next(path for path in names if create_whole(path, text))
    (folder/'README.md').write_text(page(folder), encoding='utf-8')
    return path

def rounded(value):
    "Numbers with four digits that count"
    if isinstance(value, dict): return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list): return [rounded(v) for v in value]
    return float(f'{value:.4g}') if isinstance(value, float) else value

def said(r): return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"

def met(row, bar):
    "What we want of a ratio, and whether it is so"
    side, most = bar
    return f"{side}: {most:.2f}, {'met' if row[f'by {side}']['median'] <= most else '**missed**'}"

HEAD = '''# What it costs

Made by `make bench`; not edited by hand. Each task is done by the library as it is now, by the library as it was at
commit {before}, and by plain code that does the same: each in a fork of one process, on one thread, one call each in
turn. A ratio is our time by the other's: below 1 we are faster. It is the median over the rounds; between the brackets
lies the middle half of them. Times are processor time, of a call.

{date}, commit {commit}, {device}, Python {python}, PyTorch {torch}. {sizes}.
'''

def page(folder):
    "The newest record as a table, and links to the others"
    found = sorted(folder.glob('*.json'), key=lambda p: (p.stem[:10], int(p.stem[11:] or 1)))
    record = json.loads(found[-1].read_text(encoding='utf-8'))
    bars, plainly = {t.name: t.bar for t in TASKS if t.bar}, {t.name: t.plainly for t in TASKS}
    sizes = ', '.join(f'{k} {v:,}' for k, v in record['sizes'].items())
    lines = [HEAD.format(**{k: record[k] for k in ('before', 'date', 'device')}, commit=record['commit'][:7],
                         **record['versions'], sizes=f'Sizes: {sizes}')]
    lines += ['| task | ms | by the build before | by plain code | wanted, at most | plain code is |',
              '| --- | ---: | ---: | ---: | --- | --- |']
    for row in record['rows']:
        name = row['task']
        ms = 1000*row['seconds']['now']
        ratios = [said(row[f'by {side}']) if f'by {side}' in row else '' for side in ('before', 'plain')]
        cells = [name, f'{ms:,.0f}' if ms >= 100 else f'{ms:.3g}', *ratios,
                 met(row, bars[name]) if name in bars else '', plainly.get(name, '')]
        lines.append(f"| {' | '.join(cells)} |")
    return '\n'.join([*lines, '', 'Records: ' + ', '.join(f'[{p.stem}]({p.name})' for p in found) + '.', ''])

def main():
    "Time everything and publish it"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        renamed(unpacked(COMMIT, Path(folder)/'archive'), Path(folder))
        rows = bench(dict(now=PACKAGE, before=BEFORE))
    print('Published', publish(record_of(rows, Sizes())).relative_to(ROOT))

if __name__ == '__main__': main()
