# Everything happens in .venv: `rm -rf .venv` undoes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help quickstart clean-quickstart test lint format bench lock system

help:
	@echo "make quickstart  environment, then: from links to clean shards on bundled pictures, with pages to look at"
	@echo "make clean-quickstart  removes what it made, to begin anew"
	@echo "make test        the test suite"
	@echo "make lint        ruff, mypy --strict, and the layers"
	@echo "make bench       every benchmark, one table each (an hour and a half)"
	@echo "make system      Debian packages that some tests and benchmarks drive: Chromium, nginx (asks for root)"
	@echo "make lock        resolve the dependencies anew"

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

quickstart: $(VENV)/ready
	$(BIN)/python examples/quickstart.py

clean-quickstart:
	rm -rf quickstart

test: $(VENV)/ready
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/ready
	for script in tests/benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit; done

system:
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends chromium nginx-light fonts-dejavu-core

lock: $(VENV)/ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-annotate --no-header --all-extras pyproject.toml --output-file requirements.lock
