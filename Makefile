# Every target sets up $(VENV) first where it needs it, also on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# A process per core. `loadfile` keeps the tests of a file, and what they share, in one process.
UNIT = $(BIN)/python -m pytest -n auto --dist loadfile tests/unit

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test unit test-gpu test-faults lint format typecheck reference bench

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## make .venv with the pinned versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,heif,local,onnx,optuna]'
	touch $@

up: $(READY)  ## start an S3 server and a Ray head on this machine
	$(BIN)/python -m cluster.local up

down: $(READY)  ## end what `make up` started; the objects stay
	$(BIN)/python -m cluster.local down

demo: $(READY)  ## raw faces -> data set -> model -> scores -> better labels, as six jobs
	$(BIN)/python -m cluster.demo demo

# Three sessions: clusters that the commands of e2e tests start need the cores of the one that pipeline tests share.
# Each recipe of several tools runs all of them, and fails if one did.
test: $(READY)  ## unit, pipeline and end-to-end tests
	@status=0; \
	$(UNIT) || status=1; \
	$(BIN)/python -m pytest -m "not faults" tests/pipelines || status=1; \
	$(BIN)/python -m pytest -m "not faults" tests/e2e || status=1; \
	exit $$status

unit: $(READY)  ## the tests that need neither a Ray cluster nor an S3 server
	$(UNIT)

test-gpu: $(READY)  ## checks and timings on a GPU, some minutes; says so if there is none
	$(BIN)/python -m tests.gpu

test-faults: $(READY)  ## kills and outages that take longer
	@status=0; \
	$(BIN)/python -m pytest --hypothesis-profile=thorough tests/unit/project/test_outside_data.py tests/unit/project/test_outside_runs.py || status=1; \
	$(BIN)/python -m pytest -m faults tests/pipelines || status=1; \
	$(BIN)/python -m pytest -m faults tests/e2e || status=1; \
	exit $$status

lint: $(READY)  ## ruff, mypy and the import contracts; changes nothing
	@status=0; \
	for tool in "ruff check ." "ruff format --check ." mypy lint-imports; do \
		echo "$$tool"; $(BIN)/$$tool || status=1; \
	done; \
	exit $$status

format: $(READY)  ## mend with ruff what it can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY)  ## mypy alone
	$(BIN)/mypy

reference: $(READY)  ## generate docs/reference.md, and the ids in docs/data.md, from the code
	$(BIN)/python -m tests.reference > $(READY).reference
	mv $(READY).reference docs/reference.md
	$(BIN)/python -m tests.class_tables

bench: $(READY)  ## speed and memory, about an hour
	$(BIN)/python ray_job.py bench --out bench.json
	$(BIN)/python -m tests.benchmarks.memory
	$(BIN)/python -m tests.benchmarks.outage
	$(BIN)/python -m tests.benchmarks.orchestrator
	$(BIN)/python -m tests.benchmarks.ingest --samples 3000 --s3
