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

RESULTS := runs/results
SEEDS ?= 0
RIVALS ?= b8_flow b3_base_head b4c_low_rank b4a_snapshots b5_regression b7_flow_kl b6_free_diffusion
BUDGET := -c experiments/base.yaml -c experiments/baselines/b8_flow.yaml
CODEC := -c experiments/base.yaml -c experiments/codec_2d.yaml

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

results: $(STAMP) ## README's table of rivals, resumable: half a day on two cores; SEEDS="0 1 2" for all seeds
	$(RUN) phantom cohorts/pelvis --cases 400 --seed 7 --size 160x160x20 --reuse
	$(RUN) phantom cohorts/pelvis_on --cases 120 --seed 31337 --size 160x160x20 --reuse
	$(RUN) phantom cohorts/pelvis_off --cases 80 --seed 31338 --ambiguity off --size 160x160x20 --reuse
	set -e; for seed in $(SEEDS); do for rival in $(RIVALS); do \
	    run=$(RESULTS)/$${rival}_s$$seed; \
	    case $$rival in \
	        b7_flow_kl) $(RUN) fit $(CODEC) --out runs/codec_2d ;; \
	        b6_free_diffusion) $(RUN) fit $(CODEC) --model.init_args.target=value --out runs/codec_values_2d ;; \
	    esac; \
	    $(RUN) fit $(BUDGET) -c experiments/baselines/$$rival.yaml --out $$run --seed=$$seed; \
	    for arm in on off; do \
	        $(RUN) draw --run $$run --cohort cohorts/pelvis_$$arm --out $$run/maps_$$arm --split all; \
	        if [ $$rival = b3_base_head ]; then $(RUN) draw --run $$run --cohort cohorts/pelvis_$$arm \
	            --out $(RESULTS)/b4b_components_s$$seed/maps_$$arm --split all --method components --id B4b; fi; \
	    done; \
	done; done
	$(RUN) compare $(RESULTS)/*/maps_* --cohort cohorts/pelvis_{on,off} --truth cohorts/pelvis_{on,off}.truth \
	    --out $(RESULTS)

clean: ## remove runs, simulated cohorts and caches (keeps the environment)
	rm -rf runs cohorts .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
