# `make` alone lists what can be done. Needs Python ≥ 3.11 and make, nothing else.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# python3 where it is new enough, else the newest that has a name of its own
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
FIND_PYTHON = for python in $(PYTHONS); do \
	  $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	    && { command -v $$python; break; }; done
PORT ?= 3000
TEST_PROCESSES ?= 2
# What runs is what was installed, whatever the shell has set.
unexport PYTHONPATH PYTHONHOME

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: $(STAMP) ## Make .venv with the locked dependencies

# Made anew only when what it is made from has changed; pip's own configuration (mirrors, proxies) is honoured.
$(STAMP): requirements.lock pyproject.toml
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then echo "Python 3.11 to 3.14 with venv is needed; found none of: $(PYTHONS)" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ]; then echo "Making $(VENV) with $$python"; "$$python" -m venv $(VENV); fi
	@echo "Installing the locked dependencies"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: install ## Make sample jobs of every kind on embedded services and show the pictures
	@$(BIN)/quel demo

.PHONY: up
up: install ## Run every service with the UI at http://127.0.0.1:3000 (PORT=…); Ctrl-C stops them
	@$(BIN)/quel up --port $(PORT)

.PHONY: check
check: install ## Lint, format, types, and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dagster definitions validate

.PHONY: test
test: install ## Run all tests
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

.PHONY: tour
tour: install ## Take the screenshots of docs/ui.md anew
	$(BIN)/python -m pytest tests/browser --tour docs/images

.PHONY: format
format: install ## Format the code and mend what lint can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

MINUTES ?= 20
.PHONY: soak
soak: install ## Break whole installations: every fault test, then random faults for MINUTES=20
	$(BIN)/python -m pytest tests/faults -m "fault_all or not fault_all"
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

.PHONY: bench
bench: install ## Run every benchmark (some 25 minutes), print the table and write docs/benchmarks.md
	$(BIN)/python -m bench

.PHONY: audit-dependencies
audit-dependencies: ## Ask the advisory database about every locked dependency; fails where it cannot be asked
	@python="$$($(FIND_PYTHON))"; [ -x build/audit/bin/pip-audit ] || { "$$python" -m venv build/audit \
	  && build/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'; }
	build/audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement requirements.lock

.PHONY: lock
lock: ## Resolve the dependencies of pyproject.toml anew into requirements.lock
	@python="$$($(FIND_PYTHON))"; rm -rf build/lock && "$$python" -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --upgrade pip setuptools hatchling editables
	@build/lock/bin/python -m pip install --quiet '.[dev]'
	@{ echo "# The set of packages that was tested, for users and developers alike: made by \`make lock\`."; \
	   build/lock/bin/python -m pip freeze --all \
	     | grep -E '^[A-Za-z0-9._-]+==' | grep -viE '^(pip|quel_dagster|quel-dagster)==' | LC_ALL=C sort -f; } > requirements.lock
	@rm -rf build/lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"

.PHONY: clean
clean: ## Remove the environment, caches and build output; the data in .quel stay
	rm -rf $(VENV) build dist output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
