# make book | test | bench | lint | clean | help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON  ?= python3.11
DATA    ?= smear
PROFILE ?= laptop
SEEDS   ?= 0
JOBS    ?= 1

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help env book test lint bench clean lock

help: ## what there is to make
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "variables:  DATA=$(DATA) PROFILE=$(PROFILE) SEEDS=\"$(SEEDS)\" JOBS=$(JOBS)"

env: $(READY) ## the environment .venv, from requirements.lock with hashes

$(READY): requirements.lock pyproject.toml
	@echo "environment: .venv from requirements.lock"
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=path of a Python 3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m leuk_lib.book.mathjax
	@touch $(READY)

book: $(READY) ## all notebooks, then the book: make book DATA=folder PROFILE=smoke SEEDS="0 1 2" JOBS=2
	@$(BIN)/leuk run --dataset "$(DATA)" --profile $(PROFILE) --seeds "$(SEEDS)" --jobs $(JOBS)
	@$(BIN)/leuk book --dataset "$(DATA)" --profile $(PROFILE) --seeds "$(SEEDS)"

lint: $(READY) ## ruff, mypy, import-linter, notebooks without outputs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check leuk_lib tests
	@$(BIN)/mypy leuk_lib
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

test: $(READY) lint ## environment, lint, types, tests, smoke notebooks, book build, browser
	@$(BIN)/pytest -m "not notebooks and not browser"
	@$(BIN)/leuk run --profile smoke
	@$(BIN)/leuk book --profile smoke
	@$(BIN)/pytest -m "notebooks or browser"

bench: $(READY) ## speed ratios against named peers, in one process each
	@for bench in tests/benchmarks/bench_*.py; do $(BIN)/python "$$bench"; done

lock: ## resolve requirements.lock anew (maintainers)
	@$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --extra book --extra onnx --extra dev \
	  --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock

clean: ## remove everything that was generated (the environment too)
	@rm -rf .venv results book/_build book/chapters book/generated book/_static/mathjax .pytest_cache .mypy_cache .ruff_cache
