# Everything is done by the scripts and programs that the targets call; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
# One name for the images of this checkout, whichever target makes or uses them.
export SIGUL_IMAGE_PREFIX := $(or $(SIGUL_IMAGE_PREFIX),$(shell scripts/site images))
# Scripts are found by their first line, so that a new one is never left out of the checks.
BASH_SCRIPTS = $(shell grep -rlE '^\#!.*\b(bash|sh)\b' scripts images .ci)

.PHONY: help venv images up sign public-key status logs shell down test test-debian13 check test-long collected molecule lint bench demo demo-stop clean

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## set up ./.venv with the programs, and the system packages that are missing
	@scripts/bootstrap run test lint kit

up: ## bring up a site in containers on this machine, and prove it; MONITORING=1: and watch it
	@MONITORING="$(MONITORING)" scripts/up

sign: ## sign a file with that site's key: make sign FILE=README.md
	@scripts/site sign "$(FILE)"

public-key: ## the public key that verifies it, on standard output
	@scripts/site public-key

status: ## how that site's containers and components are
	@scripts/site status

logs: ## what its components said; ARGS="--follow" goes to docker logs
	@scripts/site logs $(ARGS)

shell: ## a shell in its client's container
	@scripts/site shell

down: ## remove its containers and networks; its files stay in .site
	@scripts/site down

images: ## build the container images, as far as they are not there
	@scripts/bootstrap run kit
	@scripts/engine
	@images/build

test: ## run all tests but the long ones; ARGS="tests/unit -x" goes to pytest
	@scripts/preflight test
	@scripts/bootstrap test kit
	@scripts/test $(ARGS)

check: ## a quick round while you work: lint of what has changed, and the fast tests
	@scripts/bootstrap test lint
	@scripts/check

test-long: ## run the tests that take minutes, and note their results; ARGS as for test
	@scripts/bootstrap test kit long
	@scripts/test --lane long $(ARGS)
	@$(BIN)/python -m tests.gate.long_runs

collected: ## write tests/collected.txt, the list of all tests
	@scripts/bootstrap test kit
	@$(BIN)/python -m tests.gate.collected

molecule: ## run all Molecule scenarios on one site; ARGS="-s sign" runs one
	@scripts/bootstrap run kit
	@scripts/engine
	@PATH="$(CURDIR)/$(BIN):$$PATH" ANSIBLE_HOME="$(CURDIR)/.cache/ansible" \
		SIGUL_MOLECULE_PREFIX="$$(scripts/site molecule)" molecule test $(ARGS)

test-debian13: ## run the tests that touch the system in a Debian 13 root, made in .cache; ARGS as for test
	@scripts/test-debian13 $(ARGS)

lint: ## check style, types, YAML, scripts and the list of tests; any warning fails
	@scripts/bootstrap test lint kit
	@failed=; \
	run() { echo "lint: $$*"; "$$@" || failed="$$failed $$1"; }; \
	run $(BIN)/ruff check; \
	run $(BIN)/ruff format --check; \
	run $(BIN)/mypy; \
	run $(BIN)/mypy --package images.builder --package tests.gate --package action.runner; \
	run $(BIN)/yamllint --strict .; \
	run env ANSIBLE_HOME=$(CURDIR)/.cache/ansible XDG_CACHE_HOME=$(CURDIR)/.cache \
		$(BIN)/ansible-lint --offline --strict; \
	run $(BIN)/hadolint images/*/Dockerfile; \
	run shellcheck $(BASH_SCRIPTS); \
	run $(BIN)/python scripts/check-role-defaults; \
	run scripts/check-registry-hosts; \
	run $(BIN)/python -m tests.gate.collected --check; \
	if [ -n "$$failed" ]; then echo "lint: failed:$$failed"; exit 1; fi; \
	echo "lint: clean"

bench: ## measure requests, each beside its floor; ARGS: --peer PATH, --growth, --compare (docs/bench.md)
	@scripts/bootstrap test
	@$(BIN)/python -m tests.bench $(ARGS)

demo: ## start a whole site as plain processes in ./.demo and sign a file with it
	@scripts/preflight demo
	@scripts/bootstrap run
	@$(BIN)/sigul-stack demo --directory .demo

demo-stop: ## stop what `make demo` started
	@if [ -d .demo ] && [ -x $(BIN)/sigul-stack ]; then $(BIN)/sigul-stack demo --stop --directory .demo; fi

clean: demo-stop ## remove all that make made: in this checkout, and containers and images
	@scripts/site clean
	rm -rf .cache .demo .site .venv build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
