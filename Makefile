# Everything that is done with this repository. `make` lists it.
# A fresh machine needs Python 3.11 or newer (with venv) and make; the rest is set up here, in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-browser screenshots test-quick check up bench format lock migration clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "saga-orchestrator needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## make .venv from the lock file, and nothing else

demo: $(READY) ## run the examples: sagas that complete, are undone, survive a kill; check every ledger
	@$(BIN)/python -m examples.demo

up: $(READY) ## start the whole house on this machine (Ctrl-C ends it)
	@$(BIN)/saga up --sagas examples/order/sagas

test: $(READY) ## all tests, with embedded PostgreSQL and Valkey
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --ignore tests/browser

test-browser: $(READY) ## the dashboard in a real browser (Debian's Chromium; pictures in artifacts/screenshots)
	@$(BIN)/python -m pytest -q tests/browser

screenshots: $(READY) ## the pictures of the dashboard in the README, made anew
	@$(BIN)/python -m scripts.screenshots

test-quick: $(READY) ## the tests that take no processes: a minute
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 tests/law tests/api tests/cli tests/participants tests/kit

check: $(READY) ## formatter, linter, types, import rules, lock file
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python scripts/check_lock.py

format: $(READY) ## format, and mend what the linter can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

bench: $(READY) ## sagas per second, latency, CPU and memory, and the cost of the barrier, as JSON lines
	@$(BIN)/python -m benchmarks.order
	@$(BIN)/python -m benchmarks.access
	@$(BIN)/python -m benchmarks.listing
	@$(BIN)/python -m benchmarks.pages
	@$(BIN)/python -m benchmarks.beside
	@$(BIN)/python -m benchmarks.barrier

lock: ## renew the lock files (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 --all-extras pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements-image.lock

migration: $(READY) ## write a migration from the difference to app/store/tables.py: make migration NAME="what it does"
	@$(BIN)/alembic revision --autogenerate -m "$(NAME)"

clean: ## remove everything that was made here
	rm -rf $(VENV) .saga .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
