"Entry 10f and its losses: where a teacher leads, jumps between two times, what a training costs"
from types import SimpleNamespace

import pytest
import torch

from helpers import refused_at_once
from textdiffusion.corpora import load_corpus
from textdiffusion.distilling import (FlowMap, follow, jumping, jumps, led_on, of_sizes, reach_the_text, stations,
                                      to_text, upwards)
from textdiffusion.good_teacher import (LANDINGS, LINES, PRESETS, STUDENTS, TRAINED, best_of, passes,
                                        paths_of, rows_of_10, teacher, times_of, ways, written)
from textdiffusion.lengths import lengths_of, trimmed
from textdiffusion.models import GaussianConfig, GaussianDenoiser
from textdiffusion.recipe import ARMS, network, sizes_of
from textdiffusion.recipes import NOISE
from textdiffusion.records import Run
from textdiffusion.sampling import ddim_step, spaced

CORPUS = load_corpus('restaurants')

def run_at(**changed):
    "A smoke run, changed here and there"
    run = Run(cfg=SimpleNamespace(**PRESETS['smoke'] | changed))
    run.__dict__.update(corpus=CORPUS, device=torch.device('cpu'))
    return run

RUN = run_at()

def small_denoiser(kind=GaussianDenoiser):
    torch.manual_seed(0)
    model = kind(GaussianConfig(vocab_size=5, emb_dim=4, d_model=16, n_layers=1, n_heads=2, self_condition=True))
    with torch.no_grad():
        for p in model.parameters(): p.add_(.3*torch.randn_like(p))
    return model.eval()

def test_a_teacher_goes_on_from_where_the_students_step_lands():
    teacher, x, guess = small_denoiser(), torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    seen = []
    def watched(x_t, t, x0_prev): seen.append((t[0].item(), x_t)); return teacher(x_t, t, x0_prev)
    with torch.no_grad(): text = led_on(watched, 8, NOISE, ddim_step)(x, .8, guess)
    times = torch.tensor([*(t for t, _ in seen), 0.], dtype=torch.float64)
    there = ddim_step(x, guess, *NOISE(torch.tensor([.8, .4], dtype=torch.float64)).tolist(), 0*x)
    assert len(seen) == 5 and times[0] == pytest.approx(.4) and times[-2] == pytest.approx(.0005)
    assert torch.equal(seen[0][1], there)
    assert torch.equal(text, follow(teacher, there, times, NOISE, ddim_step, True, guess)[2].argmax(-1))

def test_where_it_takes_over_at_once_it_goes_on_from_where_the_student_stands():
    teacher, x = small_denoiser(), torch.randn(5, 3, 4)
    with torch.no_grad(): here = led_on(teacher, 8, NOISE, ddim_step, 1.)(x, .5, torch.zeros_like(x))
    times = torch.cat([.5*upwards(5, .001).flip(0), torch.zeros(1)])
    assert torch.equal(here, to_text(teacher, x, times, NOISE, ddim_step))

def test_it_is_asked_less_where_less_is_open():
    counts = []
    def count(x_t, t, x0_prev): counts[-1] += 1; return torch.zeros_like(x_t), torch.zeros(*x_t.shape[:2], 5)
    for t in (1., .49, .25, .04, .0005, .0001):
        counts.append(0)
        led_on(count, 10, NOISE, ddim_step, 1.)(torch.zeros(1, 2, 3), t, torch.zeros(1, 2, 3))
    assert counts == [10, 7, 5, 2, 1, 1]

def test_a_path_can_be_walked_in_parts():
    teacher, x, times = small_denoiser(), torch.randn(5, 3, 4), spaced(6)
    whole = follow(teacher, x, times, NOISE, ddim_step, True)
    half, guess, _ = follow(teacher, x, times[:4], NOISE, ddim_step, True)
    rest = follow(teacher, half, times[3:], NOISE, ddim_step, True, guess)
    assert all(torch.equal(a, b) for a, b in zip(whole, rest))

def test_only_later_calls_are_led():
    asked = []
    class Says(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(5))
        def forward(self, x, t, x0_prev): return torch.ones_like(x), self.w.expand(*x.shape[:2], 5)
    def lead(x, t, guess): asked.append((t, guess.mean().item())); return torch.zeros(len(x), 3).long()
    loss = reach_the_text(torch.randn(4, 3, 2), torch.ones(4, 3).long(), [torch.tensor([1., .5, 0.])], NOISE, ddim_step,
                          lead)
    torch.manual_seed(0)
    for _ in range(40): loss(Says(), torch.zeros(2, 3))
    assert set(asked) == {(.5, 1.)} and 10 < len(asked) < 30

def test_lengths_are_drawn_as_often_as_there_are_texts():
    seen = []
    def note(model, ids): seen.append(ids.shape); return dict(loss=0)
    loss = of_sizes({3: note, 7: note}, {3: 300, 7: 100})
    torch.manual_seed(0)
    for _ in range(400): loss(None, torch.zeros(2, 9))
    assert set(seen) == {(2, 3), (2, 7)} and .68 < seen.count((2, 3))/400 < .82

def test_a_flow_map_that_was_never_told_a_second_time_is_its_teacher():
    teacher = small_denoiser()
    torch.manual_seed(1)
    flow, x = FlowMap(teacher.config), torch.randn(5, 3, 4)
    left = flow.load_state_dict(teacher.state_dict(), strict=False)
    assert not left.unexpected_keys and all(k.startswith('until') for k in left.missing_keys)
    assert torch.equal(to_text(jumping(flow, spaced(3)), x, spaced(3), NOISE, ddim_step),
                       to_text(teacher, x, spaced(3), NOISE, ddim_step))

def test_the_guess_of_a_jump_lands_at_the_next_station():
    states, texts = stations(small_denoiser(), torch.randn(6, 3, 4), spaced(5), NOISE, ddim_step, chunk=4)
    a, b = list(states)[1:3]
    said = []
    class Flow(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(1))
        def forward(self, x, t, x0_prev, s):
            said.append((x, x0_prev))
            return x*0 + self.w, torch.zeros(*x.shape[:2], 5)
    torch.manual_seed(0)
    loss = jumps(states, texts, [torch.tensor([1., a, 0.], dtype=torch.float64)], NOISE)
    for _ in range(20): loss(Flow(), torch.zeros(6, 3))
    ab = NOISE(torch.tensor([1., a], dtype=torch.float64)).tolist()
    for x, guess in said:
        if guess is not None: # from the noise of the same row one step with this guess is where it is asked
            row = (x[:, None] - states[a]).abs().sum((2, 3)).argmin(1)
            assert (ddim_step(states[1.][row], guess, *ab, 0*x) - x).abs().max() < 1e-4
    assert {guess is None for _, guess in said} == {True, False} and b < a

def test_a_flow_map_learns_where_its_teacher_goes():
    teacher, x = small_denoiser(), torch.randn(64, 3, 4, generator=torch.Generator().manual_seed(3))
    grid = torch.tensor([1., .3, 0.], dtype=torch.float64)
    states, texts = stations(teacher, x, torch.cat([spaced(8), grid]).unique().flip(0), NOISE, ddim_step)
    flow = FlowMap(teacher.config)
    flow.load_state_dict(teacher.state_dict(), strict=False)
    flow.table.requires_grad_(False)
    loss, opt = jumps(states, texts, [grid], NOISE), torch.optim.AdamW([p for p in flow.parameters()], 1e-2)
    def right(): return (to_text(jumping(flow, grid), x, grid, NOISE, ddim_step) == texts).double().mean()
    before = right()
    torch.manual_seed(0)
    for _ in range(250): opt.zero_grad(); loss(flow, torch.zeros(64, 3))['loss'].backward(); opt.step()
    assert right() > before + .1 or right() > .95

@pytest.mark.parametrize('arm', list(TRAINED))
@pytest.mark.parametrize('calls', [1, 2, 4, 8])
def test_networks_write_rows_of_the_corpus(arm, calls):
    torch.manual_seed(0)
    model = network(RUN, ARMS['sorted'])
    if arm == 'flow-map': model = FlowMap(model.config)
    times = times_of(arm, calls)
    assert len(times) == calls+1 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    one, two = (written(RUN, arm, model, calls, 5) for _ in range(2))
    assert one.shape == (6, CORPUS.seq_len) and torch.equal(one, two)
    assert (lengths_of(one, CORPUS.pad_id) <= sizes_of(RUN, 'sorted', 6, 5)).all()

def test_paths_begin_at_noise_and_end_at_what_the_teacher_writes():
    paths, base = paths_of(RUN, 0), teacher(RUN, 0).ema
    assert paths.calls == len(torch.cat([spaced(3), *ways('flow-map')]).unique()) - 1
    for size, texts in paths.texts.items():
        assert trimmed(texts, CORPUS.pad_id).shape[1] <= size and set(paths.states[size]) == {
            t for grid in LANDINGS.values() for t in grid if t}
        times = torch.cat([spaced(3), *ways('flow-map')]).unique().flip(0)
        assert torch.equal(to_text(base, paths.states[size][1.], times, NOISE, ddim_step), texts)

def test_what_a_training_costs():
    run = run_at(student_steps=100, pairs=1000, calls=[1, 2], lead_calls=10)
    assert passes(run, 'teacher', 20) == 0 and passes(run, 'longer', 20) == pytest.approx(6400*3.5/1e6)
    assert passes(run, 'flow-map', 20) == pytest.approx((6400*3 + 20_000)/1e6)
    assert passes(run, 'own-texts', 20) == pytest.approx((6400*4 + 20_000)/1e6)
    led = (1/2 + (6 + 4 + 1)/4)/2                                   # 10 roots of half the times, once at the end
    assert passes(run, 'led-on', 20) == pytest.approx((6400*(4 + led) + 20_000)/1e6)

def test_the_best_student_is_neither_a_teacher_nor_its_longer_training():
    rows = [dict(arm=a, setting='', calls=4, seed=0, valid=v) for a, v in (('teacher', .9), ('longer', .8))]
    rows += [dict(arm=a, setting='', calls=4, seed=0, valid=.2 + .1*i) for i, a in enumerate(STUDENTS)]
    assert best_of(dict(rows=rows), 'valid', 4).mean == pytest.approx(.4)

def test_every_arm_is_drawn():
    assert set(LINES) == set(PRESETS['long']['arms']) == set(TRAINED)

def test_what_10_published_of_chosen_places():
    rows = rows_of_10('restaurants')
    assert {r['setting'] for r in rows} == {'one doubt', 'pairs'} and all(r['calls'] < 5 for r in rows)
    assert rows_of_10('restaurants-large') == []

@pytest.mark.parametrize('wrong', [lambda: led_on(None, 0, NOISE, ddim_step), lambda: of_sizes({}, {}),
                                   lambda: of_sizes({3: len}, {4: 1})])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match='must'): wrong()

@pytest.mark.parametrize('name, value', [('student_steps', '0'), ('pairs', '-1'), ('arms', 'led-off')])
def test_a_wrong_parameter_is_refused(name, value):
    refused_at_once([value if name == 'arms' else name], 'run', '10f_good_teacher', '-p', name, value)
