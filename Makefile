# Two commands do everything: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KEEP ?=
JOBS ?= 3
# Every process of an instance imports the same modules: where bytecode is not kept, each compiles them anew, and a
# replica takes half as long again to start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick test-long docs vendor dist wheel audit compiled test-compiled prometheus proxies chromium screenshots llhttp conformance-ray lint bench chaos matrix clean

demo: $(VENV)/.demo
	$(BIN)/pointsman demo $(if $(KEEP),--keep)

# Lint runs beside the first tests, which leave it a core while they are collected; its output comes last.
test: $(VENV)/.test prometheus proxies chromium
	@said=$$(mktemp); $(MAKE) --no-print-directory lint >$$said 2>&1 & linting=$$!; \
	$(BIN)/pytest -n $(JOBS) --dist loadfile; tested=$$?; \
	wait $$linting; linted=$$?; cat $$said; rm -f $$said; \
	if [ $$linted -ne 0 ]; then echo "lint has failed"; fi; [ $$tested -eq 0 ] && [ $$linted -eq 0 ]

# For each small change: a minute on two cores.
quick: lint
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile -m "not slow" tests/unit tests/loop

# What is too long for every change: property tests with many examples, the test cases of llhttp, the statistics and
# simulated rollouts by many runs with their figures printed, twenty real rollouts on each engine, the conformance suite
# on Ray whole, faults under load, the compiled wheel, and every Python.
test-long: $(VENV)/.test llhttp
	POINTSMAN_EXAMPLES=long $(BIN)/pytest -n $(JOBS) --dist loadfile \
	  --ignore tests/unit/test_stats_simulations.py --ignore tests/unit/test_rollout_simulations.py \
	  tests/unit tests/loop tests/conformance/test_metrics.py tests/process/test_traffic.py \
	  tests/process/test_metrics_faults.py tests/process/test_demo.py tests/process/test_changes_under_load.py \
	  tests/process/test_waking.py \
	  tests/conformance/test_compared_shadows.py
	POINTSMAN_EXAMPLES=long $(BIN)/pytest -q -s tests/unit/test_stats_simulations.py tests/unit/test_rollout_simulations.py
	for engine in local ray; do $(BIN)/python -m tests.rollout_runs $$engine 2>/dev/null || exit 1; done
	POINTSMAN_EXAMPLES=long $(BIN)/pytest -q tests/docs/test_is_it_worse.py tests/docs/test_autoscaling.py \
	  tests/docs/test_tutorials.py \
	  tests/process/test_guarded_rollout.py
	POINTSMAN_EXAMPLES=long $(BIN)/pytest -q tests/cluster/test_growing_clusters.py
	$(MAKE) --no-print-directory conformance-ray chaos test-compiled matrix

# The documentation as a site that needs no network: site/index.html.
docs: $(VENV)/.test
	$(BIN)/python tools/docs.py
	$(BIN)/zensical build --clean --strict

# The JavaScript libraries of the console's page, from the npm registry, pinned; to be run after a pin was changed.
vendor: $(VENV)/.test
	$(BIN)/python tools/vendor.py

# What a release uploads, in dist/: a source distribution, a wheel of sources, and for each Python on this machine a wheel
# whose hot modules are compiled, which needs a C compiler. Each is tried in clean environments. What has not changed is
# neither built nor tried again; all: make dist DIST=--anew; one Python: make dist DIST='--only 3.13'
DIST ?=
dist: $(VENV)/.test
	$(BIN)/python tools/dist.py $(DIST)

# The compiled wheel for this Python alone, not tried. POINTSMAN_PURE=1: a wheel of sources, for any.
wheel: $(VENV)/.test
	$(BIN)/python tools/dist.py --wheel

# Licences of what the package brings along, and whether vulnerabilities are known of it.
audit: $(VENV)/.test
	$(BIN)/python tools/audit.py

# An environment with that wheel in place of the sources.
COMPILED := $(VENV)-compiled
compiled: $(VENV)/.test
	wheel=$$($(BIN)/python tools/dist.py --wheel | tail -n 1) && $(PYTHON) -m venv --clear $(COMPILED) && \
	  $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" && \
	  $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check "$$wheel[demo]" --group test
	ln -s $(abspath $(VENV))/prometheus $(abspath $(VENV))/proxies $(abspath $(VENV))/llhttp $(COMPILED)

test-compiled: compiled prometheus proxies llhttp
	$(COMPILED)/bin/pytest --form compiled -n $(JOBS) --dist loadfile tests/unit tests/loop tests/conformance tests/process

# For the tests of docs/monitoring, which say that they are skipped where there is none. Debian's package is unpacked
# beside the environment and not installed: that needs no rights, and starts no service.
prometheus: $(VENV)/.test
	@command -v promtool >/dev/null || test -x $(VENV)/prometheus/usr/bin/promtool || \
	  { command -v apt-get >/dev/null && mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus && \
	    { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } && \
	    dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb; } >/dev/null 2>&1 || \
	  echo "prometheus is not installed and cannot be unpacked: the tests that need it are skipped"

# For the tests behind a real nginx and a real haproxy, which say that they are skipped where there is none. What the
# machine lacks of their Debian packages is unpacked beside the environment, as above.
PROXIES = apt-get download $$(apt-get install -s --no-install-recommends nginx haproxy | sed -n 's/^Inst \([^ ]*\).*/\1/p')

proxies: $(VENV)/.test
	@{ command -v nginx && command -v haproxy; } >/dev/null || test -x $(VENV)/proxies/usr/sbin/haproxy || \
	  { command -v apt-get >/dev/null && mkdir -p $(VENV)/proxies && cd $(VENV)/proxies && \
	    { $(PROXIES) || { apt-get update && $(PROXIES); }; } && \
	    for package in *.deb; do dpkg-deb -x $$package . || exit 1; done && rm -f *.deb; } >/dev/null 2>&1 || \
	  echo "nginx and haproxy are not installed and cannot be unpacked: the tests behind them are skipped"

# For the tests of the console's page in a browser, which say that they are skipped where there is none. Debian's package
# is installed, which only root may: a browser that is only unpacked lacks half of what it loads.
chromium: $(VENV)/.test
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
	  { command -v apt-get && test "$$(id -u)" = 0 && install="apt-get install -y --no-install-recommends chromium" && \
	    { $$install || { apt-get update && $$install; }; }; } >/dev/null 2>&1 || \
	  echo "chromium is not installed and cannot be: the tests in a browser are skipped"

# Every screen of the console's page, light and dark, at the width of a desk and of a phone: docs/screenshots.
screenshots: $(VENV)/.test chromium
	$(BIN)/python -m tests.browser.screenshots

# For tests that are otherwise skipped, and say so: the requests by which llhttp is tested, as pages with the parser's own
# log. They come with the source of aiohttp, which is unpacked in part and not installed.
llhttp: $(VENV)/.test
	@test -d $(VENV)/llhttp/request || \
	  { mkdir -p $(VENV)/llhttp && cd $(VENV)/llhttp && \
	    ../bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary aiohttp aiohttp==3.12.15 && \
	    tar -xzf aiohttp-*.tar.gz --wildcards --strip-components=4 '*/vendor/llhttp/test/request/*.md' && \
	    rm -f aiohttp-*.tar.gz; } >/dev/null 2>&1 || \
	  echo "the source of aiohttp cannot be had: the tests with llhttp's cases are skipped"

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks examples docs/plots tools hatch_build.py
	$(BIN)/ruff format --check src tests benchmarks examples docs/plots tools hatch_build.py
	$(BIN)/mypy
	$(BIN)/lint-imports

# The whole conformance suite on the Ray engine, and the examples of Ray Serve 1.x; `make test` runs a part of it there.
conformance-ray: $(VENV)/.test
	POINTSMAN_EXAMPLES_ENGINE=ray $(BIN)/pytest tests/docs/test_ray_serve_1x.py tests/docs/test_ray_serve_1x_composition.py
	$(BIN)/pytest tests/conformance --engine ray

# Pointsman beside other servers: make bench ONLY=noop,batching PEERS=pointsman,mosec; what there is: BENCH=--list
# A trial, one round of a second: BENCH=--quick. benchmarks/README.md has the method.
ONLY ?=
PEERS ?=
BENCH ?=
bench: $(VENV)/.test
	$(BIN)/python benchmarks/bench.py --only "$(ONLY)" --peers "$(PEERS)" $(BENCH)

# Faults under load, on two seeds, as a table; about eight minutes. More: make chaos CHAOS="--rows F8 --seed 7 --seed 8"
# A soak, with a process killed each second: make chaos CHAOS="--soak 600"
CHAOS ?=
chaos: $(VENV)/.test
	POINTSMAN_STORE_MUTATIONS=5200 $(BIN)/pytest -q tests/loop/test_store_faults.py
	POINTSMAN_SIMULATION_SEEDS=2000 $(BIN)/pytest -q tests/loop/test_simulation.py
	$(BIN)/python -m tests.chaos $(CHAOS)

# The tests on every Python 3.10-3.13 found on the machine, each in an environment of its own.
matrix:
	@found=; for version in 3.10 3.11 3.12 3.13; do \
	  for python in python$$version $$HOME/.pyenv/versions/$$version*/bin/python; do \
	    if $$python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then \
	      found="$$found $$version"; echo "== Python $$version ($$python)"; \
	      $(MAKE) --no-print-directory $(VENV)-$$version/.test PYTHON=$$python VENV=$(VENV)-$$version || exit 1; \
	      $(VENV)-$$version/bin/pytest -q || exit 1; break; \
	    fi; \
	  done; \
	done; echo "matrix passed on:$$found"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Also in an environment that somebody else has made: an older pip knows no groups.
$(VENV)/.pip: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]" --group test
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* build site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
