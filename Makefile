# Everything below works on a machine that has Python 3.11 or newer and make; the first target run sets up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
STAMP := $(VENV)/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: demo test check bench bench-peers fmt clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("graftwork needs Python 3.11 or newer; name one with PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train small models on real data, merge them, print what came out
	$(BIN)/graftwork demo

test: $(STAMP)  ## All tests
	$(BIN)/python -m pytest

check: $(STAMP)  ## Lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## The benchmarks; figures go to docs/results/
	$(BIN)/python -m benchmarks

$(PEERS)/.installed: benchmarks/peers.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	@touch $@

bench-peers: $(STAMP)  ## graftwork against mergekit, in an environment of its own; skipped where that cannot be installed
	@if test -n "$$GRAFTWORK_PEER_PYTHON" || $(MAKE) --no-print-directory $(PEERS)/.installed; then $(BIN)/python -m benchmarks peers; \
	else echo "bench-peers: skipped, for mergekit and torch (benchmarks/peers.txt) cannot be installed here"; fi

fmt: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
