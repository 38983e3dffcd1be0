# make demo   edit a picture; IMAGE=... PROMPT=... make demo  for your own
# make test   lint, then every test that is not nightly, then the notebooks
# make lint   ruff and mypy
# make test-versions   the tests and notebooks on Colab's packages, then on the
#             newest, each in an environment of its own
#
# Each target sets up what it needs in .venv, once.

PYTHON ?= python3
# That of Colab; jax's newest needs it too.
PYTHON313 ?= python3.13
VENV ?= .venv
# Test processes at a time.
WORKERS ?= 2
# A pip constraints file, or nothing.
CONSTRAINTS ?=

VENV_PYTHON := $(VENV)/bin/python
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

.PHONY: demo test lint pytest test-versions

demo: $(VENV)/.ready
	@$(VENV_PYTHON) -m experiments.sample

test: lint
	@$(MAKE) --no-print-directory pytest

pytest: $(VENV)/.ready-test
	$(VENV_PYTHON) -m pytest -m "not nightly" -n $(WORKERS) --dist loadfile
	PARADIFF_SMOKE=1 $(VENV_PYTHON) -m pytest --nbmake -n $(WORKERS) notebooks

test-versions:
	$(MAKE) pytest VENV=.venv-colab PYTHON=$(PYTHON313) \
	  CONSTRAINTS=requirements-colab.txt
	$(MAKE) pytest VENV=.venv-newest PYTHON=$(PYTHON313) CONSTRAINTS=

lint: $(VENV)/.ready-test
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy

$(VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python must be 3.11 or newer, got " + sys.version.split()[0] + \
	  "; name another: make PYTHON=...")'
	@echo "Installing into $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "Installing the test tools into $(VENV)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@
