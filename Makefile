# SPDX-License-Identifier: MIT
#
# `make help` lists what can be made. Everything runs in .venv, which is made anew whenever pyproject.toml changes.
# Flux is used where `flux` is found; nothing here needs it.
#
#   PYTHON=python3.12   the Python of .venv (3.9 or newer)
#   PYTEST_FLAGS=...    more arguments for pytest
#   WORKERS=N           processes that share the tests (0: pytest alone)
#   SEED=N              the one seed that `make soak` is to run
#   FAULTS=N            how many times as many faults `make soak-faults` tries
#   PREFIX=/opt/x       install below /opt/x, where not beside the installed Flux
#   DESTDIR=/tmp/stage  put the tree of the installation there (for packagers)

PYTHON ?= python3
PYTEST_FLAGS ?=
# Most tests wait most of the time, so two at once take little more than half as long, whatever the machine.
WORKERS ?= 2
SHELL := /bin/sh
VENV := .venv
# Read by pip: no word about newer releases of pip itself.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The version of the installed Flux, or none.
FLUX := $(shell flux version 2>/dev/null | sed -n 's/^libflux-core:[[:space:]]*//p')
FLUX := $(if $(FLUX),$(FLUX),none)
# The stamp of a whole venv; another Flux makes another one.
MADE := $(VENV)/.made-for-flux-$(FLUX)
# Not built from source for the tests, which takes many minutes.
BINARY := grpcio,grpcio-tools,cryptography,protobuf
# Commands of the venv come first, so that `flux ensemble` is ours.
in_venv = PATH="$$PWD/$(VENV)/bin:$$PATH"

.PHONY: help run setup check lint format proto bench soak soak-faults install uninstall clean

help:
	@echo "make run        set up .venv and run examples/hello-world.yaml, on Flux where it is installed"
	@echo "make setup      only set up .venv, with all that tests need"
	@echo "make check      run every test"
	@echo "make lint       ruff (format and rules) and mypy"
	@echo "make format     let ruff format the sources"
	@echo "make soak       simulate crashes and other faults with new seeds, until stopped (SEED=N: that one)"
	@echo "make soak-faults  more faults of a real instance than check has (about half an hour; FAULTS=N: N times as many)"
	@echo "make proto      compile ensemble/server/proto"
	@echo "make bench      measure against bare Flux"
	@echo "make install    give every user of the installed Flux 'flux ensemble' (PREFIX, DESTDIR)"
	@echo "make uninstall  undo that"
	@echo "make clean      remove .venv and what tests and builds leave behind"

# -- the venv: one stamp for what a user needs, one for what tests need on top

$(MADE): pyproject.toml etc/make-venv
	@PYTHON="$(PYTHON)" sh etc/make-venv $(VENV)
	@touch $@

$(VENV)/.test: $(MADE)
	@echo "installing what the tests need"
	@$(VENV)/bin/python -m pip install -qq --only-binary=$(BINARY) -e '.[test,grpc,proto]' 2>$(VENV)/.grpc || { \
	    echo "gRPC cannot be installed: the tests of ensemble-server will be skipped ('make clean setup' tries again)"; \
	    sed -n 's/^ERROR: /  pip: /p' $(VENV)/.grpc; \
	    $(VENV)/bin/python -m pip install -qq -e '.[test]'; }
	@touch $@

# all that tests need, for editors and containers
setup: $(VENV)/.test

run: $(MADE)
	@if [ -e $(VENV)/.flux ]; then \
	    echo "Flux $$(cat $(VENV)/.flux) is installed: running in an instance of 4 brokers"; \
	    $(in_venv) FLUX_EXEC_PATH_PREPEND="$$PWD/$(VENV)/bin" \
	        flux start --test-size=4 flux ensemble run examples/hello-world.yaml; \
	else \
	    cat $(VENV)/.noflux 2>/dev/null || echo 'Flux is not installed (no `flux` in PATH)'; \
	    echo "running on the embedded local queue"; \
	    $(in_venv) FLUX_URI= ensemble run examples/hello-world.yaml; \
	fi

check: $(VENV)/.test
	@$(in_venv) python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

lint: $(VENV)/.test
	@$(in_venv) ruff format --check .
	@$(in_venv) ruff check .
	@$(in_venv) mypy

# the descriptions of what goes over gRPC, compiled: run it when a file of ensemble/server/proto has changed
proto: $(VENV)/.test
	@cd ensemble/server/proto && $(CURDIR)/$(VENV)/bin/python -m grpc_tools.protoc -I. --descriptor_set_out=all.binpb *.proto

format: $(VENV)/.test
	@$(in_venv) ruff format .
	@$(in_venv) ruff check --fix .

bench: $(VENV)/.test
	@$(in_venv) python -m t.bench

soak: $(VENV)/.test
	@$(in_venv) python -m t.engine.simulation $(SEED)

# how many times as many faults as in `make check`; `-s` shows what became of each
FAULTS ?= 2

soak-faults: $(VENV)/.test
	@$(in_venv) ENSEMBLE_FAULTS=$(FAULTS) python -m pytest -s $(PYTEST_FLAGS) t/faults

# PREFIX and DESTDIR reach the script by the environment.
export PREFIX DESTDIR

install: $(MADE)
	@sh etc/install install $(VENV)/bin/python

uninstall:
	@sh etc/install uninstall

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find ensemble t flux_module -name __pycache__ -type d -prune -exec rm -rf {} +
