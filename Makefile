# Needs python3 (3.11 or newer, with venv), make, bash and git. Everything else is installed into .venv.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# One test process per core, at most eight, because each needs more than 1 GB of memory. With worksteal, a
# process that has no tests left takes some from another; tests of one file mostly stay in one process.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# $(call timed,what,command): run the command, then print how long it took.
timed = @SECONDS=0; { $(2); }; status=$$?; echo "make: $(1) took $$SECONDS s"; exit $$status

.PHONY: help demo test quick lint picture clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: $(READY)  ## train a LoRA of two characters on the tiny model and mix them: runs/demo/index.html
	$(call timed,the demo,$(BIN)/castmix demo --out runs/demo)

test: $(READY)  ## run all tests, on all cores
	$(call timed,the test run,$(PYTEST))

quick: $(READY)  ## run the tests that are not marked slow
	$(call timed,the quick test run,$(PYTEST) -m "not slow")

lint: $(READY)  ## check style, types, layers, limits, CONTRIBUTING and its picture
	$(call timed,linting,$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/python -m pytest -q $(addprefix tests/test_,layers.py limits.py picture.py contributing.py))

picture: $(READY)  ## draw docs/packages.svg from the imports of toolkit/
	$(BIN)/python docs/draw_packages.py

clean:  ## remove .venv and all caches, but not runs/
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed once, and again when pyproject.toml or constraints.txt changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("castmix needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "make: installing into $(VENV), once: about 2 GB and a few minutes"
	$(call timed,the installation,$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]')
	@touch $@
