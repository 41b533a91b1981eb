"""Every collapse that the sources report is a measured collapse in a pinned record, and the fix of the same or the next
entry removes it: per seed, not on average."""
from functools import partial

import pytest
from helpers import ROOT

from textdiffusion.records import find_record, pinned
from textdiffusion.statistics import values_by_seed

DEMO, WRITER = "BART's decoder, shown raw at the source's scale", "BART's decoder"

def of(record, table, column, **which):
    "A column of a record, one number per seed"
    found = values_by_seed(record[table], column, which)
    assert len(found) == len(record['seeds']) >= 3, (record['name'], column, which)
    return [found[s] for s in sorted(found)]

def headline(entry): return pinned(entry, root=ROOT)

def made_from(entry): return find_record(headline(entry)['made_from'], ROOT)

def real(record, column, table='rows'): return next(r[column] for r in record[table] if r['arm'] == 'real')

def test_garbage_at_a_high_cosine_is_the_scale_and_goes_with_it():
    "01: the source's demo; shown what it was trained on, the same model is right, and the cosine says nothing of it"
    right = partial(of, headline('01_bart_x0'), 'texts', 'right', arm='encoder', level=0)
    assert max(right(way=DEMO)) < .2 and min(right(way=WRITER)) > .9
    raw = dict(fed="raw, the source's scale", compared='word means')
    assert min(of(headline('01_bart_x0'), 'paradox', 'cosine', **raw)) > .85

def test_words_move_together_without_cross_entropy_and_stay_apart_with_it():
    "01b and 02: unlocked embeddings under distances alone; the cross-entropy on the prediction, through the table"
    free = partial(of, headline('01b_unlocked_embeddings'), 'rows', 'distance')
    tied = partial(of, made_from('02_weight_tying'), 'rows')
    assert max(free(arm='t0')) < .4 and max(tied('distance', arm='mse')) < .2
    # the source's first remedy, on the clean vectors, is none
    assert max(free(arm='t0-ce')) < .4
    assert min(tied('distance', arm='tied')) > .8
    assert min(tied('alike', arm='mse')) > .4 and max(tied('alike', arm='tied')) < .1

def test_fluent_text_that_ignores_its_input_is_the_decoders():
    "01c: from pure noise BART's decoder writes whole sentences that follow nothing; read by position there is no text"
    at = partial(of, headline('01c_whose_english'), 'rows', arm='encoder', level=1999)
    assert min(at('valid', way=WRITER)) > .9 and max(at('distinct', way=WRITER)) < .1 and max(at('follows',
                                                                                                 way=WRITER)) < .1
    assert max(at('valid', way='position by position')) < .1

def test_few_words_from_pure_noise_and_all_of_them_with_more_noise_in_training():
    "02: a tied model restores and cannot write; 03: the schedule that the width wants has the words of real text"
    tied, schedule = made_from('02_weight_tying'), headline('03_sqrt_schedule')
    assert min(of(tied, 'rows', 'right_500', arm='tied')) > .95
    assert max(of(tied, 'texts', 'unigram', arm='tied')) < real(tied, 'unigram', 'references') - 1.5
    words = of(schedule, 'rows', 'unigram', arm='rule-256', start='')
    assert max(abs(w - real(schedule, 'unigram')) for w in words) < .2
    rule, plain = (of(schedule, 'rows', 'valid', arm=arm, start='') for arm in ('rule-256', 'sqrt-256'))
    assert all(a > b for a, b in zip(rule, plain))

@pytest.mark.parametrize('arm', ['source', 'no-ce', 'no-ce, plain'])
def test_favourite_words_fill_the_text_without_cross_entropy_on_the_prediction(arm):
    "04: the source's system, and ours with that one term left out; with it the words have their own shares"
    rounding = headline('04_learned_rounding')
    usual, top = real(rounding, 'top'), partial(of, rounding, 'rows', 'top')
    assert min(top(arm=arm)) > 2*usual and max(top(arm='all')) < 1.5*usual

def test_low_losses_say_nothing_of_the_text():
    "04: the source's losses are low, its text is worthless; ours has the higher loss and the better text"
    states, rows = (partial(of, made_from('04_learned_rounding'), table) for table in ('states', 'rows'))
    assert max(states('clean_nats', arm='source')) < .1 and max(rows('valid', arm='source')) < .01
    own, look_up = states('eps_loss', arm='source'), states('look_up', arm='source')
    assert all(a > b for a, b in zip(own, look_up)) and min(rows('valid', arm='all')) > .3

def test_words_have_no_order_without_positions():
    "04: begins stand anywhere in the source's system, and in ours without positions; with them at the beginning"
    rows = partial(of, headline('04_learned_rounding'), 'rows')
    def gap(arm): return max(abs(a - b) for a, b in zip(rows('begin_first', arm=arm), rows('begin_anywhere', arm=arm)))
    assert gap('source') < .05 and gap('no-positions') < .05 and min(rows('begin_first', arm='all')) > .9
