# tradingmesh: everything a developer or operator types. `make` alone lists it.
#
# A target's line ends in `#- what it does`; the list is made from those lines.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP_ARGS ?=
PREFIX ?= /opt/tradingmesh
DESTDIR ?=
DATA ?=
DEMO_SECONDS ?= 60

# One thread a process: the host's cores are shared by many processes, and a library that starts
# threads at import would make the warm parent unsafe to fork.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup build format check test bench demo docs install uninstall clean

help:
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z][a-z%-]*\):.*#- \(.*\)/  \1|\2/p' Makefile | sed 's/%/NAME/' \
		| awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

setup: $(STAMP) #- make .venv with everything in it (fast the second time; PIP_ARGS go to pip)

$(STAMP): pyproject.toml setup.py
	@.ci/preflight "$(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) --editable '.[dev]'
	@touch $@

build: $(STAMP) #- compile the C extensions (MESH_SANITIZE=address,undefined or thread)
	@$(BIN)/python setup.py --quiet build_ext --inplace

format: $(STAMP) #- put every file into the one format
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format .
	@git ls-files '*.c' '*.h' | xargs $(BIN)/clang-format -i

check: $(STAMP) #- lint, format (Python and C), types, spelling: what every change must pass
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@git ls-files '*.c' '*.h' | xargs $(BIN)/clang-format --dry-run --Werror
	@$(BIN)/mypy
	@$(BIN)/codespell

test: build #- all tests but the minutes-long ones: first in parallel, then real processes in turn
	@status=0; \
	$(BIN)/python -m pytest -q -n 2 -m "not (stress or crash or e2e or tsan or model)" || status=1; \
	$(BIN)/python -m pytest -q -m "(crash or e2e or tsan or model) and not stress" || status=1; \
	exit $$status

test-%: build #- one suite: crash, e2e, stress (minutes), tsan (the C core under sanitizers), model
	@$(BIN)/python -m pytest -m $*

bench: build #- every bench in turn
	@set -e; for file in bench/bench_*.py; do $(BIN)/python $$file; done

bench-%: build #- one bench: mesh, supervisor, replayer, ingest, env, trainer
	@$(BIN)/python bench/bench_$*.py

demo: build #- the whole loop on synthetic data, then meshctl top (DATA=path: recorded, DEMO_SECONDS)
	@DEMO_SECONDS=$(DEMO_SECONDS) $(BIN)/meshctl demo $(if $(DATA),--data $(DATA))

docs: $(STAMP) #- write the generated pages of docs/
	@$(BIN)/python -m config.reference > docs/configuration.md
	@$(BIN)/python -m workers.supervision.state_machine_page > docs/lifecycle.md

install: #- systemd units, users and a virtualenv in PREFIX (DESTDIR); `uninstall` takes them away
	@systemd/install.sh "$(DESTDIR)" "$(PREFIX)" "$(PYTHON)"

uninstall:
	@systemd/uninstall.sh "$(DESTDIR)" "$(PREFIX)"

clean: #- remove what was built and cached; .venv stays
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .run .coverage
	@find . -path ./.venv -prune -o \( -name __pycache__ -o -name '*.so' -o -name '*.o' \) \
		-exec rm -rf {} +
