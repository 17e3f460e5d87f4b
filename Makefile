# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
RUN := $(BIN)/diffusion-adc

COHORT := cohorts/demo
DEMO := runs/demo
EXPERIMENT := experiments/base.yaml experiments/demo.yaml

# Nothing below needs a network once the environment stands, and no run may ask for a terminal.
export WANDB_MODE ?= offline
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench results security faults mutants clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make the environment, if it is absent or out of date

$(STAMP): requirements.lock .ci/uv.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r .ci/uv.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync -q --require-hashes requirements.lock .ci/uv.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation --offline -e .
	touch $@

demo: $(STAMP) ## digital patients → training → tumor maps → scores → runs/demo/index.html
	$(RUN) phantom $(COHORT) --cases 100 --seed 2026 --size 160x160x20 --reuse
	$(RUN) fit $(EXPERIMENT:%=-c %) --out $(DEMO)
	$(RUN) draw --run $(DEMO) --cohort $(COHORT) --out $(DEMO)/maps --split test
	$(RUN) evaluate $(DEMO)/maps --cohort $(COHORT) --truth $(COHORT).truth
	$(RUN) review $(DEMO)/maps --cohort $(COHORT) --out $(DEMO)

test: $(STAMP) ## the default test suite
	$(BIN)/python -m pytest -n 2 --dist loadscope

lint: $(STAMP) ## ruff, mypy and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## figures measured side by side (several minutes, wants a quiet machine)
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

security: $(STAMP) ## figures of the threat catalogue at 20 % of their counts; FULL=1 for all
	SECURITY=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m 'security' tests/security

faults: $(STAMP) ## injected faults: kills, full disks, lost ranks, dead trackers; FULL=1 for all counts
	FAULTS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/faults tests/callbacks/test_faults_tracker.py \
	    tests/sweeps tests/security/withdrawal/test_interruption.py tests/security/test_delivery.py

mutants: $(STAMP) ## seeded bugs: does a test catch each one? (most of an hour)
	$(BIN)/python -m pytest -m slow tests/mutants

results: $(STAMP) ## trains phantom_pelvis_2d (up to an hour on two cores) and scores it
	$(RUN) phantom cohorts/pelvis --cases 400 --seed 7 --size 160x160x20 --reuse
	$(RUN) fit -c experiments/base.yaml -c experiments/phantom_pelvis_2d.yaml --out runs/phantom_pelvis_2d
	$(RUN) test --run runs/phantom_pelvis_2d

clean: ## remove runs, simulated cohorts and caches (keeps the environment)
	rm -rf runs cohorts .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
