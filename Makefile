# Everything a developer or a first user runs. `make demo` and `make test` need only Python and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test browser page lint types gpu clean

demo: $(VENV)/.installed
	$(BIN)/python deploy/demo.py

test: $(VENV)/.installed-test lint types browser
	$(BIN)/python -m pytest

# A Chromium for the tests of the page: installed with apt-get where that may be done, else it says what to do.
browser:
	bash tests/page/browser.sh

# The tests of the page in their long form: a line of 1 MB, a million documents, everything in dark too.
page: $(VENV)/.installed-test browser
	WINNOW_TEST_LONG=1 $(BIN)/python -m pytest tests/page

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Runs on a machine with a CUDA device, with the packages that it has.
gpu:
	bash tests/gpu/run.sh

clean:
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Winnow needs Python 3.10 or newer; this is " + sys.version.split()[0] + ": call make PYTHON=python3.11, say") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
