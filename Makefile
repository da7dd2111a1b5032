# Everything a person types. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3.11
HOST ?= 127.0.0.1
PORT ?= 3000
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CHECKOV := .tools/checkov/.installed
export BENTOML_DO_NOT_TRACK := True
export HF_HUB_DISABLE_PROGRESS_BARS := 1
MAKEFLAGS += --no-print-directory

.PHONY: help setup demo serve test browser check format bench soak gpu-check wrk clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP)  ## only the environment: .venv with the pinned dependencies

$(STAMP): $(wildcard requirements/*.txt) constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed, this is " + sys.version.split()[0] + "; set PYTHON=…")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (about 2 GB, a few minutes)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements/dev.txt
	@touch $@

$(CHECKOV): constraints-checkov.txt | $(STAMP)
	@$(RUN) -m infra checkov-env
	@touch $@

demo: setup  ## everything once, for real, on bundled data
	@$(RUN) -m demo

serve: setup  ## the server on PORT, making the models first if the store has none
	@$(RUN) -m demo models --if-missing
	@exec $(VENV)/bin/bentoml serve --host $(HOST) --port $(PORT) --timeout-keep-alive 75

test: setup $(CHECKOV) browser wrk  ## the whole test suite
	@$(RUN) -m pytest

# The playground is tested in a real Chromium, which comes from Debian's packages and not from Python's.
browser:
	@command -v chromium >/dev/null || { \
		echo "installing chromium for the browser tests"; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		{ echo "the browser tests need chromium; install it (apt-get install chromium) and try again"; exit 1; }; }

check: setup  ## what CI holds a change to: lint, types, layering, tests
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy
	@$(MAKE) test

format:  ## put the sources in order
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: setup wrk  ## matching and generation beside raw limits and peers, overloaded, abandoned -> benchmarks/results/
	@$(RUN) -m demo models --if-missing
	@$(RUN) -m benchmarks $(BENCH)

soak: setup  ## ten minutes of mixed traffic, rubbish and departures on the store's models: memory flat, nothing stuck
	@$(RUN) -m demo models --if-missing
	@SOAK_SECONDS=$${SOAK_SECONDS:-600} SOAK_HOME=$${BENTOML_HOME:-$$HOME/bentoml} $(RUN) -m pytest tests/e2e/test_soak.py --timeout 1200

gpu-check: setup  ## the encoders' contract tests on this machine's GPU -> benchmarks/results/gpu.json
	@$(RUN) -m benchmarks.gpu

# The driver of the benchmark's closed loops is a C program, light enough not to be what is measured.
wrk:
	@command -v wrk >/dev/null || { \
		echo "installing wrk, which makes the load"; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk >/dev/null; } || \
		{ echo "the benchmark and its tests need wrk; install it (apt-get install wrk) and try again"; exit 1; }; }

clean:  ## runs, reports and caches; the environment and the model store stay
	rm -rf runs reports .pytest_cache .mypy_cache .ruff_cache .hypothesis
