# Everything runs in .venv, which is made here from the pinned constraints.txt.
# Needed beforehand: make, and Python 3.11 or newer with its venv module.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
# What is measured against keeps older versions of some packages, so it has an environment of its own.
BENCH := .venv-bench
PEERS := $(BENCH)/.installed
PINS := pyproject.toml constraints.txt

# The first of these that is new enough; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

# MkDocs Material prints a notice about its successor at every build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(CORE) ## Draw a catalogue, train on it, evaluate, and write a report into demo/
	$(BIN)/prismrec demo --out demo

test: $(DEV) ## Run the tests, one process per core and at most 8
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n logical --maxprocesses 8

lint: $(DEV) ## Check format, style, types, rooms and the site's pages; change nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --site-dir build/site

format: $(DEV) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(PEERS) ## Measure against other software, about half an hour; DATA=folder adds MovieLens
	@set -e; for script in benchmarks/bench_*.py; do \
		echo "== $$script"; \
		if [ "$$script" = benchmarks/bench_mamex_target.py ] && [ -n "$(DATA)" ]; then \
			$(BENCH)/bin/python "$$script" --data "$(DATA)"; \
		else $(BENCH)/bin/python "$$script"; fi; done
	@$(BENCH)/bin/python benchmarks/table.py

docs: $(DEV) ## Build the site into site/
	$(BIN)/mkdocs build --strict
	@echo "The site: site/index.html"

clean: ## Remove what was built and cached; .venv and runs/ stay
	rm -rf demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last thing that venv installs: where it stands, the environment is whole.
$(BIN)/pip:
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer was found. Install one, or name it:" \
		"make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11, or does not run." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment. On Debian and" \
		"Ubuntu its venv module is a package of its own: python3-venv." >&2; exit 1; }

$(CORE): $(PINS) | $(BIN)/pip
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(DEV): $(PINS) | $(BIN)/pip
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $(CORE) $@

$(PEERS): $(PINS) benchmarks/requirements.txt | $(BIN)/pip
	$(BIN)/python -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --constraint constraints.txt --editable '.[serve]'
	$(BENCH)/bin/python -m pip install --requirement benchmarks/requirements.txt
	@touch $@
