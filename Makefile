# One word for each chore; .ci/run runs the same words. PYTHON names the interpreter that has the project
# installed (`python3 -m venv .venv && .venv/bin/pip install -e '.[test]'`).

PYTHON ?= .venv/bin/python
# What these do to other processes covers nothing in this one.
OUTSIDE = tests/hostile tests/test_redis_workers.py tests/test_benchmarks.py tests/test_backplane_benchmark.py
SANS_IO = errors limits transport deflate handshake http request_reader http_client uri client_handshake reconnect masking encoder frames protocol states backlog sending connection

.PHONY: help test test-lane-off compiled test-compiled autobahn-compiled coverage lint format types autobahn autobahn-ci autobahn-client autobahn-client-ci browser interop screenshots fuzz fuzz-coverage fuzz-coverage-ci soak soak-ci build clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 16

test: ## the whole suite
	$(PYTHON) -m pytest

test-lane-off: ## the whole suite without the fast lane
	RAWWS_FAST_LANE=0 $(PYTHON) -m pytest

compiled: ## the compiled build, to build/compiled; from a copy, for modules beside the source would be imported first
	rm -rf build/compiled build/compiled-source
	mkdir -p build/compiled-source
	cp -r src static pyproject.toml README.md LICENSE build/compiled-source
	find build/compiled-source -name '*.so' -delete
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PYTHON) -m pip install --quiet --no-deps --target build/compiled build/compiled-source
	PYTHONPATH=build/compiled $(PYTHON) -m rawws --version | grep compiled

test-compiled: ## the suite but for the browser on the compiled build
	PYTHONPATH=$(CURDIR)/build/compiled RAWWS_EXPECT_COMPILED=1 $(PYTHON) -m pytest -m "not browser"

coverage: ## the suite but for what is outside of this process, measured: 95 % of all, every branch of the sans-IO modules
	rm -f .coverage .coverage.*
	$(PYTHON) -m coverage run --parallel-mode -m pytest -m "not browser and not interop" $(OUTSIDE:%=--ignore=%)
	$(PYTHON) -m coverage combine --quiet
	@bad=; \
	$(PYTHON) -m coverage report --show-missing --skip-covered --fail-under=95 || bad=1; \
	for module in $(SANS_IO); do \
		$(PYTHON) -m coverage report --include="src/rawws/$$module.py" --fail-under=100 >/dev/null \
		|| { echo "src/rawws/$$module.py: some branch is not covered"; bad=1; }; \
	done; \
	test -z "$$bad"

lint: ## ruff: rules and format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

format: ## put the code into ruff's format
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

types: ## mypy, strict
	$(PYTHON) -m mypy

autobahn: ## Autobahn: 517 cases, both endpoints, fast lane on and off
	$(PYTHON) -m tests.autobahn

autobahn-ci: ## Autobahn: 517 cases once, the 301 without compression for the other three
	$(PYTHON) -m tests.autobahn --profile ci --timeout 2400

autobahn-client: ## Autobahn against the client: 517 cases, fast lane on and off
	$(PYTHON) -m tests.autobahn --client

autobahn-client-ci: ## Autobahn against the client: the 301 without compression, one of each section of the others
	$(PYTHON) -m tests.autobahn --client --profile ci --timeout 900

autobahn-compiled: ## Autobahn on the compiled build: the 301 cases without compression
	PYTHONPATH=$(CURDIR)/build/compiled $(PYTHON) -m tests.autobahn --cases no-compression --targets echo --lane on

browser: ## the page in Chromium
	RAWWS_REQUIRE_BROWSER=1 $(PYTHON) -m pytest -m browser

interop: ## other clients and servers, and a table of what works with them
	RAWWS_REQUIRE_INTEROP=1 RAWWS_REQUIRE_BROWSER=1 $(PYTHON) -m pytest -m interop

screenshots: ## pictures of the page, to build/screenshots
	mkdir -p build/screenshots
	RAWWS_SCREENSHOTS=build/screenshots RAWWS_REQUIRE_BROWSER=1 $(PYTHON) -m pytest -m browser

fuzz: ## hypothesis, the long profile for nights
	HYPOTHESIS_PROFILE=long $(PYTHON) -m pytest -m hypothesis --timeout=0

fuzz-coverage: ## atheris: ten million executions a target, going on where it was, two processes; needs '.[fuzz]'
	$(PYTHON) -m tests.fuzz run --jobs 2

fuzz-coverage-ci: ## atheris: fifteen seconds a target, two processes, from the kept inputs
	rm -rf build/ci/fuzz
	$(PYTHON) -m tests.fuzz run --jobs 2 --seconds 15 --home build/ci/fuzz

soak: ## fifteen minutes, 5000 connections; the report goes to build/soak
	$(PYTHON) -m tests.soak

soak-ci: ## two minutes, 1000 connections; the report goes to build/ci/soak
	$(PYTHON) -m tests.soak --seconds 120 --connections 1000 --home build/ci/soak

build: ## the wheel, to dist, and a check that it serves
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) .ci/check.py wheel dist/*.whl

clean: ## forget what the chores made
	rm -rf build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
