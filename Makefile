# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
VBENCH ?= .venv-vbench
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq --constraint constraints.txt
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: help run test test-all vbench check format docs bench bench-gpu train-small validity sweep-moviegen sweep-storyeval clean

.DEFAULT_GOAL := help

help: ## show this
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/run ## set up what is missing, then benchmark softprune_int4 against BF16 on MovieGen
	$(BIN)/python -m harness method=softprune_int4 suite=moviegen

test: $(VENV)/dev ## set up what is missing, then run the tests
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(VENV)/dev ## the same with the slow ones: kills, full disks, launchers, browser, training, wheel
	$(BIN)/python -m pytest -n auto

vbench: $(VBENCH)/vbench ## the environment of VBench's dimensions (three minutes, 6.7 GB; docs/vbench.md)

check: $(VENV)/dev ## ruff, mypy --strict and the order of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/run ## write docs/methods.md from the methods themselves
	$(BIN)/python -m harness.commands.methods_page

bench: $(VENV)/run ## measure overhead, attention, whole videos, scoring and reading results (one to two hours)
	$(BIN)/python -m harness bench

bench-gpu: $(VENV)/run ## attention and whole videos on a GPU, random weights (ten minutes)
	$(BIN)/python -m harness bench gpu

# The study's rows are the files; its numbers lie outside this repository (docs/validity.md).
COMMA := ,
SPACE := $() $()
ROWS = $(subst $(SPACE),$(COMMA),$(sort $(patsubst conf/method/%.yaml,%,$(wildcard conf/method/published/*.yaml))))
PUBLISHED ?= ../shared/published/observations.parquet
PROMPTS ?= 0:8
WORDS ?=

validity: $(VENV)/run ## run the 33 published methods and hold their ranks against the study's
	@test -f $(PUBLISHED) || { echo "error: no $(PUBLISHED): give PUBLISHED=<the study's observations.parquet> (docs/validity.md)" >&2; exit 2; }
	$(MAKE) --keep-going --jobs 2 sweep-moviegen sweep-storyeval || failed=1; \
	$(BIN)/python -m analysis validity results/validity --observations $(PUBLISHED) --page docs/validity.md --picture docs/images/validity.svg; \
	exit $${failed:-0}

# One thread each: two suites side by side fill two cores, and more threads gain little on 64 tokens.
sweep-moviegen sweep-storyeval: sweep-%: $(VENV)/run
	OMP_NUM_THREADS=1 $(BIN)/python -m harness -m method=$(ROWS) suite=$* suite.prompts=$(PROMPTS) track=disabled results_dir=results/validity $(WORDS)

train-small: $(VENV)/run ## train the small models again (the teacher six hours, the student nine; a second `make` goes on)
	$(BIN)/python -m harness.small_model.diffusion train
	$(BIN)/python -m harness.small_model.student train student.teacher_folder=results/.train/forcing
	$(BIN)/python -m harness.small_model.student rekey student.folder=results/.train/student
	$(BIN)/python -m harness.small_model.student match student.folder=results/.train/rekey student.teacher_folder=results/.train/forcing

clean: ## remove the environment and the caches; results stay
	rm -rf $(VENV) $(VBENCH) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# The environment of `run` is part of that of `test`, so whichever comes first is not done twice.
$(VENV)/python:
	@echo "setting up $(VENV) (two to three minutes, once)" >&2
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: Python {v.major}.{v.minor} is too old: install Python 3.11 or 3.12, then type make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/python pyproject.toml setup.py constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/python pyproject.toml setup.py constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/run

# VBench's pins (numpy 1, transformers 4.33) do not go with ours, so it has an environment alone.
$(VBENCH)/vbench: constraints-vbench.txt
	@echo "setting up $(VBENCH) (three minutes, once)" >&2
	$(PYTHON) -m venv $(VBENCH)
	$(VBENCH)/bin/python -m pip install --disable-pip-version-check -qq --constraint constraints-vbench.txt torch torchvision vbench setuptools
	touch $@
