# Each target sets up what it needs, in this folder only: a virtual environment in .venv from requirements-dev.lock.
# All that has to be there before is python3 (3.10 to 3.14) with its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint coverage bench faults soak clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## the developer's environment, in .venv

$(READY): requirements-dev.lock pyproject.toml packages/greengrass-sandbox/pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || \
		{ echo "needs Python 3.10 to 3.14 with its venv module (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		-e . -e packages/greengrass-sandbox
	@touch $@

demo:  ## the whole line on this machine: simulator, component, nucleus stand-in, live view
	@$(PYTHON) scripts/demo.py $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

# Two more workers than cores, since tests wait for processes.
test: $(READY)  ## all tests
	@$(BIN)/python -m pytest --numprocesses $$(( $$(nproc) + 2 )) --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff, mypy --strict and the spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell

# A test that fails here is slowed down by the measurement; whether it passes is for `make test` to say.
coverage: $(READY)  ## the floor under the branch coverage of what runs on a device
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest tests/unit tests/ipc --numprocesses $$(( $$(nproc) + 2 )) --dist loadfile || [ $$? -eq 1 ]
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

bench: $(READY) .bench/.ready  ## what the component costs, beside an echo and others, in turns: ten minutes; QUICK=1: two
	@PYTHONPATH=benchmarks $(BIN)/python -m speed --python .bench/bin/python $(if $(QUICK),--quick)

# What a device installs, and nothing else.
.bench/.ready: requirements.lock $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .bench
	@$(BIN)/uv pip install --quiet --python .bench/bin/python --require-hashes -r requirements.lock
	@touch $@

clean:  ## remove what the targets made
	rm -rf $(VENV) .bench .sandbox .evaluation greengrass-build wheelhouse components/*/greengrass-build components/*/wheelhouse \
		.mypy_cache .ruff_cache .hypothesis

include $(wildcard make/*.mk)
