# A bare machine needs python3 (3.11 or newer, with venv), make, bash and git; everything else goes into .venv.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# $(call timed,what,command): run it, then say how long it took.
timed = @SECONDS=0; { $(2); }; status=$$?; echo "make: $(1) took $$SECONDS s"; exit $$status

.PHONY: help demo test lint picture clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: $(READY)  ## teach the tiny model two characters, mix them, show it: runs/demo/index.html
	$(call timed,the demo,$(BIN)/castmix demo --out runs/demo)

test: $(READY)  ## all tests
	$(call timed,the test run,$(BIN)/python -m pytest)

lint: $(READY)  ## style, types, layers
	$(call timed,linting,$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/python -m pytest -q tests/test_layers.py)

picture: $(READY)  ## draw docs/packages.svg anew from the imports of toolkit/
	$(BIN)/python docs/draw_packages.py

clean:  ## remove the environment and all caches; what is in runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed once, and again when what there is to install changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("castmix needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "make: installing into $(VENV), once: about 2 GB and a few minutes"
	$(call timed,the installation,$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]')
	@touch $@
