# make crpo          align the embedded miniature; options: make crpo ARGS="--iterations 5 --seed 1"
# make serve         the miniature over HTTP, with a page on http://127.0.0.1:8000; options: make serve ARGS="--run-dir runs/a"
# make test          linters, types, layer contracts and the quick tests
# make test-slow     the longer tests
# make miniature     build the embedded models again from nothing (hours)
# make clean         remove the set-up and the caches, not your runs
#
# Each sets up .venv first, once (about 7 GB). It needs Python 3.11 or later and make.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: crpo serve test test-slow miniature clean

crpo: $(READY)
	$(BIN)/python jobs/crpo.py $(ARGS)

serve: $(READY)
	$(BIN)/python serve/run.py $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

miniature: $(READY)
	$(BIN)/python jobs/build_miniature.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11 or later with venv was found; install one (on Debian also python3-venv)," \
			"or name it: make PYTHON=/path/to/python3" >&2; exit 2; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): a few minutes and about 7 GB, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@
