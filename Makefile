# Two commands matter on a fresh machine: `make demo` and `make test`. Each installs what it needs first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Asked for exactly: any looser requirement makes pip fetch a build for GPUs, several gigabytes of it.
TORCH  := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check fix bench docs screenshots browser lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Holter needs Python 3.11 or newer; install it, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Holter with what the demo needs …"
	@$(PIP) $(TORCH) --editable ".[server,examples]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing what the tests and checks need …"
	@$(PIP) $(TORCH) --editable ".[server,examples,dev]"
	@touch $@

demo: $(VENV)/.demo  ## the service, real trainings streaming into it, and the page
	@$(BIN)/holter demo

test: $(VENV)/.dev browser  ## every test: SQLite, PostgreSQL, Chromium, webhooks
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: $(VENV)/.dev  ## unit tests only
	$(BIN)/python -m pytest tests/unit -n 2 -m "not slow"

check: $(VENV)/.dev  ## read only: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.dev  ## repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## the benchmarks that need no peer
	@for script in "agent_overhead.py --peers none" "agent_crash.py --peers none --runs 5" alert_latency.py "delivery.py --quick" engine.py \
	  "store.py --only ingest,disk,views,memory,crash --kills 20"; do \
	  echo "== $$script"; $(BIN)/python bench/$$script || exit 1; done

docs: $(VENV)/.dev  ## write the generated pages of docs/ anew
	$(BIN)/python -m holter_server.settings > docs/settings.md
	$(BIN)/python -m holter_server.cli.reference > docs/cli.md
	$(BIN)/python -m holter.health.document docs/health.md

screenshots: $(VENV)/.dev browser  ## docs/images/, from real trainings
	$(BIN)/python docs/screenshots.py

browser:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium …"; apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	  else echo "The browser tests need Chromium: sudo apt-get install chromium"; exit 1; fi; }

lock: $(VENV)/.dev  ## constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude holter --exclude torch | grep -v '@ file' > constraints.txt

clean:  ## remove everything that make made
	rm -rf $(VENV) .holter build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
