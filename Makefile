# make demo     a call through the whole tunnel, on this machine; ARGS=--once ends after it
# make test     everything that is tested; ARGS="-k name" for a part
# make lint     ruff, and mypy in strict mode
# make docs     the documents that are made from the code: limits, configuration, JSON Schemas
#
# The gates, each with its figures in the last line and in bench/results/NAME.json:
#   make conformance   the official MCP suite, through the tunnel and directly
#   make blind         canaries in a thousand calls, searched for in the relay
#   make drill         an attacker who has everything that the relay has
#   make hellos        200 connections that stall, trickle or half-close their hello
#   make leaks         10,000 streams come and go, 200 callers stop reading: what stays; ARGS=--quick in four minutes
#   make rotation      every certificate replaced, again and again, under a hundred open streams
#   make clients       agents' own programs, set up as `connect --print` says
#   make bench-sdk     what the tunnel adds to calls of an SDK server, beside MCP proxies; ARGS=--quick
#
# make bench         ours and the peers side by side, 40 minutes or so; ARGS=--quick shows in a minute that it runs
# make bench-peers   what bench compares with: frp, chisel, rathole into .bench/; as root also wrk, nginx, sshd by apt
#
# make test-313, make wheel-check, make dockerfile: another Python, the built wheel, the image.
# An environment is made again only when pyproject.toml changes. Nothing is installed outside the
# checkout, save by bench-peers as root.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
ARGS ?=

VENV := .venv
VENV313 := .venv-3.13
RUN := $(VENV)/bin/python

# The first Python that is new enough and can make environments (Debian packs ensurepip apart).
CHECK := import sys, ensurepip, venv; sys.exit
find-python = $(shell for python in $(1); do \
	"$$python" -c '$(CHECK)($(2))' 2>/dev/null && echo "$$python" && break; done)
PYTHON ?= $(call find-python,python3 python3.13 python3.12 python3.11 "$${HOME:-}"/.pyenv/versions/3.1[1-9]*/bin/python3,\
	sys.version_info < (3$(,) 11))
PYTHON313 ?= $(call find-python,python3.13 "$${HOME:-}"/.pyenv/versions/3.13*/bin/python3,sys.version_info[:2] != (3$(,) 13))
, := ,

.PHONY: demo test test-313 has-313 lint docs conformance blind drill hellos leaks rotation clients bench bench-peers bench-sdk wheel-check dockerfile clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.runtime
	@$(RUN) -m sallyport demo $(ARGS)

test: $(VENV)/.development
	$(RUN) -m pytest $(ARGS)

test-313: $(VENV313)/.development
	$(VENV313)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.development
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(VENV)/.runtime
	$(RUN) -m sallyport.reference

conformance blind drill hellos leaks rotation clients: $(VENV)/.development
	@$(RUN) -m bench.$@ $(ARGS)

bench: $(VENV)/.bench
	@$(RUN) -m bench.speed $(ARGS)

bench-sdk: $(VENV)/.development
	@$(RUN) -m bench.sdk $(ARGS)

bench-peers: $(VENV)/.runtime
	@$(RUN) -m bench.speed.install

wheel-check:
	@PYTHON="$(PYTHON)" deploy/wheel-check

dockerfile:
	@deploy/build-image

has-313:
	@test -n "$(PYTHON313)" || { echo "no Python 3.13 with venv on this machine" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(VENV313) build dist *.egg-info

# Environments: .runtime has what users have, .development has the tests' tools as well.

$(VENV)/.runtime: MADE_WITH = $(PYTHON)
$(VENV313)/.runtime: MADE_WITH = $(PYTHON313)

$(VENV)/.runtime $(VENV313)/.runtime: pyproject.toml
	@test -n "$(MADE_WITH)" || { echo "error: no suitable Python with venv here: $(VENV) wants 3.11 or newer," \
		"$(VENV313) wants 3.13; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "making $(@D) with $(MADE_WITH), a minute or so" >&2
	@"$(MADE_WITH)" -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check -U 'pip>=25.1'
	@PYTHONWARNINGS=ignore $(@D)/bin/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

%/.development: %/.runtime
	@$*/bin/python -m pip install -q --disable-pip-version-check --group dev
	@touch $@

%/.bench: %/.development
	@$*/bin/python -m pip install -q --disable-pip-version-check --group bench
	@touch $@
