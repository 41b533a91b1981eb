# Every target sets up its own environment in .venv the first time, with the packages of constraints.txt.
SHELL  := /bin/bash
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
ENTRY  ?= 05_anchor_loss
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# A set MPLBACKEND would empty the notebooks' figures; with IN_TEST set nbdev_export does nothing and every run is the smoke preset.
unexport MPLBACKEND IN_TEST
# Threads that wait must sleep: spinning, two runs on two cores slowed each other forty-fold.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install journal test soak bench lab site readme export
help:     ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' Makefile | column -t -s '|'

install: $(STAMP)  ## set up .venv

journal: $(STAMP)  ## run an entry and publish it in journal/ (ENTRY=05_anchor_loss PRESET=cpu CORPUS=e2e, all optional)
	$(BIN)/textdiffusion run $(ENTRY) $(if $(PRESET),--preset $(PRESET)) $(if $(CORPUS),--corpus $(CORPUS))
	@echo "To look at it: $(BIN)/jupyter lab and open the page named above; $(BIN)/textdiffusion log lists all records"

test: export OMP_NUM_THREADS = 1
test: export TOKENIZERS_PARALLELISM = false
test: export HF_HUB_OFFLINE = 1
test: $(STAMP)  ## the gates, every notebook's checks, and pytest; no network
	@rc=0; \
	$(BIN)/python tools/gates.py || rc=1; \
	$(BIN)/python tools/notebooks.py || rc=1; \
	$(BIN)/python -m pytest -n 2 --dist loadfile || rc=1; \
	exit $$rc

soak: export OMP_NUM_THREADS = 1
soak: export HF_HUB_OFFLINE = 1
soak: $(STAMP)  ## disturbed runs, large inputs, every arm of every entry alone (two hours or more; not part of make test)
	@rc=0; \
	SOAK=1 $(BIN)/python -m pytest tests/test_soak.py tests/test_load.py || rc=1; \
	SOAK=1 $(BIN)/python -m pytest -n 2 tests/test_arms.py || rc=1; \
	exit $$rc

bench: export OMP_NUM_THREADS = 1
bench: export TOKENIZERS_PARALLELISM = false
bench: export HF_HUB_OFFLINE = 1
bench: $(STAMP)  ## time the library against plain code and an earlier build, into journal/bench/ (ten minutes; not part of make test)
	$(BIN)/python tools/bench.py

lab: $(STAMP)  ## JupyterLab in this folder
	$(BIN)/jupyter lab

site: $(STAMP)  ## the journal, its claims and the library reference as web pages, in _site/; no network but for the packages
	$(BIN)/python tools/build_site.py
	@echo 'Open _site/index.html in a browser.'

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

export: $(STAMP)  ## clean the notebooks, then write textdiffusion/ from them
	$(BIN)/python tools/clean.py && $(BIN)/nbdev_export

$(STAMP): settings.ini setup.py constraints.txt
	@python=$$(for p in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done); \
	if [ -z "$$python" ]; then \
	    echo "textdiffusion needs Python 3.11 or newer, and $(or $(PYTHON),python3) is: $$($(or $(PYTHON),python3) --version 2>&1). Name one: make test PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$($$python --version) (a few minutes)"; \
	$$python -m venv $(VENV) && $(BIN)/pip install -q -c constraints.txt -e '.[dev,site,sweep]' && touch $(STAMP)
