# `make` alone lists what there is. Works with GNU make 3.81 and up, on Linux and macOS.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test clients conformance bench chart cluster cluster-down images e2e check format audit lock wheels clean

BIN := .venv/bin
CODE := services tests scripts bench

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: ## start everything here, in one process (Ctrl-C stops it)
	@scripts/venv run
	@exec $(BIN)/keystile-mcp --embedded

test: ## unit, integration and security tests with coverage; ARGS="-k consent" go to pytest
	@scripts/venv test
	@scripts/test $(ARGS)

clients: ## clients and a server that others made (Node.js 22.19 and up); ARGS="-k inspector" go to pytest
	@scripts/venv test
	@$(BIN)/python -m pytest tests/clients $(ARGS)

bench: ## what Keystile costs, beside others; half an hour. ARGS=--quick: two minutes, ARGS=soak: memory
	@scripts/venv test
	@$(BIN)/python -m bench $(ARGS)

conformance: ## the official MCP conformance suites (Node 22 or newer); ARGS="-k proxy" go to pytest
	@scripts/venv test
	@$(BIN)/python -m pytest tests/conformance $(ARGS)

chart: ## the chart: rendered, linted, validated, its queries and alerts tested
	@scripts/venv test
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/chart $(ARGS)

images: ## build the container images keystile-auth:dev, keystile-mcp:dev and keystile-embedded:dev
	@scripts/cluster images

cluster: ## a kind cluster with everything in it, at https://localhost:8443 (PORT=..., CLUSTER=...); ARGS go to helm
	@CLUSTER="$(CLUSTER)" PORT="$(PORT)" scripts/cluster up $(ARGS)

cluster-down: ## delete that cluster (CLUSTER=...)
	@CLUSTER="$(CLUSTER)" scripts/cluster down

e2e: ## the tests that need a kind cluster; E2E_KEEP=1 keeps it for the next run; ARGS="-k valkey" go to pytest
	@scripts/venv test
	@E2E_KEEP="$(E2E_KEEP)" $(BIN)/python -m pytest tests/e2e $(ARGS)

check: ## lint, types, import contracts, pins, known vulnerabilities
	@scripts/venv check
	@scripts/check

format: ## put the code in order
	@scripts/venv check
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

audit: ## known vulnerabilities of the pinned packages alone
	@scripts/venv check
	@$(BIN)/python scripts/audit.py

lock: ## bring requirements/*.txt up to date; UPGRADE=1 moves every pin to its newest version
	@scripts/venv check
	@$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)
	@$(BIN)/python scripts/wheels.py

wheels: ## prove that every pin has a wheel for each platform and Python
	@scripts/venv check
	@$(BIN)/python scripts/wheels.py

clean: ## remove what was made here, but for ./.keystile (your users and tokens)
	@rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	@find services tests scripts bench -name __pycache__ -type d -prune -exec rm -rf {} +
