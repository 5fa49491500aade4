# Each target sets up all that it needs on a machine with only Python 3.11–3.13, make and a network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup check test demo bench bench-peers clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    run Kafka, Redis and the workers, send 5,000 Pins through, search, write a page"
	@echo "make test    run all tests against a real Kafka and a real Redis"
	@echo "make check   lint and type-check"
	@echo "make bench   measure the claims that fit in 15 minutes"
	@echo "make bench-peers    measure the index beside the stores that one would pick instead (10 minutes; CODES=100000: 2)"
	@echo "make setup   only install into $(VENV)"

setup: $(STAMP)

# uv comes from pip, into the environment itself; the lock names every package with its hashes.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python is {sys.version.split()[0]}, expected 3.11 to 3.13: make PYTHON=python3.12 …")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest

demo: setup
	$(BIN)/pinstream demo

bench: setup
	$(BIN)/python -m bench

CODES ?= 1000000

bench-peers: .venv-peers/.installed
	$(BIN)/python -m bench.peers --python .venv-peers/bin/python --codes $(CODES)

.venv-peers/.installed: bench/peers/requirements.txt | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	$(BIN)/uv pip install --quiet --python .venv-peers/bin/python -r bench/peers/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-out
