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
TEST_PROCESSES ?= 3
# Run the installed packages, not those of the shell's PYTHONPATH.
unexport PYTHONPATH PYTHONHOME

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: $(STAMP) ## Make .venv with the locked dependencies

# Rebuilt only when its sources have changed; pip's own configuration (mirrors, proxies) is honoured.
$(STAMP): requirements.lock pyproject.toml
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then echo "Python 3.11 to 3.14 with venv is needed; found none of: $(PYTHONS)" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ]; then echo "Making $(VENV) with $$python"; "$$python" -m venv $(VENV); fi
	@total=$$(grep -c '==' requirements.lock); echo "Installing $$total locked packages (a minute or two)"; \
	{ $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
	  --requirement requirements.lock 2>&1; echo "pip ended $$?"; } | awk -v total="$$total" ' \
	    /^(Collecting|Requirement already satisfied)/ { if (++n % 20 == 0) { print "  " n " of " total; fflush() } } \
	    /^Installing collected/ { print "  unpacking"; fflush() } \
	    /^(ERROR|WARNING)|^  *(Expected|Got) / { print } \
	    /^pip ended/ { exit $$3 }'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: install ## Make sample jobs of every kind on embedded services and show the pictures
	@$(BIN)/quel demo

.PHONY: up
up: install ## Run every service with the UI at http://127.0.0.1:3000 (PORT=…); Ctrl-C stops them
	@$(BIN)/quel up --port $(PORT)

.PHONY: check
check: install ## Lint, format, types, the direction of imports, and plain words
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.plain_words
	$(BIN)/dagster definitions validate

.PHONY: test
test: install ## Run all tests (10 to 15 minutes on two cores)
	@echo 'Running some 4,000 tests in $(TEST_PROCESSES) processes: 10 to 15 minutes on two cores. "s" is a skipped test; the reasons are printed at the end.'
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: production
production: install ## Test the shape of production; needs postgresql, pgbouncer and redis-server installed
	SKIP_NO_TESTS=1 $(BIN)/python -m pytest tests/production

.PHONY: tour
tour: install ## Take the screenshots of docs/ui.md again
	$(BIN)/python -m pytest tests/browser --tour docs/images

.PHONY: format
format: install ## Format the code and fix what lint can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

MINUTES ?= 20
.PHONY: soak
soak: install ## Every fault test, 200,000 steps of the model, then random faults for MINUTES=20
	$(BIN)/python -m pytest tests/faults -m "fault_all or not fault_all"
	MODEL_STEPS=200000 $(BIN)/python -m pytest tests/integration/model
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

.PHONY: bench
bench: install ## Run every benchmark (some 25 minutes), print the table and write docs/benchmarks.md
	$(BIN)/python -m bench

.PHONY: audit-dependencies
audit-dependencies: ## Ask the advisory database about every locked dependency; fails where it cannot be asked
	@python="$$($(FIND_PYTHON))"; [ -x build/audit/bin/pip-audit ] || { "$$python" -m venv build/audit \
	  && build/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'; }
	build/audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement requirements.lock

# uv resolves for every Python and platform of pyproject.toml at once and writes the hash of every file, naming no host.
# Four packages are for Windows and browsers alone. UPGRADE=--upgrade takes the newest versions; without it, pins that still fit stay.
UPGRADE ?=
LOCK = build/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --quiet $(UPGRADE) \
	  $(patsubst %,--no-emit-package %,colorama httpx2-jsfetch pyreadline3 pywin32)
.PHONY: lock
lock: ## Resolve the dependencies of pyproject.toml into requirements.lock and deploy/requirements.lock
	@python="$$($(FIND_PYTHON))"; [ -x build/lock/bin/uv ] || { "$$python" -m venv build/lock \
	  && build/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<1'; }
	@$(LOCK) --extra build --extra dev --output-file requirements.lock
	@$(LOCK) --extra build --constraint requirements.lock --output-file deploy/requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages, $$(grep -c == deploy/requirements.lock) in the image"

.PHONY: pages
pages: install ## Write .env.example, docs/models.md, docs/prompts.md and docs/schema/job.json again from the code
	$(BIN)/python -m deploy.pages

.PHONY: licences
licences: install ## Write docs/licences.md; fails on a package without a licence, or with one that is not allowed
	$(BIN)/python -m deploy.licences requirements.lock docs/licences.md

.PHONY: clean
clean: ## Remove the environment, caches and build output; the data in .quel stay
	rm -rf $(VENV) build dist output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
