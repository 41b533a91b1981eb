"A source and a target: what is given stays and costs nothing, in every kind of model; a table of one's own"
import math

import pytest
import torch

from textdiffusion.infilling import fill_vectors
from textdiffusion.models import load
from textdiffusion.objectives import diffusion_lm, draw, masked_draw, objective, stratified_t, token_ce, x0_mse
from textdiffusion.pairs import PairCorpus, load_pairs, read_back, slots_of, spoken, table_of
from textdiffusion.recipes import NOISE, RECIPES, asked_for, blocks, text_cost, train_model

LANGUAGE = load_pairs('restaurants')
KINDS = list(RECIPES)

@pytest.fixture
def table(tmp_path):
    path = tmp_path/'colours.csv'
    colours, things = 'red blue green grey black'.split(), ('door', 'wall')
    rows = [f'what is {c},{c} is the {thing}' for c in colours for thing in things]
    path.write_text('question,answer\n' + '\n'.join(rows) + '\n')
    return path

def own(table, **how): return load_pairs(table, ('question', 'answer'), **how)

# --- rows ---

def test_a_row_says_its_source_and_its_target():
    rows = LANGUAGE.batch(3, 16)
    for row, words in zip(rows, LANGUAGE.plain.words(LANGUAGE.targets(rows))):
        said = LANGUAGE.decode(LANGUAGE.canvases([spoken(table_of(LANGUAGE.plain.grammar, words))]))[0]
        assert LANGUAGE.decode(row[None])[0].startswith(said.split(' [MASK]')[0])

def test_the_second_begin_parts_the_two_and_more_of_them_change_nothing():
    bos, L = LANGUAGE.bos_id, LANGUAGE.seq_len
    row = torch.full((1, L), LANGUAGE.pad_id)
    row[0, :8] = torch.tensor([bos, 9, 10, bos, 11, bos, 12, LANGUAGE.eos_id])
    assert LANGUAGE.given(row)[0].tolist() == [True]*4 + [False]*(L-4)
    assert LANGUAGE.targets(row)[0, :5].tolist() == [bos, 11, bos, 12, LANGUAGE.eos_id]

def test_all_pairs_of_a_source_stay_in_one_split(table):
    corpus = own(table, held_out=.4)
    splits = [set(group) for group in corpus.groups.values()]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 5 and all(len(t) == 2 for g in corpus.groups.values()
                                                                         for t in g.values())

def test_a_table_is_said_and_read_back():
    table = slots_of('name[The Mill], food[Fast food], customer rating[5 out of 5], priceRange[£20-25]')
    assert read_back(spoken(table), ['name', 'food', 'customer rating', 'priceRange', 'area']) == table

# --- what is given costs nothing ---

@pytest.mark.parametrize('terms', [{token_ce: 1.}, {x0_mse: 1.}])
def test_a_continuous_loss_is_that_of_the_target(terms):
    torch.manual_seed(0)
    model = RECIPES['continuous'].model(LANGUAGE, **blocks(32, 1))
    rows = LANGUAGE.batch(0, 4)
    d = draw(model, rows, NOISE, stratified_t, keep=LANGUAGE.given)
    given = LANGUAGE.given(rows)
    assert torch.equal(d.x_t[given], d.x0[given]) and not torch.isclose(d.x_t, d.x0).all(-1)[~given].any()
    d.logits.retain_grad(), d.x0_hat.retain_grad()
    sum(term(model, d).sum() for term in terms).backward()
    reached = (d.logits if token_ce in terms else d.x0_hat).grad
    assert not reached[given].any() and reached[~given].any(-1).all()

def test_nothing_given_is_the_loss_as_before():
    model = RECIPES['continuous'].model(LANGUAGE, **blocks(32, 1))
    rows, found = LANGUAGE.batch(0, 4), []
    for how in ({}, dict(keep=torch.zeros(LANGUAGE.seq_len, dtype=torch.bool))):
        torch.manual_seed(1)
        found.append(objective({token_ce: 1.}, alpha_bar=NOISE, **how)(model, rows)['loss'].item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    with pytest.raises(ValueError, match='keep must be a tensor of booleans'):
        diffusion_lm(keep=torch.ones(3))(model, rows)

def test_a_masked_loss_hides_the_target_alone():
    d = masked_draw(lambda z, share: torch.zeros(*z.shape, LANGUAGE.vocab_size), rows := LANGUAGE.batch(0, 8),
                    LANGUAGE.mask_id, keep=LANGUAGE.given)
    assert d.masked.any() and not (d.masked & LANGUAGE.given(rows)).any()

@pytest.mark.parametrize('kind', KINDS)
def test_the_cost_of_a_text_is_that_of_its_target(kind):
    "A blind guess of an autoregressive model costs ln V a word of the target"
    torch.manual_seed(0)
    model = RECIPES[kind].model(LANGUAGE, **blocks(32, 1))
    if kind == 'continuous':
        from textdiffusion.generating import inform
        inform(model, LANGUAGE, NOISE)
    rows = LANGUAGE.test[:6]
    cost, tokens = text_cost(model, rows, LANGUAGE, draws=4), asked_for(rows, LANGUAGE).sum(1)
    assert cost.shape == (6,) and (tokens == (LANGUAGE.targets(rows) > 1).sum(1)).all()
    if kind == 'autoregressive': assert torch.allclose(cost, tokens.double()*math.log(LANGUAGE.vocab_size), rtol=.02)

# --- a table of one's own, from training to a text ---

@pytest.mark.parametrize('kind', KINDS)
def test_a_model_of_own_pairs_is_trained_saved_and_asked(kind, table, tmp_path):
    corpus = own(table)
    train_model(kind, corpus, tmp_path/'model', steps=3, batch_size=4, width=32, layers=1, held=2)
    model = load(tmp_path/'model')
    source = corpus.tokenizer('what is red')['input_ids']
    how = dict(steps=3) if kind == 'continuous' else {}
    ids = model.generate([[*source, corpus.bos_id]], num_return_sequences=3, seed=0, **how)
    assert ids.shape[0] == 3 and ids[:, :5].tolist() == [[corpus.bos_id, *source, corpus.bos_id]]*3
    again = model.generate([[corpus.bos_id, *source, corpus.bos_id]], num_return_sequences=3, seed=0, **how)
    assert torch.equal(ids, again)

def test_a_source_is_clean_in_every_call_of_a_saved_continuous_model(table, tmp_path):
    corpus, seen = own(table), []
    train_model('continuous', corpus, tmp_path/'model', steps=2, batch_size=4, width=32, layers=1, held=2)
    model = load(tmp_path/'model')
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0][:, :2].clone()))
    z = corpus.canvases(['what is red'])
    model.generate(z[:, :5], steps=4, seed=0)
    assert len(seen) == 4 and all(torch.equal(x, model.embed(z[:, :2])) for x in seen)
    again = fill_vectors(model, z, corpus.mask_id, NOISE, 4, torch.Generator().manual_seed(0))
    assert torch.equal(again[:, :5], z[:, :5])

# --- what is refused ---

@pytest.mark.parametrize('give, words', [
    (dict(columns=('question', 'reply')), ['reply', "'answer'"]), (dict(columns=('answer', 'answer')), ['columns']),
    (dict(columns=('question', 'answer'), seq_len=5), ['seq_len', 'source']),
    (dict(columns=('question', 'answer'), held_out=2.), ['held_out', '2.0']),
    (dict(columns=('question', 'answer'), data_dir='here'), ['data_dir'])])
def test_a_wrong_argument_is_one_sentence(table, give, words):
    with pytest.raises(ValueError) as error: load_pairs(table, **give)
    assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)

@pytest.mark.parametrize('text, words', [('a,b\nx,\n', 'line 2'), ('a,b\n', 'no rows'), ('a,b\nx,y\n', 'different'),
                                         ('a,b\n,y\n', 'has no a')])
def test_a_wrong_table_is_one_sentence(tmp_path, text, words):
    (path := tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match=words): load_pairs(path, ('a', 'b'))

def test_a_source_without_room_and_unknown_names_are_one_sentence():
    with pytest.raises(ValueError, match='leaves no room'): LANGUAGE.canvases(['name '*60])
    with pytest.raises(ValueError, match='choose from'): load_pairs('no such thing')
    with pytest.raises(ValueError, match='meaning representation'): slots_of('The Mill is a pub')
    assert isinstance(LANGUAGE.to('cpu'), PairCorpus)

def test_the_masked_recipe_never_hides_a_source():
    corpus, seen = LANGUAGE, []
    class Watcher(torch.nn.Module):
        def forward(self, z, t=None):
            seen.append(z)
            return torch.zeros(*z.shape, corpus.vocab_size, requires_grad=True)
    ids = corpus.train[:32]
    RECIPES['masked'].loss(corpus)(Watcher(), ids)
    given = corpus.given(ids)
    assert torch.equal(seen[0][given], ids[given]) and given.sum(1).min() > 2
    assert (seen[0][~given] == corpus.mask_id).any()
