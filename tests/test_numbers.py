"""Where a record says something else, the sentences of its page do: every measured number in them moves. (Entries 03 to 06 have tests of their own.)"""
import math
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, code_of, judging, shifted
from textdiffusion import bart_x0, pretrained_masks, report_causes, weight_tying
from textdiffusion.journal import pinned

FIXED = {'parameters', 'corpus_info', 'seed', 'level', 'stage', 't', 'scale', 'per_step', 'steps_planned', 'from_start', 'beliefs'}
REPORT = dict(step_0=dict(loss=1.77, mse=1.02), step_1000=dict(mse_q0=.164, mse_q1=.393, mse_q2=.640, mse_q3=.842))       # the report's table, as the page has it
GRID = sorted({r['t'] for r in pinned('06c_pretrained_masks', root=ROOT)['curves']})

def page(name, module, cells, **more):
    "The functions of an entry that judge and speak; `cells` says with which line what is not a function begins: line -> functions of the cells"
    space = judging() | vars(module) | dict(math=math, np=np, pd=pd, partial=partial, re=re) | more
    for until, functions in cells.items(): exec(code_of(f'nbs/{name}.ipynb', *functions, until=until), space)
    return space

def said_by_01(rec):
    cells = {'display(': ['paradox', 'off_diagonal', 'beliefs_a', 'beliefs_b', 'why_garbage', 'the_paradox', 'on_scale', 'on_english'],
             'value = ': ['judge_beliefs'], 'for rec in ': ['lessons'], 'known = ': ['measured']}
    s = page('01_bart_x0', bart_x0, cells)
    return [b['measured'] for b in s['judge_beliefs'](rec)] + [s['lessons'](rec)] + [v[0] for v in s['measured'](rec).values()]

def said_by_02(rec):
    s = page('02_weight_tying', weight_tying, {'display(': ['num', 'on_reconstruction', 'on_text', 'judge_beliefs', 'in_short', 'about_curve', 'on_stages'], 'for rec in ': ['lessons'], 'known = ': ['measured']})
    return [b['measured'] for b in s['judge_beliefs'](rec)] + [s['lessons'](rec)] + [v[0] for v in s['measured'](rec).values()]

def said_by_05b(rec):
    cells = {'fixed = ': ['moments_of'], 'found = ': ['said'], 'display(': ['effect', 'on_first_step', 'on_training', 'on_text_and_judge', 'cut_short'],
             'named = ': ['judge_beliefs'], 'if set(ARMS)': ['lessons']}
    s = page('05b_report_causes', report_causes, cells, REPORT=REPORT)
    return [b['measured'] for b in s['judge_beliefs'](rec)] + [s['lessons'](rec)]

def said_by_06c(rec):
    s = page('06c_pretrained_masks', pretrained_masks, {'display(': ['gap', 'on_pretraining_and_levels', 'on_time_and_texts', 'judge_beliefs', 'about_pretraining', 'about_noise'], 'for rec in ': ['lessons'], 'known = ': ['measured']}, GRID=GRID)
    return [b['measured'] for b in s['judge_beliefs'](rec)] + [s['lessons'](rec)] + [v[0] for v in s['measured'](rec).values()]

ARITHMETIC = ('e^0.656', 'e^1.85')      # of the report's own numbers

@pytest.mark.parametrize('name, said, least', [('01_bart_x0', said_by_01, 30), ('02_weight_tying', said_by_02, 20), ('05b_report_causes', said_by_05b, 15), ('06c_pretrained_masks', said_by_06c, 20)])
def test_every_sentence_with_a_number_follows_the_record(name, said, least):
    rec = pinned(name, root=ROOT)
    def sentences(rec): return {line for text in said(rec) for line in str(text).split('\n') if re.search(r'\d+\.\d+|\d %|\d%', line) and 'We were wrong' not in line and not line.startswith(ARITHMETIC)}
    before, after = sentences(rec), sentences(shifted(rec, FIXED))
    assert len(before) >= least and not before & after, before & after
