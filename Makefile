# Two commands from a fresh clone: `make demo` shows what it does, `make test` checks all of it. Both set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types layers pytest clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, pretrain, detect known and unknown things, learn some of them, act, write a report"
	@echo "make test   set up, then ruff, types, layers and all tests"
	@echo "make clean  remove .venv and caches"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Surnia needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "Could not make a virtual environment: on Debian, apt install python3-venv"; exit 1; }

# Stamps: an unchanged pyproject.toml is never installed twice.
.venv/.demo: .venv/bin/python pyproject.toml
	@echo "Installing PyTorch and the rest into .venv: several GB with its CUDA libraries, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	@echo "Installing PyTorch, the rest and the development tools into .venv: a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.demo $@

demo: .venv/.demo
	$(BIN)/surnia demo

test: lint types layers pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

layers: .venv/.dev
	$(BIN)/lint-imports --no-cache

pytest: .venv/.dev
	$(BIN)/python -m pytest -n 2

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
