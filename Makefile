# SPDX-License-Identifier: MIT
# One word each; `make help` lists them. PYTHON and VENV choose the interpreter and its environment,
# CONSTRAINTS a file of exact versions of what is installed there, such as tests/debian-13.txt.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
NATIVE := $(shell find shared worker embedded -name '[!_]*.[ch]') shared/native/build.py shared/native/table.py

.PHONY: help setup demo test test-xen fuzz sanitize check format bench bench-adoption bench-devices bench-hostile bench-jail bench-recovery bench-xen chaos install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## virtual environment and native modules in this checkout

$(STAMP): pyproject.toml setup.py $(NATIVE) $(CONSTRAINTS)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" CONSTRAINTS="$(CONSTRAINTS)" sh scripts/setup

demo: $(STAMP) ## the main job on real input, without Xen, in under a minute
	@$(BIN)/python -m bench.demo

test: $(STAMP) ## every test that needs no Xen
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-xen: $(STAMP) ## on real Xen, in a machine QEMU emulates (needs apt, Python 3.11)
	@$(BIN)/python -m tests.xen

fuzz: $(STAMP) ## what guests and workers can write, under fuzzers: FUZZ="--seconds 600" (needs clang)
	@$(BIN)/python -m tests.fuzz $(FUZZ)

sanitize: $(STAMP) ## the native code under address, undefined-behaviour and thread sanitizers
	@$(BIN)/python -m tests.sanitize

check: $(STAMP) ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP) ## rewrite to the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## block data path beside fio, as ratios (needs fio)
	@$(BIN)/python -m bench.block

chaos: $(STAMP) ## everything that serves guests killed under verified I/O: CHAOS="--seconds 600"
	@$(BIN)/python -m bench.chaos $(CHAOS)

bench-adoption: $(STAMP) ## what a guest notices of a supervisor's death, and of an upgrade
	@$(BIN)/python -m bench.adoption

bench-devices: $(STAMP) ## 500 devices: connect, memory, mass kill
	@$(BIN)/python -m bench.devices

bench-hostile: $(STAMP) ## one hostile guest: attach time of others under floods, what is left behind
	@$(BIN)/python -m bench.hostile

bench-jail: $(STAMP) ## jailed beside unjailed: start of a worker, data path (needs root)
	@$(BIN)/python -m bench.jail

bench-recovery: $(STAMP) ## journal beside ring order: cost, and fast requests beside slow ones
	@$(BIN)/python -m bench.recovery

bench-xen: $(STAMP) ## disks on real Xen beside QEMU and blkback (needs apt, Python 3.11)
	@$(BIN)/python -m bench.xen

install: ## into an environment of its own: PREFIX=/opt/xenbackd
	@sh scripts/install "$(PYTHON)" "$(or $(PREFIX),/opt/xenbackd)"

clean: ## remove what was built
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shared worker embedded -name '_*.so' -o -name '_*.c' -path '*native*' | xargs rm -f
