# Symphony's commands. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench soak protos fmt clean
BIN := .venv/bin
NAME ?= all

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with vLLM and the tools (idempotent)
	@scripts/setup

demo: setup ## Serve the embedded model, run a program on it, show what it cost
	@scripts/demo

test: check ## Check, then all tests at reduced counts
	@$(BIN)/pytest -n 2 --dist loadgroup

check: setup ## Format, lint, types, layers, what is generated: no test is run
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/protos --check
	@$(BIN)/python scripts/abi --check
	@$(BIN)/python scripts/sync_client --check

bench: setup ## Benchmarks; NAME=decode for one, ARGS=--quick for a short run
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

soak: setup ## All tests at full counts from a fresh seed; the result goes into docs/reliability.md
	@$(BIN)/python scripts/soak

protos: setup ## Generate the gRPC stubs anew
	@$(BIN)/python scripts/protos

fmt: setup ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean: ## Remove caches and build results (not .venv, not the model)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
