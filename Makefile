# SPDX-License-Identifier: MIT
# `make help` lists the targets. PYTHON and VENV choose the interpreter and its environment.
# CONSTRAINTS is a file with the exact versions to install there, such as tests/debian-13.txt.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
NATIVE := $(shell find shared worker embedded -name '[!_]*.[ch]') shared/native/build.py shared/native/table.py

.PHONY: help setup demo test test-xen fuzz sanitize check docs format bench bench-adoption bench-devices bench-hostile bench-jail bench-recovery bench-xen chaos install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## make the virtual environment and the native modules in this checkout

$(STAMP): pyproject.toml setup.py $(NATIVE) $(CONSTRAINTS)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" CONSTRAINTS="$(CONSTRAINTS)" sh scripts/setup

demo: $(STAMP) ## show the main job on real input, without Xen, in under a minute
	@$(BIN)/python -m bench.demo

test: $(STAMP) ## run every test that needs no Xen
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-xen: $(STAMP) ## run the tests on real Xen, in a machine that QEMU emulates (needs apt, Python 3.11)
	@$(BIN)/python -m tests.xen

fuzz: $(STAMP) ## fuzz all input from guests and workers: FUZZ="--seconds 600" (needs clang)
	@$(BIN)/python -m tests.fuzz $(FUZZ)

sanitize: $(STAMP) ## test the native code under address, undefined-behaviour and thread sanitizers
	@$(BIN)/python -m tests.sanitize

check: $(STAMP) ## check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(STAMP) ## bring the generated parts of the documents up to date
	@$(BIN)/python -m tests.project

format: $(STAMP) ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## compare the block data path with fio (needs fio)
	@$(BIN)/python -m bench.block

chaos: $(STAMP) ## kill everything that serves guests, under verified I/O: CHAOS="--seconds 600"
	@$(BIN)/python -m bench.chaos $(CHAOS)

bench-adoption: $(STAMP) ## measure what a guest notices when the supervisor dies or is upgraded
	@$(BIN)/python -m bench.adoption

bench-devices: $(STAMP) ## measure 500 devices: connect, memory, mass kill
	@$(BIN)/python -m bench.devices

bench-hostile: $(STAMP) ## measure attach time beside a hostile guest, and what the guest leaves behind
	@$(BIN)/python -m bench.hostile

bench-jail: $(STAMP) ## compare jailed and unjailed workers: start, data path (needs root)
	@$(BIN)/python -m bench.jail

bench-recovery: $(STAMP) ## compare journal and ring order: cost, and fast requests beside slow ones
	@$(BIN)/python -m bench.recovery

bench-xen: $(STAMP) ## compare disks on real Xen with QEMU and blkback (needs apt, Python 3.11)
	@$(BIN)/python -m bench.xen

install: ## install into an environment of its own: PREFIX=/opt/xenbackd
	@sh scripts/install "$(PYTHON)" "$(or $(PREFIX),/opt/xenbackd)"

clean: ## remove what was built
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shared worker embedded -name '_*.so' -o -name '_*.c' -path '*native*' | xargs rm -f
