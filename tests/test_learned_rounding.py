"Entry 04 as a reader runs it, its functions against known answers, and the numbers of its text"
import json
import re
from types import SimpleNamespace

import pytest
import torch

from helpers import (REAL_TEXT, ROOT, call, checkout_at, code_of, environment, failed_before_training, judging,
                     needs_real_text, outputs, refused_at_once, shifted)
from textdiffusion.corpora import load_corpus
from textdiffusion.oracles import bayes_denoiser
from textdiffusion.learned_rounding import (LADDER, PRESETS, Arm, Denoiser, LearnedEmbedding, LearnedRounding, TinyTransformer, arms_of, blind_loss, build, collapse, cosine_scores, ddpm,
    dot_scores, eps_loss, fit_rounding, guided_decode, l2_scores, lookup_denoiser, roundings_of, term_gradients)
from textdiffusion.objectives import decoder_nll, draw, eps_mse, objective, token_ce

NB = 'nbs/04_learned_rounding.ipynb'
SMALL = ['-p', 'preset', 'smoke']
CORPUS = load_corpus('restaurants')
V, L = CORPUS.vocab_size, CORPUS.seq_len
SIZES = SimpleNamespace(embed_dim=16, d_model=16, ffn=32, layers=1, heads=4, dropout=0., use_learned_embeddings=True, init_from_pretrained=False)

# functions ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('width, count', [(256, 3_945_728), (2048, 75_563_008)])
def test_the_network_has_the_size_of_the_source(width, count):
    with torch.device('meta'): assert sum(p.numel() for p in TinyTransformer(width).parameters()) == count

def test_table_and_rounding_have_the_size_of_the_source():
    with torch.device('meta'): assert sum(p.numel() for p in LearnedRounding(256, 256_000).parameters()) == 65_792_000 == 65_536_000 + 256_000

@pytest.mark.parametrize('how, ordered', [({}, False), (dict(embed_dim=16), False), (dict(positions=9), True)], ids=['source', 'layers in and out', 'positions'])
def test_only_positions_let_a_network_know_the_order(how, ordered):
    torch.manual_seed(0)
    net, x, t, p = TinyTransformer(16, 32, 2, **how).eval(), torch.randn(3, 9, 16), torch.full((3,), .3), torch.randperm(9)
    with torch.no_grad(): change = (net(x, t) - net(x[:, p], t)[:, p.argsort()]).abs().max()
    assert change > .1 if ordered else change < 1e-5

@pytest.mark.parametrize('spread, loss', [(.02, .006), (.1, .041), (.3, .115), (1., .276)])
def test_the_loss_of_knowing_nothing(spread, loss):
    assert abs(blind_loss(spread, ddpm) - loss) < .0006 and abs(blind_loss(torch.full((7,), spread), ddpm) - blind_loss(spread, ddpm)) < 1e-6

def test_the_schedule_of_the_source():
    assert abs(ddpm(torch.ones(1)).item() - 4.036e-5) < 1e-8 and abs(ddpm(torch.tensor([.001])).item() - .9999) < 1e-7

def test_knowing_more_costs_less():
    "Blind, look-up, optimal, all-knowing"
    torch.manual_seed(0)
    emb, ids = .3*torch.randn(V, 32), CORPUS.test[:32]
    losses = [blind_loss(emb[CORPUS.train].flatten(0, 1).std(0), ddpm)] + [eps_loss(f, emb, ids, ddpm) for f in (lookup_denoiser(emb, CORPUS.train, ddpm), bayes_denoiser(CORPUS, emb, ddpm), lambda x_t, t, _: (emb[ids], None))]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-9

def test_a_rounding_fits_random_vectors():
    torch.manual_seed(0)
    assert fit_rounding(LearnedRounding(256, V), LearnedEmbedding(V, 256)(), CORPUS.train[:500], 300, .3) < 1e-3

def test_the_three_plain_roundings_agree_on_a_sphere():
    torch.manual_seed(0)
    x, emb = torch.randn(50, 6), torch.nn.functional.normalize(torch.randn(9, 6), dim=-1)
    picks = [f(x, emb).argmax(-1) for f in (cosine_scores, l2_scores, dot_scores)]
    assert torch.equal(picks[0], picks[1]) and torch.equal(picks[1], picks[2])
    assert torch.equal(l2_scores(x, 3*emb).argmax(-1), torch.cdist(x, 3*emb).argmin(-1))

def test_clean_rounding_gives_the_network_no_gradient():
    torch.manual_seed(0)
    norms = lambda model, terms: {(r['term'], r['part']): r['norm'] for r in term_gradients(model, terms, draw(model, CORPUS.test[:4], ddpm, draw_t=lambda n, device: torch.full((n,), .1)))}
    rows = norms(build(Arm(), V, L, SIZES, None), {eps_mse: 1., decoder_nll: 1., token_ce: 1.})
    assert rows['decoder_nll', 'network'] == 0 == rows['eps_mse', 'rounding'] and min(rows['token_ce', part] for part in ('network', 'table', 'rounding')) > 0
    assert norms(build(Arm(frozen=True), V, L, SIZES, None), {eps_mse: 1.})['eps_mse', 'table'] == 0

def test_the_temperature_does_nothing():
    from textdiffusion.judges import new_teacher
    torch.manual_seed(0)
    lm, wish = new_teacher(CORPUS, 16, 1, 2).eval(), torch.randn(5, L, V)
    assert all(torch.equal(guided_decode(lm, wish, .3), guided_decode(lm, wish, .3, T)) for T in (.1, 10.))
    assert torch.equal(guided_decode(lm, wish, 1.), wish.argmax(-1)) and len(guided_decode(lm, wish, 0.).unique(dim=0)) == 1

def test_collapse_sees_one():
    one, real = collapse(torch.full((5, L), 9), CORPUS), collapse(CORPUS.test, CORPUS)
    assert one['top'] == 1 and one['kl'] > 2 and real['kl'] < .01 and real['begin_first'] == 1 and abs(real['begin_anywhere'] - 1/L) < 1e-6

def test_arms_differ_in_what_their_name_says():
    arms = arms_of()
    assert list(arms)[:8] == LADDER and set(arms) - {'noise'} == set(PRESETS['smoke']['arms'])
    for a, b in zip(LADDER, LADDER[1:]): assert sum(vars(arms[a])[k] != vars(arms[b])[k] for k in vars(arms[a])) == 1
    for k in ('positions', 'head', 'scale', 'ce'): assert [x for x in vars(arms['all']) if vars(arms['all'])[x] != vars(arms[f'no-{k}'])[x]] == [k]

def test_the_options_of_the_source():
    table = torch.randn(V, 16)
    own = lambda **how: build(Arm(), V, L, SimpleNamespace(**vars(SIZES) | how), table).table
    assert own().weight.std() < .03 and own().weight.requires_grad
    assert torch.equal(own(init_from_pretrained=True).weight, table) and own(init_from_pretrained=True).weight.requires_grad
    assert torch.equal(own(use_learned_embeddings=False).weight, table) and not own(use_learned_embeddings=False).weight.requires_grad
    assert own(init_from_pretrained=True, embed_dim=8).weight.shape == (V, 8)
    with pytest.raises(ValueError, match='rows'): LearnedEmbedding(V + 1, 16, table)

def test_the_true_noise_gives_the_true_vectors():
    torch.manual_seed(0)
    emb, eps, t = LearnedEmbedding(V, 16), torch.randn(4, L, 16), torch.tensor([.1, .4, .7, .9])
    model = Denoiser(emb, lambda x_t, t: eps, LearnedRounding(16, V))
    x0, ab = model.embed(CORPUS.test[:4]), ddpm(t)[:, None, None]
    assert (model(ab.sqrt()*x0 + (1-ab).sqrt()*eps, t)[0] - x0).abs().max() < 1e-3

def test_every_arm_trains_a_step():
    ids, table = CORPUS.test[:4], torch.randn(V, 16)
    for arm in arms_of().values():
        model = build(arm, V, L, SIZES, table)
        loss = objective(arm.terms(1.), **arm.how)(model, ids)['loss']
        loss.backward()
        assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.net.parameters())

def test_five_roundings_read_clean_vectors():
    torch.manual_seed(0)
    model = build(Arm(scale=True, x0=True), V, L, SIZES, None).eval()
    five, words = roundings_of(model, CORPUS.train[:200]), torch.arange(V)
    assert list(five) == ['learned', 'cosine', 'L2', 'dot', 'tied'] and all((five[k](model.emb.detach()).argmax(-1) == words).all() for k in ('cosine', 'L2', 'dot'))
    assert torch.equal(five['learned'](model.emb), model.head(model.emb)) and not five['tied'](model.emb).requires_grad

# the page as a reader runs it -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "The record and the page of the command under the preset smoke"
    copy = checkout_at(tmp_path_factory.mktemp('checkout'))
    done = call('textdiffusion', 'run', '04_learned_rounding', '--preset', 'smoke', cwd=copy, env=environment(PYTHONPATH=str(copy)))
    assert done.returncode == 0, done.stderr[-2000:]
    path, = copy.glob('.runs/04_learned_rounding-*/record.json')
    assert not list((copy/'journal').glob('04*'))                         # a smoke run is not published
    return json.loads(path.read_text(encoding='utf-8')), path.with_name('page.ipynb')

def test_the_command(smoke):
    record, page = smoke
    assert 'preset smoke · corpus restaurants (source: oracle)' in outputs(page)
    assert {r['arm'] for r in record['rows']} == {'shuffled', '3-gram', '5-gram', 'real', 'language model', 'source, as there', 'noise', 'no-ce, plain', 'all-weak, plain', *PRESETS['smoke']['arms']}
    assert next(r for r in record['rows'] if r['arm'] == 'real')['valid'] == 1 and all(r['temperature_changes_nothing'] for r in record['guided'] if r['alpha'] == .3)
    at_end = {(r['arm'], r['term'], r['part']): r['norm'] for r in record['gradients'] if r['when'] == 'end'}
    assert at_end['source', 'decoder_nll', 'network'] == 0 < at_end['all', 'token_ce', 'network']

@needs_real_text
def test_on_real_text(tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', *SMALL, '-p', 'corpus', 'tiny_shakespeare', '--no-progress-bar', env=environment(TEXTDIFFUSION_DATA=REAL_TEXT))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'teacher_nll' in outputs(tmp_path/'out.ipynb') and REAL_TEXT not in (tmp_path/'out.ipynb').read_text(encoding='utf-8')

BAD = [(['-p', 'step', '3'], ['step', 'steps']), (['--corpus', 'shakespeare'], ['tiny_shakespeare']), (['-p', 'arms', 'sauce'], ['source']), (['-p', 'arms', 'noise'], ['source']), (['-p', 'widths', '16,16'], ['widths', 'twice']), (['-p', 'samples', '0'], ['samples']),
       (['-p', 'embed_dim', '0'], ['embed_dim']), (['-p', 'rounding_weight', 'much'], ['rounding_weight']), (['-p', 'init_from_pretrained', 'yes'], ['init_from_pretrained', 'bool'])]

@pytest.mark.parametrize('args, words', BAD, ids=lambda x: x[-1])
def test_a_wrong_parameter_is_refused(args, words):
    refused_at_once(words, 'textdiffusion', 'run', '04_learned_rounding', *args)

@pytest.mark.parametrize('args, words', [(['-p', 'rounding_weight', '-1.'], ['rounding_weight', 'below 0']), (['-p', 'embed_dim', '30'], ['embed_dim', 'multiple']), (['-p', 'widths', '16,30'], ['widths', '30'])], ids=['weight', 'width', 'widths'])
def test_under_papermill_the_first_failing_cell_says_it(args, words, tmp_path):
    done = call('papermill', NB, tmp_path/'out.ipynb', *SMALL, *args, '--no-progress-bar')
    failed_before_training(done, tmp_path/'out.ipynb', words)

# what the page says ---------------------------------------------------------------------------------------------------

def space_of():
    "The functions of the page that turn a record into words"
    space = judging() | dict(LADDER=LADDER)
    exec(code_of(NB, 'worthy', 'on_changes', 'judge', 'about_losses', 'about_width', 'about_table', 'lessons', 'learned_against_cosine', 'claims_on_rounding', 'measured_claims',
                 until='found = measured'), space)
    return space

def text_of(record):
    "What the entry says of a record"
    space = space_of()
    return '\n'.join([b['measured'] for b in space['judge'](record)] + [space['lessons'](record)] + [v[0] for v in space['measured_claims'](record).values() if v])

def test_every_number_in_the_text_comes_from_a_record(smoke):
    "Change the record: hardly a measured number of the text stays as it was"
    record = smoke[0] | dict(preset='long')
    before, after = text_of(record), text_of(shifted(record, ('parameters', 'corpus_info', 'seed', 'alpha', 't', 'width', 'weight')))
    numbers = lambda text: re.findall(r'\d+\.\d+', text)
    kept = {'0.1', '0.3', '0.02'}     # bars and settings
    same = [a for a, b in zip(numbers(before), numbers(after)) if a == b and a not in kept]
    assert len(numbers(before)) > 60 and len(same) < .15*len(numbers(before)), same       # a rounded difference may stay by chance
    nb = json.loads((ROOT/NB).read_text(encoding='utf-8'))
    prose = ''.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown').split('## Results of this run')[1].split('## To see it again')[0]
    assert not set(re.findall(r'(?<![\w.])\d*\.\d+', prose)) - {'0.05', '0.95'}     # noise levels

def test_claims_are_measured_or_open(smoke):
    owned = {c['id'] for c in json.loads((ROOT/'journal/claims.json').read_text(encoding='utf-8')) if c['entry'] == '04_learned_rounding' and c['verdict'] == 'measured'}
    space = space_of()
    assert set(space['MEASURED']) == owned == set(space['measured_claims'](smoke[0]))

def test_a_record_with_few_arms_still_speaks(smoke):
    "The cpu preset's arms: what is missing is not judged, and its claims stay open"
    record = smoke[0] | dict(preset='cpu', parameters=smoke[0]['parameters'] | dict(arms=['source', 'all']))
    for k in ('rows', 'states', 'told', 'accuracy', 'reads', 'gradients', 'guided', 'history'):
        record[k] = [r for r in record[k] if r.get('arm', '').split(', plain')[0] not in set(PRESETS['smoke']['arms']) - {'source', 'all'}]
    space = space_of()
    out = {b['belief'][:20]: b['outcome'] for b in space['judge'](record)}
    assert len(out) == 9 and out['a tuned table is wit'] == 'not judged' and 'nan' not in space['lessons'](record)
    assert space['measured_claims'](record)['dlm-016'] is None and space['measured_claims'](record)['dlm-014'] is None
