# `make` alone lists what there is. Works with GNU make 3.81 and up, on Linux and macOS.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test check format audit lock wheels clean

BIN := .venv/bin
CODE := services tests scripts

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: ## start everything here (Ctrl-C stops it); ARGS="..." go to `keystile dev`
	@scripts/venv run
	@exec $(BIN)/keystile dev $(ARGS)

test: ## unit, integration and security tests with coverage; ARGS="-k consent" go to pytest
	@scripts/venv test
	@scripts/test $(ARGS)

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
	@find services tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
