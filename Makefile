# `make sweep` and `make test` need only Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SWEEP ?= quickstart
EXTRAS ?= dev
CONSTRAINTS ?= --constraint constraints.txt

.PHONY: sweep test test-all check bench install install-dev clean

sweep: install  ## Run the main job; the last line names the dashboard. SWEEP=mnist for another one.
	$(BIN)/python -m orchestrator sweep $(SWEEP)

test: install-dev  ## Every test but the slow ones.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not alone"
	$(BIN)/python -m pytest -m "alone and not slow"

test-all: install-dev  ## The slow ones too.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m "alone"

check: install-dev  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

bench: install-dev  ## Every benchmark; each prints one JSON document last.
	for file in tests/benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

# One call of pip for everything: each call looks through all the packages again.
define install_package
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '$(1)'
	$(BIN)/python orchestrator/checkout.py
	touch $(VENV)/installed
endef

$(VENV)/installed: pyproject.toml constraints.txt
	$(call install_package,.)

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(call install_package,.[$(EXTRAS)])
	touch $@

clean:
	rm -rf $(VENV) .links build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
