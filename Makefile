# make book | pdf | smoke | test | test-library | test-runs | test-long | coverage | bench | lint | changelog | canaries | audit | sbom | clean | help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON  ?= python3.11
DATA    ?= smear
PROFILE ?= laptop
SEEDS   ?= 0
# Chapters at a time; on a GPU one has it to itself.
JOBS    ?= $(if $(filter laptop smoke,$(PROFILE)),2,1)
SPLIT   ?=
CPU     ?=
SMOKE_JOBS ?= 2
VENV    ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready
AUDIT := $(VENV)/audit/bin
WORKERS := --dist loadfile --no-loadscope-reorder  # a file each at a time, the slowest first
LOCK := $(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-annotate --no-header

.PHONY: help env book pdf smoke test test-library test-runs test-long coverage lint bench changelog canaries audit sbom clean lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "variables:  DATA=$(DATA) PROFILE=$(PROFILE) SEEDS=\"$(SEEDS)\" JOBS=$(JOBS)"

env: $(READY) ## the environment .venv, from requirements.lock with hashes; CPU=1: without libraries for GPUs

$(READY): requirements.lock .ci/install.lock pyproject.toml
	@echo "environment: $(VENV) from requirements.lock"
	@$(PYTHON) -c "" 2>/dev/null || { echo "make: $(PYTHON) does not run; set PYTHON=path of a Python 3.11, 3.12 or 3.13"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .ci/install.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode $(if $(CPU),--excludes .ci/cuda.txt) --require-hashes -r requirements.lock
	@if [ -n "$(CPU)" ]; then grep -oE '^torch(vision)?==[^ ]+' requirements.lock | xargs \
	  $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --no-deps --torch-backend cpu; fi
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

book: $(READY) ## all notebooks, then the book: make book DATA=folder PROFILE=smoke SEEDS="0 1 2" JOBS=1 SPLIT=published
	@$(BIN)/leuk run --dataset "$(DATA)" --profile $(PROFILE) --seeds "$(SEEDS)" --jobs $(JOBS) \
	  $(if $(SPLIT),--split $(SPLIT))
	@$(BIN)/leuk book --dataset "$(DATA)" --profile $(PROFILE) --seeds "$(SEEDS)"

pdf: book ## the book, and the whole of it as book/_build/book.pdf, printed by Chromium
	@$(BIN)/leuk book --dataset "$(DATA)" --profile $(PROFILE) --seeds "$(SEEDS)" --pdf

lint: $(READY) ## ruff, codespell, mypy, import-linter, notebooks without outputs, Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/codespell .
	@$(BIN)/ruff format --check leuk_lib tests
	@$(BIN)/mypy leuk_lib
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	@$(BIN)/hadolint Dockerfile

test: $(READY) ## environment, lint, types, smoke notebooks, book build, tests, browser
	@$(MAKE) --no-print-directory -k -j 3 SMOKE_JOBS=1 lint test-runs test-library

test-library: $(READY) ## the tests that need no run, which `make test` runs beside the linters and the smoke run
	@$(BIN)/pytest --doctest-modules leuk_lib tests $(WORKERS) -n 2 -m "not (notebooks or browser or long)"

test-runs: smoke ## the smoke run and its book, then the tests that read them or make runs
	@$(BIN)/pytest $$(grep -rlE 'mark\.(notebooks|browser)' tests --include='test_*.py') $(WORKERS) -n 2 \
	  -m "(notebooks or browser) and not long"

smoke: $(READY) ## the smoke run and its book, which tests read
	@$(BIN)/leuk run --profile smoke --jobs $(SMOKE_JOBS)
	@$(BIN)/leuk book --profile smoke

test-long: smoke ## the tests marked "long": thousands of random cases, for nightly runs
	@$(BIN)/pytest -m long $(WORKERS) -n 2

coverage: smoke ## the tests of `make test` with the share of lines that they run, which may not fall below the floor
	@$(BIN)/pytest --doctest-modules leuk_lib tests $(WORKERS) -n 2 --cov=leuk_lib --cov-report=term:skip-covered

bench: $(READY) ## speed ratios against named baselines, each in one process
	@for bench in tests/benchmarks/bench_*.py; do $(BIN)/python "$$bench"; done

changelog: $(READY) ## what the next release will say has changed
	@$(BIN)/towncrier build --draft --version next

canaries: $(READY) ## do the studies' canary jobs still give the numbers of their records?
	@$(BIN)/leuk study verify

$(AUDIT)/pip-audit: .ci/audit.lock $(READY)
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(VENV)/audit
	@$(BIN)/uv pip install -q --python $(AUDIT)/python --require-hashes -r .ci/audit.lock
	@touch $@

audit: $(AUDIT)/pip-audit ## known vulnerabilities of the locked packages, from the public database
	@for lock in requirements.lock .ci/install.lock .ci/audit.lock; do \
	  $(AUDIT)/pip-audit --strict --require-hashes --disable-pip -r "$$lock"; done

sbom: $(AUDIT)/pip-audit ## sbom.json: the locked packages with their hashes as a bill of materials (CycloneDX)
	@$(AUDIT)/cyclonedx-py requirements --output-reproducible --of JSON -o sbom.json requirements.lock
	@echo sbom.json

lock: ## resolve the lock files again (maintainers)
	@$(LOCK) --extra book --extra onnx --extra lora --extra dev pyproject.toml -o requirements.lock
	@$(LOCK) -c requirements.lock .ci/install.in -o .ci/install.lock
	@$(LOCK) .ci/audit.in -o .ci/audit.lock

clean: ## remove everything that was generated (the environment too)
	@rm -rf $(VENV) results book/_build book/chapters book/generated .pytest_cache .mypy_cache .ruff_cache
