# `make demo` and `make test` do all the set-up on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup up down demo test test-faults lint bench

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,local,onnx,optuna]'
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
	$(BIN)/python -m pytest --hypothesis-profile=thorough tests/unit/project/test_outside_data.py tests/unit/project/test_outside_runs.py
	$(BIN)/python -m pytest -m faults tests/pipelines
	$(BIN)/python -m pytest -m faults tests/e2e

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python ray_job.py bench --out bench.json
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.outage
	$(BIN)/python -m tests.benchmarks.orchestrator
	$(BIN)/python -m tests.benchmarks.ingest --samples 3000 --s3
