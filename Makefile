# The entry point for all tasks: `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE_TOOLS := tests/clients/node_modules
HOST ?= 127.0.0.1
PORT ?= 8000
export HOST PORT

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# Each stamp is newer than its lock file, so dependencies are installed once per change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Process Register needs Python 3.11 or newer: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@echo "Creating $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.local: requirements/local.txt | $(BIN)/python
	@echo "Installing the dependencies …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.local
	@echo "Installing the development tools …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# The development tools include Node.
$(NODE_TOOLS)/.installed: tests/clients/package-lock.json | $(VENV)/.dev
	@echo "Installing the tools for the OpenAPI document …"
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent --prefix tests/clients
	@touch $@

run: $(VENV)/.local ## Start the service with a private database, schema and demo data
	@exec $(BIN)/python -m app run

migrate: $(VENV)/.local ## Upgrade the schema of DATABASE_URL
	@$(BIN)/python -m app migrate

migration: $(VENV)/.dev ## Generate a revision from the models: make migration NAME="Cost centers"
	@$(BIN)/python -m tests.new_revision $(if $(NAME),"$(NAME)")

test: $(VENV)/.dev $(NODE_TOOLS)/.installed ## Run the test suite on a temporary PostgreSQL
	@$(BIN)/pytest -m "not browser and not faults" --cov --numprocesses auto --maxprocesses 4 --dist worksteal

test-browser: $(VENV)/.dev ## Test /docs and /redoc in a browser
	@$(BIN)/pytest -m browser

test-clients: $(VENV)/.dev $(NODE_TOOLS)/.installed ## Run only the tests of generated clients
	@$(BIN)/pytest tests/clients -m clients

check: $(VENV)/.dev ## Check format, lint, types, plain English, import contracts, schema drift, generated documents and alerts
	@$(BIN)/ruff format --check --quiet . || { echo "Run 'make format'." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m tests.plain_english
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.schema_check
	@$(BIN)/python -m app openapi | diff -u docs/openapi.json - || { echo "Run 'make openapi'." >&2; exit 1; }
	@$(BIN)/python -m tests.openapi_changes
	@$(BIN)/python -m tests.error_table --print | diff -u docs/12-error-codes.md - || { echo "Run 'make error-codes'." >&2; exit 1; }
	@$(MAKE) --no-print-directory lint-openapi lint-alerts
	@echo "make check: passed"

lint-openapi: $(NODE_TOOLS)/.installed ## Lint docs/openapi.json with Spectral's recommended rules
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(NODE_TOOLS)/.bin/spectral lint --quiet --fail-severity hint \
		--ruleset tests/clients/spectral.yaml docs/openapi.json

lint-alerts: ## Check the configuration of Prometheus, and test its alerts
	@command -v promtool >/dev/null || { echo "promtool is missing. Install Prometheus (Debian and Ubuntu: apt-get install prometheus; macOS: brew install prometheus), or promtool alone as prometheus/README.md shows." >&2; exit 1; }
	@promtool check config prometheus/prometheus.yml >/dev/null
	@promtool test rules prometheus/alerts_test.yml >/dev/null

format: $(VENV)/.dev ## Format the code and apply the linter's safe fixes
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

openapi: $(VENV)/.local ## Regenerate docs/openapi.json; fails if that breaks clients
	@$(BIN)/python -m app openapi --output docs/openapi.json
	@$(BIN)/python -m tests.openapi_changes --add

break-openapi: $(VENV)/.local ## Regenerate docs/openapi.json even if that breaks clients
	@$(BIN)/python -m app openapi --output docs/openapi.json
	@$(BIN)/python -m tests.openapi_changes --break

error-codes: $(VENV)/.dev ## Regenerate docs/12-error-codes.md
	@$(BIN)/python -m tests.error_table

load: $(VENV)/.dev ## Load-test a running server for 60 s with 50 users; fails if a request fails
	@$(BIN)/locust -f locust/locustfile.py --headless --users 50 --spawn-rate 10 --run-time 60s --only-summary --exit-code-on-error 1 --host http://$(HOST):$(PORT)

sign-in-rush: $(VENV)/.dev ## Check that sign-ins do not slow down other requests (settings: locust/README.md)
	@$(BIN)/python locust/sign_in_rush.py rush --host http://$(HOST):$(PORT)
	@$(BIN)/python locust/sign_in_rush.py times --host http://$(HOST):$(PORT)

lock: $(VENV)/.dev ## Resolve the dependencies into requirements/*.txt
	@set -e; compile() { $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --no-strip-extras --upgrade "$$@" pyproject.toml; }; \
	compile -o requirements/production.txt; \
	compile --extra local -o requirements/local.txt; \
	compile --extra local --extra load --extra dev -o requirements/dev.txt

clean: ## Remove caches and the environment; keep the data
	@rm -rf $(VENV) $(NODE_TOOLS) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .schemathesis

.PHONY: help run migrate migration test test-browser test-clients check lint-openapi lint-alerts format openapi break-openapi error-codes load sign-in-rush lock clean
