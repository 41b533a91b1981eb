"""Wrong input of every kind a hand can slip to: one sentence of this library's own, before anything is trained."""
import math
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import textdiffusion
from textdiffusion import objectives, streams
from textdiffusion.batching import draw_seed, epoch_rows
from textdiffusion.corpora import build_stream, load_corpus
from textdiffusion.denoising import denoising_table, input_sensitivity, masked_nelbo
from textdiffusion.garbling import damage_done, garbled, misread
from textdiffusion.judges import fit_teacher, new_teacher, teacher_nll, teacher_sample
from textdiffusion.lookup import cliff, easy_share, look_up_rate, time_of
from textdiffusion.metrics import (counted, distinct, diversity, exact_nll, form_scores, nll_rates, novelty,
                                   oracle_scores, self_bleu, unigram_entropy)
from textdiffusion.models import (CausalConfig, CausalLM, GaussianConfig, GaussianDenoiser, MaskedConfig,
                                  MaskedDenoiser, load)
from textdiffusion.ngrams import NGram
from textdiffusion.objectives import (bound_weight, diffusion_lm, grid_t, mask_tokens, masked_bound, masked_ce,
                                      objective, stratified_t, token_ce, token_nll, x0_mse)
from textdiffusion.optimizers import adamw, linear_decay, muon_adamw
from textdiffusion.oracles import bayes_denoiser, eps_loss, lookup_denoiser, masked_oracle
from textdiffusion.sampling import clamp, ddim_step, nearest, sample, spaced
from textdiffusion.schedules import (add_noise, cosine, from_betas, grid, log_snr, mask_linear, rescale, sigma, sqrt)
from textdiffusion.scoring import evaluate, reference_rows
from textdiffusion.statistics import above, interval, mean_of, summarise, t_quantile, within
from textdiffusion.timing import seconds_of, side_by_side
from textdiffusion.tokenizing import char_tokenizer
from textdiffusion.training import fit, train_step
from textdiffusion.unmasking import canvas, even_times, threshold, top_k, unmask

S = dict(vocab_size=11, d_model=32, n_layers=1, n_heads=2)
G = GaussianDenoiser(GaussianConfig(emb_dim=8, **S)).eval()                        # predicts the clean vectors
E = GaussianDenoiser(GaussianConfig(emb_dim=8, head='predict_eps', **S)).eval()    # predicts noise, under sqrt
M, C = MaskedDenoiser(MaskedConfig(**S)).eval(), CausalLM(CausalConfig(**S)).eval()
ids, z = torch.randint(4, 11, (4, 6), generator=torch.Generator().manual_seed(0)), torch.full((2, 6), 11)
said = 'the cat sat on the mat and ran away. '*200
co, st = load_corpus('restaurants'), build_stream('x', dict(train=said, valid=said, test=said), char_tokenizer, 8)
gl, ml = diffusion_lm(), masked_ce(11)

def b(step): return ids

class OnMac(GaussianDenoiser):
    "A denoiser as on the graphics processor of a Mac"
    def parameters(self, recurse=True): return iter([SimpleNamespace(device=torch.device('mps'), requires_grad=True)])

class Flat(nn.Module):
    "A module without parameters"
    def forward(self, x): return x

mac = OnMac(GaussianConfig(emb_dim=8, **S)).eval()

CASES = {
    'devices': {
        'fit on mps': lambda: fit(mac, gl, b, 1),
        'sample on mps': lambda: sample(mac, (2, 5, 8), sqrt, 3),
    },
    'sampling': {
        'sample width': lambda: sample(G, (2, 5, 9), sqrt, 3),
        'sample masked': lambda: sample(M, (2, 5, 8), sqrt, 3),
        'sample causal': lambda: sample(C, (2, 5, 8), sqrt, 3),
        'sample shape 2d': lambda: sample(G, (2, 5), sqrt, 3),
        'sample shape int': lambda: sample(G, 5, sqrt, 3),
        'sample shape neg': lambda: sample(G, (-2, 5, 8), sqrt, 3),
        'sample shape zero': lambda: sample(G, (0, 5, 8), sqrt, 3),
        'sample shape float': lambda: sample(G, (2.0, 5, 8), sqrt, 3),
        'sample schedule str': lambda: sample(G, (2, 5, 8), 'sqrt', 3),
        'sample schedule unknown str': lambda: sample(G, (2, 5, 8), 'sqrtt', 3),
        'sample steps 0': lambda: sample(G, (2, 5, 8), sqrt, 0),
        'sample steps 2.5': lambda: sample(G, (2, 5, 8), sqrt, 2.5),
        'sample steps str': lambda: sample(G, (2, 5, 8), sqrt, '3'),
        'sample step str': lambda: sample(G, (2, 5, 8), sqrt, 3, step='ddim'),
        'sample round tensor': lambda: sample(G, (2, 5, 8), sqrt, 3, round_fn=G.emb),
        'sample round other width': lambda: sample(G, (2, 5, 8), sqrt, 3, round_fn=clamp(torch.randn(11, 9))),
        'sample round uncalled': lambda: sample(G, (2, 5, 8), sqrt, 3, round_fn=clamp),
        'sample decode str': lambda: sample(G, (2, 5, 8), sqrt, 3, decode='argmax'),
        'sample trace neg': lambda: sample(G, (2, 5, 8), sqrt, 3, trace_every=-1),
        'sample trace float': lambda: sample(G, (2, 5, 8), sqrt, 3, trace_every=0.5),
        'sample xT': lambda: sample(G, (2, 5, 8), sqrt, 3, x_T=torch.randn(2, 5, 7)),
        'sample xT nan': lambda: sample(G, (2, 5, 8), sqrt, 3, x_T=torch.full((2, 5, 8), math.nan)),
        'sample generator int': lambda: sample(G, (2, 5, 8), sqrt, 3, generator=0),
        'sample self on none': lambda: sample(G, (2, 5, 8), sqrt, 3, self_condition=True),
        'sample eps cosine': lambda: sample(E, (2, 5, 8), cosine, 3),
        'sample denoiser class': lambda: sample(GaussianDenoiser, (2, 5, 8), sqrt, 3),
        'sample denoiser folder': lambda: sample('folder', (2, 5, 8), sqrt, 3),
        'sample times list': lambda: sample(G, (2, 5, 8), sqrt, 3, times=[1, 0.5, 0]),
        'sample own alpha keeps all': lambda: sample(G, (2, 5, 8), lambda t: 1 - 0.5 * t, 3),
        'sample const alpha': lambda: sample(G, (2, 5, 8), lambda t: torch.ones_like(t), 3),
        'spaced float': lambda: spaced(2.5),
        'spaced str': lambda: spaced('x'),
        'ddim eta': lambda:
            ddim_step(torch.randn(1, 2, 3), torch.randn(1, 2, 3), 0.5, 0.6, torch.randn(1, 2, 3), eta=-5),
        'nearest int': lambda: nearest(ids, G.emb),
        'clamp model': lambda: clamp(G)(torch.randn(2, 3, 8), None),
    },
    'unmasking': {
        'unmask gaussian': lambda: unmask(G, z, 3, 11),
        'unmask causal': lambda: unmask(C, z, 3, 11),
        'unmask str schedule': lambda: unmask(M, z, 3, 11, alpha_bar='linear'),
        'unmask gaussian schedule': lambda: unmask(M, z, 3, 11, alpha_bar=sqrt),
        'unmask z list': lambda: unmask(M, z.tolist(), 3, 11),
        'unmask z 1d': lambda: unmask(M, z[0], 3, 11),
        'unmask z float': lambda: unmask(M, z.float(), 3, 11),
        'unmask z big': lambda: unmask(M, torch.where(torch.arange(6) < 2, 40, z), 3, 11),
        'unmask steps float': lambda: unmask(M, z, 3.5, 11),
        'unmask steps str': lambda: unmask(M, z, '3', 11),
        'unmask pick str': lambda: unmask(M, z, 3, 11, pick='top_k'),
        'unmask pick class': lambda: unmask(M, z, 3, 11, pick=top_k),
        'unmask watch str': lambda: unmask(M, z, 3, 11, watch='yes'),
        'unmask choose str': lambda: unmask(M, z, 3, 11, choose='greedy'),
        'unmask mask none': lambda: unmask(M, z, 3, None),
        'unmask mask float': lambda: unmask(M, z, 3, 11.0),
        'unmask int32': lambda: unmask(M, z.int(), 3, 11),
        'unmask generator int': lambda: unmask(M, z, 3, 11, generator=0),
        'unmask trace neg': lambda: unmask(M, z, 3, 11, trace_every=-2),
        'canvas list': lambda: canvas([[1, 2]], 6, 11),
        'canvas 1d': lambda: canvas(torch.tensor([1, 2]), 6, 11),
        'even_times 0': lambda: even_times(0),
        'top_k True': lambda: top_k(True),
        'threshold str': lambda: threshold('x'),
    },
    'training': {
        'fit dlm without ()': lambda: fit(G, diffusion_lm, b, 3),
        'fit masked_ce without ()': lambda: fit(M, masked_ce, b, 3),
        'fit loss none': lambda: fit(G, None, b, 3),
        'fit loss str': lambda: fit(G, 'mse', b, 3),
        'fit dataloader': lambda: fit(G, gl, torch.utils.data.DataLoader(ids, 2), 3),
        'fit list': lambda: fit(G, gl, [ids], 3),
        'fit tensor': lambda: fit(G, gl, ids, 3),
        'fit corpus.batch unbound': lambda: fit(G, gl, co.batch, 3),
        'fit batches dict': lambda: fit(G, gl, lambda s: dict(input_ids=ids), 3),
        'fit batches tuple': lambda: fit(G, gl, lambda s: (ids, ids), 3),
        'fit batches list': lambda: fit(G, gl, lambda s: ids.tolist(), 3),
        'fit batches float': lambda: fit(G, gl, lambda s: ids.float(), 3),
        'fit batches int32': lambda: fit(G, gl, lambda s: ids.int(), 3),
        'fit batches 1d': lambda: fit(G, gl, lambda s: ids[0], 3),
        'fit batches 3d': lambda: fit(G, gl, lambda s: ids[None], 3),
        'fit batches empty': lambda: fit(G, gl, lambda s: ids[:0], 3),
        'fit batches no arg': lambda: fit(G, gl, lambda: ids, 3),
        'fit small vocab': lambda: fit(G, gl, lambda s: ids + 9, 3),
        'fit small vocab masked': lambda: fit(M, ml, lambda s: ids + 9, 3),
        'fit negative ids': lambda: fit(M, ml, lambda s: ids - 9, 3),
        'fit masked loss on gaussian': lambda: fit(G, ml, b, 3),
        'fit gaussian loss on masked': lambda: fit(M, gl, b, 3),
        'fit gaussian loss on causal': lambda: fit(C, gl, b, 3),
        'fit no params': lambda: fit(Flat(), lambda m, x: dict(loss=m(x).float().mean()), b, 3),
        'fit no params adamw': lambda: fit(Flat(), lambda m, x: dict(loss=m(x).float().mean()), b, 3,
                optimizer=adamw),
        'fit frozen': lambda: fit(GaussianDenoiser(GaussianConfig(emb_dim=8, **S)).requires_grad_(False), gl, b, 3),
        'fit no blocks': lambda: fit(nn.Embedding(11, 3), lambda m, x: dict(loss=m(x).mean()), b, 3),
        'fit loss returns tensor': lambda: fit(G, lambda m, x: m.emb.sum(), b, 3),
        'fit loss no loss': lambda: fit(G, lambda m, x: dict(mse=m.emb.sum()), b, 3),
        'fit loss vector': lambda: fit(G, lambda m, x: dict(loss=m.emb.sum(1)), b, 3),
        'fit loss float': lambda: fit(G, lambda m, x: dict(loss=1.0), b, 3),
        'fit loss no grad': lambda: fit(G, lambda m, x: dict(loss=m.emb.sum().detach()), b, 3),
        'fit loss None': lambda: fit(G, lambda m, x: None, b, 3),
        'fit model class': lambda: fit(GaussianDenoiser, gl, b, 3),
        'fit model config': lambda: fit(GaussianConfig(), gl, b, 3),
        'fit model lambda': lambda: fit(lambda x: x, gl, b, 3),
        'fit optimizer object': lambda: fit(G, gl, b, 3, optimizer=torch.optim.AdamW(G.parameters())),
        'fit optimizer str': lambda: fit(G, gl, b, 3, optimizer='adam'),
        'fit optimizer single': lambda: fit(G, gl, b, 3, optimizer=lambda m: torch.optim.AdamW(m.parameters())),
        'fit optimizer class': lambda: fit(G, gl, b, 3, optimizer=torch.optim.AdamW),
        'fit rate float': lambda: fit(G, gl, b, 3, rate=0.1),
        'fit rate nan': lambda: fit(G, gl, b, 3, rate=lambda s, n: math.nan),
        'fit rate str': lambda: fit(G, gl, b, 3, rate=lambda s, n: 'x'),
        'fit rate 1 arg': lambda: fit(G, gl, b, 3, rate=lambda s: 1.0),
        'fit clip nan': lambda: fit(G, gl, b, 3, clip=math.nan),
        'fit clip inf': lambda: fit(G, gl, b, 3, clip=math.inf),
        'fit clip neg': lambda: fit(G, gl, b, 3, clip=-1.0),
        'fit clip 0': lambda: fit(G, gl, b, 3, clip=0),
        'fit clip str': lambda: fit(G, gl, b, 3, clip='1'),
        'fit clip True': lambda: fit(G, gl, b, 3, clip=True),
        'fit ema nan': lambda: fit(G, gl, b, 3, ema=math.nan),
        'fit ema 1.5': lambda: fit(G, gl, b, 3, ema=1.5),
        'fit ema None': lambda: fit(G, gl, b, 3, ema=None),
        'fit ema True': lambda: fit(G, gl, b, 3, ema=False),
        'fit patience -1': lambda: fit(G, gl, b, 3, evaluate=lambda m: 1.0, patience=-1),
        'fit evaluate nan': lambda: fit(G, gl, b, 3, evaluate=lambda m: math.nan),
        'fit evaluate None': lambda: fit(G, gl, b, 3, evaluate=lambda m: None),
        'fit evaluate dict': lambda: fit(G, gl, b, 3, evaluate=lambda m: dict(a=1)),
        'fit evaluate float': lambda: fit(G, gl, b, 3, evaluate=1.0),
        'fit seed str': lambda: fit(G, gl, b, 3, seed='0'),
        'fit steps str': lambda: fit(G, gl, b, '3'),
        'fit steps 0': lambda: fit(G, gl, b, 0),
        'fit steps float': lambda: fit(G, gl, b, 1000.0),
        'fit every 0': lambda: fit(G, gl, b, 3, every=0),
        'fit folder is file': lambda: fit(G, gl, b, 3, folder=__file__),
        'fit autocast str': lambda: fit(G, gl, b, 3, autocast='bf16'),
        'fit accumulate 3': lambda: fit(G, gl, b, 3, accumulate=3),
        'fit accelerator str': lambda: fit(G, gl, b, 3, accelerator='cuda'),
        'fit diffusion_lm mask schedule': lambda: fit(G, diffusion_lm(mask_linear), b, 3),
        'muon no blocks': lambda: muon_adamw(nn.Linear(2, 2)),
        'muon cls': lambda: muon_adamw(GaussianDenoiser),
        'lindecay 0': lambda: linear_decay(0, 0),
        'train_step opts': lambda: train_step(G, gl, ids, torch.optim.AdamW(G.parameters()), 1.0),
    },
    'losses': {
        'diffusion_lm str': lambda: diffusion_lm('sqrt'),
        'diffusion_lm extra list': lambda: diffusion_lm(extra=[token_ce]),
        'diffusion_lm p_self': lambda: diffusion_lm(p_self=2.0),
        'diffusion_lm typo': lambda: diffusion_lm(pself=0.5),
        'objective list': lambda: objective([x0_mse]),
        'objective empty': lambda: objective({}),
        'objective str': lambda: objective({'x0_mse': 1.0}),
        'objective nan': lambda: objective({x0_mse: math.nan}),
        'objective typo': lambda: objective({x0_mse: 1.0}, alphabar=sqrt),
        'objective p_self neg': lambda: objective({x0_mse: 1.0}, p_self=-1),
        'objective sigma nan': lambda: objective({x0_mse: 1.0}, sigma0=math.nan),
        'objective p_self no self': lambda: objective({x0_mse: 1.0}, p_self=1.0)(G, ids),
        'masked_ce str': lambda: masked_ce('[MASK]'),
        'masked_ce None': lambda: masked_ce(None),
        'masked_ce -1': lambda: masked_ce(-1),
        'masked_ce sched str': lambda: masked_ce(11, 'linear'),
        'masked_ce sched gauss': lambda: masked_ce(11, sqrt),
        'masked_bound model': lambda: masked_bound(M),
        'masked_ce wrong mask id': lambda: masked_ce(50)(M, ids),
        'masked_ce keep shape': lambda: masked_ce(11, keep=torch.ones(3, dtype=torch.bool))(M, ids),
        'mask_tokens share': lambda: mask_tokens(ids, torch.ones(3), 11),
        'mask_tokens share nan': lambda: mask_tokens(ids, torch.full((4,), math.nan), 11),
        'mask_tokens share float': lambda: mask_tokens(ids, 0.5, 11),
        'mask_tokens share 2': lambda: mask_tokens(ids, torch.full((4,), 2.0), 11),
        'token_nll dims': lambda: token_nll(torch.randn(4, 6, 11), ids[:, :3]),
        'draw masked': lambda: objectives.draw(M, ids),
        'draw 1d': lambda: objectives.draw(G, ids[0]),
        'draw sched': lambda: objectives.draw(G, ids, 'sqrt'),
        'bound_weight gauss': lambda: bound_weight('x', torch.ones(1)),
        'grid_t 0': lambda: grid_t(0),
        'grid_t neg': lambda: grid_t(-1),
        'grid_t T 0': lambda: grid_t(2, T=0),
        'stratified neg': lambda: stratified_t(-2),
        'stratified float': lambda: stratified_t(2.5),
    },
    'models': {
        'load nowhere': lambda: load('/nowhere'),
        'load none': lambda: load(None),
        'load empty': lambda: load(tempfile.mkdtemp()),
        'load hub name': lambda: load('roberta-base'),
        'Gcfg head': lambda: GaussianConfig(head='x'),
    },
    'text': {
        'decode one row': lambda: co.decode(co.train[0]),
        'decode list': lambda: co.decode(co.train[:2].tolist()),
        'decode big': lambda: co.decode(torch.tensor([[999]])),
        'decode neg': lambda: co.decode(torch.tensor([[-1]])),
        'decode float': lambda: co.decode(co.train[:2].float()),
        'words one row': lambda: co.words(co.train[0]),
        'after_eos one row': lambda: co.after_eos(co.train[0]),
        'after_eos empty': lambda: co.after_eos(co.train[:0]),
        'batch 0': lambda: co.batch(0, 0),
        'batch neg': lambda: co.batch(0, -1),
        'batch step neg': lambda: co.batch(-1, 4),
        'batch float': lambda: co.batch(0, 2.5),
        'st batch 0': lambda: st.batch(0, 0),
        'st batch step neg': lambda: st.batch(-1, 4),
        'misread times': lambda: misread('é', -1),
        'misread odd': lambda: misread('Łс', 2),
        'misread bytes': lambda: misread(b'x'),
        'damage empty': lambda: damage_done([]),
        'damage str': lambda: damage_done('abc'),
        'garbled running': lambda: garbled(st, {}),
        'epoch n 0': lambda: epoch_rows(0, 0, 2, 0),
        'epoch bs': lambda: epoch_rows(5, 0, 0, 0),
        'epoch float': lambda: epoch_rows(5, 0, 2.5, 0),
        'draw_seed neg': lambda: draw_seed(0, -1),
        'draw_seed big': lambda: draw_seed(0, 2 ** 31),
        'draw_seed float': lambda: draw_seed(0, 1.5),
    },
    'schedules': {
        'sched nan': lambda: sqrt(torch.tensor(math.nan)),
        'sched str': lambda: sqrt('x'),
        'sched int': lambda: sqrt(1),
        'sched none': lambda: sqrt(None),
        'betas neg': lambda: from_betas(torch.tensor([-0.5, 0.2])),
        'betas 1': lambda: from_betas(torch.tensor([0.5, 1.0])),
        'betas nan': lambda: from_betas(torch.tensor([math.nan])),
        'betas empty': lambda: from_betas(torch.tensor([])),
        'betas 2d': lambda: from_betas(torch.rand(2, 2)),
        'rescale nan': lambda: rescale(sqrt, math.nan),
        'rescale str': lambda: rescale('sqrt', 2.0),
        'rescale inf': lambda: rescale(sqrt, math.inf),
        'rescale F str': lambda: rescale(sqrt, 'x'),
        'grid 0': lambda: grid(0),
        'grid float': lambda: grid(1.5),
        'add_noise str': lambda: add_noise(torch.randn(2, 3, 4), torch.ones(2), 'sqrt', torch.randn(2, 3, 4)),
        'add_noise nan': lambda:
            add_noise(torch.randn(2, 3, 4), torch.full((2,), math.nan), sqrt, torch.randn(2, 3, 4)),
        'log_snr str': lambda: log_snr(torch.ones(1), 'sqrt'),
        'sigma str': lambda: sigma(torch.ones(1), 'sqrt'),
    },
    'denoising': {
        'denoising_table masked': lambda: denoising_table(M, G.embed(ids), ids, co, sqrt),
        'denoising_table sched': lambda: denoising_table(G, G.embed(ids), ids, co, 'sqrt'),
        'dt mask sched': lambda: denoising_table(G, G.embed(ids), ids, co, mask_linear),
        'dt ts': lambda: denoising_table(G, G.embed(ids), ids, co, sqrt, ts=(2.0,)),
        'dt ts float': lambda: denoising_table(G, G.embed(ids), ids, co, sqrt, ts=0.5),
        'dt eps cosine': lambda: denoising_table(E, E.embed(ids), ids, co, cosine),
        'dt x0 ids': lambda: denoising_table(G, ids, ids, co, sqrt),
        'is masked': lambda: input_sensitivity(M, G.embed(ids), ids, co, sqrt),
        'is eps cosine': lambda: input_sensitivity(E, E.embed(ids), ids, co, cosine),
        'nelbo gaussian': lambda: masked_nelbo(G, ids, 11),
        'nelbo causal': lambda: masked_nelbo(C, ids, 11),
        'nelbo big ids': lambda: masked_nelbo(M, ids + 9, 11),
        'nelbo 1d': lambda: masked_nelbo(M, ids[0], 11),
        'nelbo mask str': lambda: masked_nelbo(M, ids, 'm'),
        'nelbo mask in ids': lambda: masked_nelbo(M, torch.full((2, 6), 11), 11),
        'nelbo empty': lambda: masked_nelbo(M, ids[:0], 11),
        'nelbo 2.5': lambda: masked_nelbo(M, ids, 11, draws=2.5),
    },
    'measures': {
        'evaluate n -1': lambda: evaluate(co.test[:9], co, n=-1),
        'evaluate 1d': lambda: evaluate(co.test[0], co),
        'evaluate list': lambda: evaluate(co.test[:3].tolist(), co),
        'evaluate float': lambda: evaluate(co.test[:3].float(), co),
        'evaluate str': lambda: evaluate(co.text['test'][:3], co),
        'evaluate teacher str': lambda: evaluate(co.test[:3], co, 'gpt2'),
        'evaluate empty': lambda: evaluate(co.test[:0], co),
        'reference n 0': lambda: reference_rows(co, 0),
        'distinct k0': lambda: distinct([[1, 2]], 0),
        'distinct k float': lambda: distinct([[1, 2]], 1.5),
        'self_bleu k': lambda: self_bleu([[1, 2]], k=-1),
        'unigram flat': lambda: unigram_entropy([1, 2]),
        'oracle_scores real': lambda: oracle_scores(st.test, st),
        'exact_nll real': lambda: exact_nll(st.test, st),
        'diversity empty': lambda: diversity(co.test[:0], co),
        'form empty': lambda: form_scores(co.test[:0], co),
        'novelty empty': lambda: novelty(co.test[:0], co),
        'counted 1d': lambda: counted(co.test[0], co),
        'nll_rates shape': lambda: nll_rates(torch.ones(3), co.test[:5], co),
        'nll_rates empty': lambda: nll_rates(torch.ones(0), co.test[:0], co),
        'nll_rates list': lambda: nll_rates([1.0, 2.0], co.test[:2], co),
        'nll_rates per token': lambda: nll_rates(torch.ones(2, 5), co.test[:2], co),
    },
    'n-grams': {
        'ngram 0': lambda: NGram(0),
        'ngram str': lambda: NGram('3'),
        'ngram unfit nll': lambda: NGram(3).nll(co.test[:3]),
        'ngram unfit sample': lambda: NGram(3).sample(3),
        'ngram n': lambda: NGram(3).fit(co.train, co).sample(-1),
        'ngram n0': lambda: NGram(3).fit(co.train, co).sample(0),
        'ngram nll big': lambda: NGram(3).fit(co.train, co).nll(torch.full((2, 5), 999)),
        'ngram nll 1d': lambda: NGram(3).fit(co.train, co).nll(co.test[0]),
        'ngram fit empty': lambda: NGram(3).fit(co.train[:0], co),
        'ngram huge': lambda: NGram(10 ** 9).fit(co.train, co),
    },
    'judges': {
        'teacher heads': lambda: new_teacher(co, 30, 2, 4),
        'teacher layers 0': lambda: new_teacher(co, 32, 0, 4),
        'teacher_nll other': lambda: teacher_nll(C, co.test[:3], co),
        'teacher_nll bs': lambda: teacher_nll(new_teacher(co, 32, 1), co.test[:3], co, 0),
        'teacher_nll empty': lambda: teacher_nll(new_teacher(co, 32, 1), co.test[:0], co),
        'teacher_nll longer': lambda: teacher_nll(new_teacher(co, 32, 1), torch.full((2, 90), 5), co),
        'fit_teacher steps': lambda: fit_teacher(co, 0),
        'fit_teacher lr': lambda: fit_teacher(co, 1, lr=-1.0),
        'fit_teacher ev 0': lambda: fit_teacher(co, 1, evaluations=0),
        'teacher_sample n': lambda: teacher_sample(new_teacher(co, 32, 1), co, -1),
        'fit_teacher bs 0': lambda: fit_teacher(co, 1, batch_size=0, width=32),
        'fit_teacher held 0': lambda: fit_teacher(co, 1, held_out=0, width=32),
    },
    'oracles': {
        'bayes real': lambda: bayes_denoiser(st, G.emb, sqrt),
        'bayes sched': lambda: bayes_denoiser(co, G.emb, 'sqrt'),
        'bayes width': lambda: bayes_denoiser(co, G.emb, sqrt)(torch.randn(2, 6, 8), torch.ones(2)),
        'lookup ids': lambda: lookup_denoiser(G.emb, ids + 9, sqrt)(torch.randn(2, 3, 8), torch.ones(2)),
        'eps_loss levels': lambda: eps_loss(E, E.emb, ids, sqrt, levels=0),
        'eps_loss cosine': lambda: eps_loss(E, E.emb, ids, cosine),
        'oracle batch 0': lambda: masked_oracle(co, 0)(co.test[:2], None),
    },
    'statistics': {
        'tq 0': lambda: t_quantile(0),
        'tq float': lambda: t_quantile(1.5),
        'interval str': lambda: interval(['a']),
        'interval None': lambda: interval([None]),
        'interval float': lambda: interval(3.0),
        'mean typo': lambda: mean_of([dict(arm='a', seed=0, v=1.0)], 'typo'),
        'mean typo which': lambda: mean_of([dict(arm='a', seed=0, v=1.0)], 'v', arms='a'),
        'within neg': lambda: within(interval([1.0, 2.0]), -1.0),
        'above nan': lambda: above(interval([1.0, 2.0]), math.nan),
        'summarise empty': lambda: summarise([]),
        'values str': lambda: mean_of([dict(seed=0, v='x')], 'v'),
    },
    'timing': {
        'sbs rounds 0': lambda: side_by_side(dict(a=lambda: 1), 0),
        'sbs list': lambda: side_by_side([lambda: 1]),
        'seconds n 0': lambda: seconds_of(lambda: 1, 0),
        'seconds none': lambda: seconds_of(None),
    },
    'look-up': {
        'lookup D': lambda: look_up_rate(1.0, 0, 10),
        'lookup D1': lambda: look_up_rate(1.0, 1, 10),
        'lookup snr neg': lambda: look_up_rate(-1.0, 4, 10),
        'lookup V': lambda: look_up_rate(1.0, 4, 0),
        'lookup draws': lambda: look_up_rate(1.0, 4, 10, 0),
        'cliff': lambda: cliff(0, 10),
        'cliff V': lambda: cliff(4, 0),
        'cliff spread': lambda: cliff(4, 10, 0.0),
        'time_of neg': lambda: time_of(sqrt, -1.0),
        'time_of str': lambda: time_of('sqrt', 1.0),
        'easy': lambda: easy_share('sqrt', 4, 10),
        'easy mask': lambda: easy_share(sqrt, 0, 10),
    },
    'running text': {
        'stream random': lambda: streams.random_windows(torch.arange(5), 0, 2, 9),
        'stream random bs': lambda: streams.random_windows(torch.arange(50), 0, 0, 9),
        'stream fixed': lambda: streams.fixed_windows(torch.arange(5), 2, 9),
        'text_nll ctx': lambda: streams.text_nll(M, ids, 11, 9),
        'text_nll C ctx': lambda: streams.text_nll(C, ids, 11, 9),
        'write len': lambda: streams.write(C, ids, 3),
        'write masked': lambda: streams.write(M, ids, 9),
        'continue': lambda: streams.continue_text(lambda z: z, ids, 0, 9, 11),
        'continue long': lambda: streams.continue_text(lambda z: z, ids, 1, 4, 11),
        'running name': lambda: streams.running_text('typo', 9),
        'nll_row ctx': lambda: streams.nll_row(M, ids, st, dict(nats=9)),
        'stream lines': lambda: streams.running_text('restaurants', 64, lines=0),
        'untrained n 0': lambda: streams.untrained_rows(st, 0),
        'nll_row sentences': lambda: streams.nll_row(M, ids, co, dict(nats=0)),
    },
}
ALL = [(kind, name, case) for kind, cases in CASES.items() for name, case in cases.items()]

@pytest.mark.parametrize('case', [case for *_, case in ALL], ids=[name for _, name, _ in ALL])
def test_wrong_input_is_answered_in_one_sentence_of_ours(case):
    "Raised by this library, in words, on one line"
    with pytest.raises((ValueError, TypeError, FloatingPointError)) as info: case()
    message, last = str(info.value), traceback.extract_tb(info.tb)[-1]
    assert Path(last.filename).parent == Path(textdiffusion.__file__).parent, (last, message)
    assert 15 < len(message) < 400 and '\n' not in message and 'object at 0x' not in message, message

def test_there_are_many_kinds_and_three_hundred_cases(capsys):
    counts = Counter(kind for kind, *_ in ALL)
    with capsys.disabled(): print('', *(f'{n:4} {kind}' for kind, n in counts.most_common()), sep='\n')
    assert len(counts) >= 15 and sum(counts.values()) >= 300

def test_text_that_no_program_misreads_twice_is_refused_before_a_kernel():
    from textdiffusion.garbling import never_misread
    assert never_misread(['dash — and ” mark', 'Café £5']) == '—”' and never_misread(['Café £5']) == ''
