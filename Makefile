# make demo   edit a picture; IMAGE=... PROMPT=... make demo  for your own
# make test   lint, then every test that is not nightly
# make lint   ruff and mypy
#
# Each target sets up what it needs in .venv, once.

PYTHON ?= python3
# Test processes at a time.
WORKERS ?= 2
# A pip constraints file, or nothing.
CONSTRAINTS ?=

VENV_PYTHON := .venv/bin/python
# Installing takes minutes: a terminal shows what pip is doing.
QUIET := $(shell test -t 2 || echo --quiet)
PIP_INSTALL := $(VENV_PYTHON) -m pip install $(QUIET) \
  --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

# The demo reads its words from the environment, where make passes them on as
# they are. Words given as `make demo PROMPT=...` would be expanded by make;
# here they are turned into their own literal value first.
DEMO_WORDS := IMAGE PROMPT
$(foreach name,$(DEMO_WORDS),$(if $(filter command,$(origin $(name))),\
  $(eval override $(name) := $$(value $(name)))$(eval export $(name))))

.PHONY: demo test lint

demo: .venv/.ready
	@$(VENV_PYTHON) -m experiments.sample

test: lint
	$(VENV_PYTHON) -m pytest -m "not nightly" -n $(WORKERS) --dist loadfile

lint: .venv/.ready-test
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy

.venv/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python must be 3.11 or newer, got " + sys.version.split()[0] + \
	  "; name another: make PYTHON=...")'
	@echo "Installing into .venv (once, a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --editable .
	@touch $@

.venv/.ready-test: .venv/.ready
	@echo "Installing the test tools into .venv"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@
