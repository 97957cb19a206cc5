# make demo: the main job on real input.   make quick: the loop while working.   make test: the whole suite.
# All do their set-up themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
# How many processes run the suite: two cores carry four, as half of the time is waiting.
JOBS ?= 4
# They take groups of tests in the order in which tests/conftest.py puts them, not by the number of tests.
SIDE_BY_SIDE := --numprocesses $(JOBS) --dist loadgroup --no-loadscope-reorder
# Debian 13 keeps /tmp in memory; the trees of the tests and the demo are better on a disk.
export PYTEST_DEBUG_TEMPROOT ?= /var/tmp
# Where Python may not keep what it compiled, every start of pytest rewrites all tests again: 9 s instead of 2.
export PYTHONDONTWRITEBYTECODE :=

# Installing: the interpreter stays what it is, whatever a checkout, a virtual environment or a user's own Python becomes.
PREFIX ?= /usr/local
PYTHON ?= /usr/bin/python3
INSTALL = $(PYTHON) -m tools.install --prefix "$(PREFIX)" --destdir "$(DESTDIR)"

.NOTPARALLEL:
.PHONY: help venv setup setup-test demo quick test bench lint format man docs install uninstall deb image clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## What the demo needs: Debian packages (as root, where missing) and .venv; nothing when all is there
	@tools/setup/packages.sh demo
	@tools/setup/venv.sh

setup-test: ## What the tests need besides: more packages, programs of Debian sid and Go modules to compare with (in .cache)
	@tools/setup/test.sh

venv: ## Only .venv with the project and its development tools; needs no root
	@tools/setup/venv.sh

demo: setup ## The main job end to end: import, container, commit, push, pull, compare
	@$(BIN)/python -m tools.demo

quick: lint ## Lint, types and unit tests, in under a minute: without root, Podman or any set-up but .venv
	@STRATUM_TEST_EXAMPLES=0.1 $(BIN)/pytest $(SIDE_BY_SIDE) -m 'not root' tests/unit

test: setup-test lint ## Everything: lint, types, whole suite (as root, with podman and the real kernel)
	@$(BIN)/pytest $(SIDE_BY_SIDE)

bench: setup-test ## Side by side with what people use instead (tests/bench/README.md); BENCH_ARGS selects
	@tools/setup/packages.sh bench
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

lint: venv ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: venv ## Lay the code out and apply ruff's safe fixes
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

man: venv ## Man pages of all verbs, in build/man
	@$(BIN)/python -m tools.manpages build/man

docs: venv ## The pages that the code says of itself, in docs/reference
	@$(BIN)/python -m tools.reference

install: ## Into PREFIX (default /usr/local): programs, units, man pages, completion; HOOK=yes, DESTDIR=, PYTHON=
	@tools/setup/packages.sh install
	@$(INSTALL) --python "$(PYTHON)" --hook "$(HOOK)" install

uninstall: ## What 'make install' installed in PREFIX, and nothing else; stores and configuration stay
	@$(INSTALL) --force "$(FORCE)" uninstall

deb: ## A package for Debian 12 and 13, in dist
	@tools/setup/packages.sh install
	@$(INSTALL) --python "$(PYTHON)" deb

image: ## The driver's image for amd64 and arm64, without a builder, in dist; IMAGE_ARGS="--target cli" for the other
	@tools/setup/packages.sh install
	@$(PYTHON) -m tools.image --python "$(PYTHON)" $(IMAGE_ARGS)

clean: ## Remove what set-up and tests made in the checkout
	rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis build dist
	find stratum tests tools -name __pycache__ -prune -exec rm -rf {} +
