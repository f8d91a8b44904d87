# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq --constraint constraints.txt
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: help run test check format docs bench bench-gpu clean
.DEFAULT_GOAL := help

help: ## show this
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/run ## set up what is missing, then benchmark softprune_int4 against BF16 on MovieGen
	$(BIN)/python -m harness method=softprune_int4 suite=moviegen

test: $(VENV)/dev ## set up what is missing, then run the tests
	$(BIN)/python -m pytest -n auto

check: $(VENV)/dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/run ## write docs/methods.md from the methods themselves
	$(BIN)/python -m harness.docs

bench: $(VENV)/run ## measure overhead, attention and whole videos side by side (half an hour)
	$(BIN)/python -m harness bench

bench-gpu: $(VENV)/run ## attention and whole videos on a GPU, random weights (ten minutes)
	$(BIN)/python -m harness bench gpu

clean: ## remove the environment and the caches; results stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# The environment of `run` is part of that of `test`, so whichever comes first is not done twice.
$(VENV)/python:
	@echo "setting up $(VENV) (two to three minutes, once)" >&2
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: Python {v.major}.{v.minor} is too old: install Python 3.11 or 3.12, then type make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/run
