# make demo: see the effect on real digits. make test: lint, types, all tests, the site, the distribution.
# Both set up what they need, with nothing but git, make and Python on the machine.

PYTHON ?= python3
VENV := .venv
CORE := .venv-core
DOCS := .venv-docs
BIN := $(VENV)/bin
SITE := build/site
TESTS ?=
# The oldest torch that pyproject.toml promises, and the tests that need nothing but torch.
FLOOR := $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml).0
CORE_TESTS := $(patsubst %,tests/test_%.py,balance devices diagnostics distances distributed hazards \
	layers lil loading masks memory moved_layers penalty recorder references regularizer report right_tensor \
	shapes sharded_models torch_backend)

.PHONY: demo test lint types unit core floor docs dist mutants setup clean
.DELETE_ON_ERROR:

demo: setup
	@$(BIN)/python -m examples.demo

# The old torch first: pip takes 4 GB beside it while it installs, which are free again for the rest.
# The site before the tests: one of them looks at it, in a browser where there is one.
test: $(CORE)/.installed lint types docs unit core floor dist

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

# By file: the blocks of a page share their names, so one worker runs them all.
unit: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

# The core with the oldest torch alone: no other package may be needed to import and use it.
core: $(CORE)/.installed
	@PYTHONPATH=. $(CORE)/bin/python -W ignore tests/core_alone.py

# The core's tests once more, on the oldest torch and without any extra.
floor: $(CORE)/.installed
	@test -e $(CORE)/floor || { $(PYTHON) -m venv $(CORE)/floor || { $(venv_failed); }; }
	@ls -d $(CURDIR)/$(CORE)/lib/python*/site-packages > "$$(ls -d $(CORE)/floor/lib/python*/site-packages)/torch.pth"
	@$(call pip_install,$(CORE)/floor,hypothesis numpy pytest pytest-xdist sybil)
	@$(CORE)/floor/bin/python -m pytest -q -n auto --dist loadfile --disable-warnings $(CORE_TESTS)

# The site, with warnings as errors. It imports isoreg beside the torch of $(CORE).
docs: $(DOCS)/.installed $(CORE)/.installed
	@rm -rf $(SITE)
	@$(DOCS)/bin/python -W ignore -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs . $(SITE)
	@echo "The site is in $(SITE)/index.html"

# Wheel and sdist, checked; then the wheel is installed beside a torch and nothing else, and tried from outside.
dist: $(DOCS)/.installed $(CORE)/.installed
	@rm -rf dist build/clean && mkdir -p build
	@$(DOCS)/bin/python -m build --outdir dist . > build/dist.log 2>&1 || { cat build/dist.log; exit 1; }
	@$(DOCS)/bin/python -m twine check --strict dist/*
	@$(CORE)/bin/python -m venv build/clean
	@ls -d $(CURDIR)/$(CORE)/lib/python*/site-packages > "$$(ls -d build/clean/lib/python*/site-packages)/torch.pth"
	@$(call pip_install,build/clean,dist/*.whl)
	@cd build && clean/bin/python -W ignore ../tests/installed.py

# What the tests do not notice when a file is broken: make mutants FILE=isoreg/masks.py, or SAMPLE=250 SEED=2 of all files.
# No part of make test.
mutants: $(VENV)/.mutants
	@OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(FILE) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(MORE)

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(call check_python)
	@echo "Setting up $(VENV): about three minutes and 6 GB, most of it PyTorch."
	@$(PYTHON) -m venv $(VENV) || { $(venv_failed); }
	@$(call pip_install,$(VENV),-e '.[test]')
	@touch $@

$(VENV)/.mutants: $(VENV)/.installed
	@$(call pip_install,$(VENV),-e '.[mutants]')
	@touch $@

$(CORE)/.installed: pyproject.toml
	@$(call check_python)
	@echo "Setting up $(CORE): about two minutes and 7 GB, the oldest PyTorch."
	@$(PYTHON) -m venv $(CORE) || { $(venv_failed); }
	@$(call pip_install,$(CORE),'torch==$(FLOOR)')
	@touch $@

$(DOCS)/.installed: docs/requirements.txt
	@$(call check_python)
	@$(PYTHON) -m venv $(DOCS) || { $(venv_failed); }
	@$(call pip_install,$(DOCS),-r docs/requirements.txt)
	@touch $@

clean:
	rm -rf $(VENV) $(CORE) $(DOCS) build dist runs .mypy_cache .pytest_cache .ruff_cache .hypothesis

check_python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "isoreg needs Python 3.10 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there)."; \
	echo "Install one and name it, for example: make test PYTHON=python3.12"; exit 1; }
venv_failed = echo "Could not make a virtual environment with '$(PYTHON) -m venv'."; \
	echo "On Debian and Ubuntu: apt install python3-venv. Then run make again."; exit 1
# pip unpacks beside the environment: /tmp is often a small disk in memory.
pip_install = mkdir -p $(1)/tmp && TMPDIR='$(CURDIR)/$(1)/tmp' \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) && rm -rf $(1)/tmp || { \
	rm -rf $(1)/tmp; echo "Installing failed; pip's own message is above."; \
	echo "Check the network, a free disk (8 GB for make demo, 16 for make test)"; \
	echo "and a PyTorch build for this Python; then run make again."; exit 1; }
