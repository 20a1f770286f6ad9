# Targets for people: see `make help`. Everything needs root, for a cluster needs namespaces, loop devices and users.

PYTHON := .venv/bin/python
PLUGIN := build/spank_ebb.so
ENGINE := build/sbbd
SOURCES := $(wildcard ebb orchestrator dnd healthchecker spank tests setup.py)
export PYTHONDONTWRITEBYTECODE := 1
export MAKECMDGOALS

SUITE :=

.PHONY: help setup demo packages packages-test test bench lint lua-test unit-test cluster-test test-virtual lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing (Debian packages, .venv), build the SPANK plugin and the SBB's programs
	@tools/setup
	@$(MAKE) --no-print-directory $(PLUGIN) $(ENGINE)

$(PLUGIN): $(wildcard spank/*.py spank/*.c spank/*.h)
	$(PYTHON) -m spank._cffi_build --output build/

$(ENGINE): $(wildcard dnd/sbb/engine/*) setup.py
	$(PYTHON) setup.py --quiet build_sbb --output=build

demo: setup ## start a private cluster, run a job with a burst buffer, check everything, take it down
	@tests/cluster/demo

packages: setup ## Debian packages into dist/<suite>/ for bookworm, trixie and sid, or for one: SUITE=trixie
	@for suite in $(or $(SUITE),bookworm trixie sid); do packaging/build --suite $$suite || exit 1; done

test: setup ## all checks and tests, those on real kernels with one Slurm release (test-virtual: others)
	@$(PYTHON) tools/test

bench: setup ## measure, and print a table against the budgets
	@$(PYTHON) -m tests.bench

lint: setup ## ruff, mypy, luacheck
	@$(PYTHON) tools/test lint

lua-test: setup ## tests of the hooks in every Lua version
	@$(PYTHON) tools/test lua

unit-test: setup ## tests without a cluster
	@$(PYTHON) tools/test unit

packages-test: setup ## builds, installs, tries and purges the packages
	@$(PYTHON) tools/test packages

cluster-test: setup ## end-to-end tests
	@$(PYTHON) tools/test cluster

test-virtual: setup ## end-to-end tests on real kernels; SLURM=22.05, 24.11 or 26.05: all of them on one release
	@SLURM=$(SLURM) $(PYTHON) tools/test virtual

lock: ## newest versions into requirements.lock
	@tools/lock

clean: ## remove what was built; the Debian packages stay
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
