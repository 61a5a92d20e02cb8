# make demo: see the effect on real digits. make test: lint, types, all tests.
# Both set up what they need, with nothing but git, make and Python on the machine.

PYTHON ?= python3
VENV := .venv
CORE := .venv-core
BIN := $(VENV)/bin
TESTS ?=

.PHONY: demo test lint types unit core setup clean
.DELETE_ON_ERROR:

demo: setup
	@$(BIN)/python -m examples.demo

test: lint types unit core

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

unit: setup
	@$(BIN)/python -m pytest -n auto $(TESTS)

# The core with torch alone: no other package may be needed to import and use it.
core: $(CORE)/.installed
	@$(CORE)/bin/python -W ignore tests/core_alone.py

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(call check_python)
	@echo "Setting up $(VENV): about three minutes and 6 GB, most of it PyTorch."
	@$(PYTHON) -m venv $(VENV) || { $(venv_failed); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]' || { $(install_failed); }
	@touch $@

$(CORE)/.installed: pyproject.toml
	@$(call check_python)
	@$(PYTHON) -m venv $(CORE) || { $(venv_failed); }
	@$(CORE)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' || { $(install_failed); }
	@touch $@

clean:
	rm -rf $(VENV) $(CORE) runs .mypy_cache .pytest_cache .ruff_cache .hypothesis

check_python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "isoreg needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there)."; \
	echo "Install one and name it, for example: make test PYTHON=python3.12"; exit 1; }
venv_failed = echo "Could not make a virtual environment with '$(PYTHON) -m venv'."; \
	echo "On Debian and Ubuntu: apt install python3-venv. Then run make again."; exit 1
install_failed = echo "Installing failed; pip's own message is above."; \
	echo "Check the network, a free disk of 8 GB and a PyTorch build for this Python; then run make again."; exit 1
