# make help lists the targets. Everything lives in .venv; nothing is installed elsewhere.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Installs a package of Debian where that is possible. The lists may be too old for it.
APT = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive && \
	{ apt-get install -y -q $(1) || { apt-get update -q && apt-get install -y -q $(1); }; }; }

.DEFAULT_GOAL := help
.PHONY: help install run up sshd chromium test simulate mutants crashpoints bench newest-celery chaos lint types contracts agent docs reference wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv and install into it

$(STAMP): constraints.txt setup.cfg pyproject.toml
	@command -v git >/dev/null || { echo "git is missing: apt-get install git" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; $(PYTHON) is older (make PYTHON=python3.11 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev,docs]'
	@touch $@

run: install ## start everything, run one real task against a real git repository, stop
	@$(BIN)/python -m taskflow.stack.first_run

up: install ## start everything and serve until Ctrl-C
	@exec $(BIN)/taskflow up

sshd: # the tests talk to real servers of OpenSSH; one that is installed here is not started
	@command -v sshd >/dev/null || test -x /usr/sbin/sshd || \
		$(call APT,openssh-server) || \
		{ echo "sshd is missing: apt-get install openssh-server (it need not run)" >&2; exit 1; }

chromium: # the tests of the dashboard drive a real browser; without one they are skipped, or fail where CI is set
	@command -v chromium >/dev/null || test -n "$$TASKFLOW_TEST_CHROMIUM" || \
		$(call APT,chromium) || \
		echo "chromium is missing: apt-get install chromium" >&2

test: install sshd chromium ## lint, types, import contracts, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 4 --dist loadgroup -m "not e2e and not crashpoints and not browser"
	$(BIN)/pytest -m e2e -n 3 --dist loadfile
	$(BIN)/pytest -m browser

simulate: install ## many processes on virtual time with every fault: SEEDS=2000 FIRST=1
	$(BIN)/python -m tests.simulation --first-seed $(or $(FIRST),1) --seeds $(or $(SEEDS),2000)

mutants: install ## break the engine on purpose, one fault at a time: the tests must notice each
	$(BIN)/python -m tests.mutants

crashpoints: install ## kill the worker at every call in the path of a task, on SQLite and PostgreSQL
	$(BIN)/pytest -m crashpoints -n 2 --dist loadgroup tests/crashpoints tests/nodes

bench: install ## measure: everything once, or WORKLOAD=chain
	$(BIN)/python -m bench $(or $(WORKLOAD),all)

newest-celery: install ## would the newest Celery survive a restart of its broker? In a .venv of its own
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	.venv-newest/bin/pip install --quiet --disable-pip-version-check --upgrade celery kombu
	@.venv-newest/bin/pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(celery|kombu) '
	@if .venv-newest/bin/python -m pytest -q tests/integration/test_celery_restart.py; then \
		echo "the newest Celery survives: the pin in setup.cfg can go"; \
	else echo "the newest Celery does not survive: keep the pin"; exit 1; fi

chaos: install ## the real stack under a seeded monkey: TASKS=1000 MINUTES=10 SEED=1
	@$(BIN)/python -m tests.chaos --json --tasks $(or $(TASKS),1000) --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

audit: install ## ask a vulnerability database about the pinned dependencies (needs the network)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

lint: install ## ruff, fixing what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## mypy
	$(BIN)/mypy

contracts: install ## import contracts
	$(BIN)/lint-imports

docs: install ## make the documentation's pages in build/docs; a warning or a dead link is an error
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/docs
	@echo "build/docs/index.html"

reference: install ## write the pages of docs/reference and docs/ops that are made from the code
	$(BIN)/python -m tests.support.settings_docs
	$(BIN)/python -m tests.support.openapi_docs
	$(BIN)/python -m tests.support.cli_docs
	$(BIN)/python -m tests.support.data_model_docs
	$(BIN)/python -m tests.support.metrics_docs
	$(BIN)/python -m tests.support.dashboard

agent: install ## build the node agent as one file: build/agent.pyz
	$(BIN)/python -m taskflow.agent_file build/agent.pyz

wheel: install ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove .venv and build leftovers
	rm -rf .venv .venv-newest .venv-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
