# `make demo` and `make test` do all the set-up on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup up down demo test test-faults lint bench

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,local,optuna]'
	touch $@

up: $(READY)
	$(BIN)/python -m cluster.local up

down: $(READY)
	$(BIN)/python -m cluster.local down

demo: $(READY)
	$(BIN)/python -m cluster.demo demo

test: $(READY)
	$(BIN)/python -m pytest -m "not faults" tests/unit tests/pipelines
	# In a session of its own: the clusters that commands start need the cores of the one that pipeline tests share.
	$(BIN)/python -m pytest -m "not faults" tests/e2e

test-faults: $(READY)
	$(BIN)/python -m pytest -m faults tests/pipelines
	$(BIN)/python -m pytest -m faults tests/e2e

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.outage
	$(BIN)/python -m benchmarks.orchestrator
	$(BIN)/python -m benchmarks.ingest --samples 3000 --s3
	$(BIN)/python -m benchmarks.relabel
