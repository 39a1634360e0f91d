# One way to do a task: CI runs the same ones. Nothing but Python (3.10 or later) and make has to be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(VENV)/.torch
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
LOWEST := $(VENV)-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where torch comes from, if not from the index that pip uses: such as that of its CPU builds, which pytorch.org names.
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-live test-lowest lint format docs clean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv with everything in it; again only when pyproject.toml or constraints.txt changed

# torch by itself and first: it is by far the largest, and whatever fails after it need not fetch it again.
$(TORCH): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "ai4os-data needs Python 3.10 or later; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing torch into $(VENV): 0.2 GB for a CPU build, 3 GB for the CUDA build that is the default on Linux."
	@echo "(For the small one: make TORCH_INDEX=URL $(MAKECMDGOALS), with the URL that pytorch.org names for CPU.)"
	$(PIP) install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(DEMO): $(TORCH)
	@test $(READY) -nt $(TORCH) || echo "Installing what the demo needs, with scikit-learn and SciPy the largest: 0.1 GB."
	test $(READY) -nt $(TORCH) || $(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(READY): $(TORCH)
	@echo "Installing everything that tests, linters, benchmarks and pages need: 0.6 GB."
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo,lightning,test,bench,dev,docs]'
	@touch $@

demo: $(DEMO) ## train on scanned digits over WebDAV, and show what the cache does; then survive being killed
	$(BIN)/ai4os-data demo
	$(BIN)/python examples/train_and_survive.py

# Four at a time: most of them wait for servers, so two cores are not too few.
test: $(READY) ## run the tests, but for the long ones: 12 to 19 minutes on two idle cores
	$(BIN)/python -m pytest -m "not long" -n 4 --dist worksteal

test-long: $(READY) ## run the long tests: some 7 minutes more
	$(BIN)/python -m pytest -m long --timeout 1800 -n 2 --dist worksteal

test-live: $(READY) ## run the tests against a Nextcloud of yours, which CONTRIBUTING.md says how to name
	$(BIN)/python -m pytest tests/live --timeout 600

test-lowest: ## run the tests with the lowest versions that pyproject.toml promises, in an environment of their own
	@test -x $(LOWEST)/bin/uv || { $(PYTHON) -m venv --clear $(LOWEST) && $(LOWEST)/bin/python -m pip install --quiet uv; }
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[demo,lightning,test,bench]'
	$(LOWEST)/bin/python -m pytest -m "not long" -n 4 --dist worksteal

lint: $(READY) ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY) ## format the code, and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(READY) ## build the pages into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove .venv and everything else that was made here
	rm -rf $(VENV) $(LOWEST) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
