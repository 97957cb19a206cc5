# make demo: the main job on real input.   make test: the whole suite.   Both do all set-up themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
# How many processes run the suite.
JOBS ?= 2
# Debian 13 keeps /tmp in memory; the trees of the tests and the demo are better on a disk.
export PYTEST_DEBUG_TEMPROOT ?= /var/tmp

.PHONY: help setup demo test test-unit bench lint format man clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## Debian packages (as root, where missing), .venv, programs to compare with; nothing when all is there
	@tools/setup/packages.sh
	@tools/setup/venv.sh
	@tools/setup/oracles.sh

demo: setup ## The main job end to end: import, container, commit, push, pull, compare
	@$(BIN)/python -m tools.demo

test: lint ## Everything: lint, types, whole suite (as root, with podman and the real kernel)
	@$(BIN)/pytest --numprocesses $(JOBS) --dist loadgroup

test-unit: ## What needs no root, no podman, no registry server and no program to compare with
	@tools/setup/venv.sh
	@$(BIN)/pytest -m 'not (root or podman or registry or oracle)'

bench: setup ## Side by side with what people use instead (tests/bench/README.md); BENCH_ARGS selects
	@tools/setup/packages.sh bench
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: setup ## Lay the code out and apply ruff's safe fixes
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

man: setup ## Man pages of all verbs, in build/man
	@$(BIN)/python -m tools.manpages build/man

clean: ## Remove what set-up and tests made in the checkout
	rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis build dist
