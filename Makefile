# Everything that is done with this repository. `make` lists the targets.
SHELL := /bin/bash
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SCRIPTS = $(shell grep -rIlE '^\#!.*(/|env )(ba)?sh$$' bootstrap.sh .ci images roles tests tosca)

.DEFAULT_GOAL := help
.PHONY: help demo deploy test unit lint bench docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## start the service, train on 100,000 toy ttH events through it, predict; then it stays up (ONCE=1: stops)
	@./bootstrap.sh keras service
	@$(PY) -m mlaas.demo.run demo $(if $(ONCE),--once)

test: ## lint, then all tests; ends with what this machine could not run
	@./bootstrap.sh all deploy tosca molecule test lint
	@$(MAKE) --no-print-directory lint
	@echo '== tests'
	@$(PY) -m tests.lanes

deploy: ## install the service on this machine (ARGS="--check", ARGS=path/of/inventory, ...)
	@./bootstrap.sh deploy
	@.venv/bin/mlaas deploy $(or $(ARGS),local)

unit: ## the fast tests only
	@./bootstrap.sh all deploy tosca molecule test lint
	@$(PY) -m pytest tests/unit

lint: ## style, types, shell scripts, Dockerfiles, YAML, roles
	@./bootstrap.sh all deploy tosca molecule test lint
	@echo '== ruff' && ruff check . && ruff format --check .
	@echo '== mypy' && mypy
	@echo '== shellcheck' && shellcheck $(SCRIPTS) mlaas/deploy/look.sh
	@echo '== hadolint' && hadolint --config images/hadolint.yaml images/*/Dockerfile
	@echo '== yamllint' && yamllint --strict .
	@echo '== ansible-lint' && $(PY) -m tests.support.collection ansible-lint

bench: ## the speed figures, as a table (some minutes)
	@./bootstrap.sh keras xgboost root service test
	@$(PY) -m tests.bench

docs: ## write mlaas/REFERENCE.md, the OpenAPI document, the roles' READMEs and the templates of tosca/ again from the code
	@./bootstrap.sh keras service deploy tosca
	@$(PY) -m tests.reference
	@$(PY) -m tests.openapi
	@$(PY) -m tests.roles_readme
	@.venv/bin/mlaas tosca render

clean: ## remove what the targets above made, the virtual environment included
	rm -rf .venv demo bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mlaas tests -name __pycache__ -type d -prune -exec rm -rf {} +
