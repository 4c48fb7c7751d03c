# `make sweep` and `make test` need only Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LINKS := .links
SWEEP ?= quickstart

.PHONY: links sweep test test-all check bench install install-dev clean

sweep: install  ## Run the main job; the last line names the dashboard. SWEEP=mnist for another one.
	$(BIN)/python -m orchestrator sweep $(SWEEP)

test: install-dev  ## Every test but the slow ones.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not alone"
	$(BIN)/python -m pytest -m "alone and not slow"

test-all: install-dev  ## The slow ones too.
	$(BIN)/python -m pytest -m ""

check: install-dev  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

bench: install-dev  ## Every benchmark; each prints one JSON document last.
	for file in tests/benchmarks/bench_*.py; do PYTHONPATH=. $(BIN)/python $$file || exit 1; done

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	$(MAKE) --no-print-directory links
	touch $@

# The folders as one package `quantfair`, for Python and type checkers: a new file is seen without a new installation.
# (Of setuptools' own editable modes one hides the package from type checkers, and the other misses new files.)
links:
	mkdir -p $(LINKS)/quantfair
	for room in orchestrator quant datasets results; do ln -sfn ../../$$room $(LINKS)/quantfair/$$room; done
	for file in $(notdir $(wildcard orchestrator/package/*)); do \
	    ln -sf ../../orchestrator/package/$$file $(LINKS)/quantfair/$$file; done
	echo "$(CURDIR)/$(LINKS)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/quantfair.pth"

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LINKS) build *.egg-info .pytest_cache .ruff_cache .hypothesis
