# Everything runs inside .venv, which the first call makes. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup book lab test lint unit lessons notebooks figures explorer links accessibility \
        play prices bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' \
	  | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## make .venv and install the pinned requirements and the package

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dpdiff needs Python 3.11 or newer as $(PYTHON); try: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "venv is missing; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	@echo "Installing the pinned requirements into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

book: $(READY)  ## execute the lessons, build the HTML book and say where it is
	@$(BIN)/python book/build.py

lab: $(READY)  ## open the readers' notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks/00_main_job.ipynb

test: lint  ## all of CI's tests: lint, unit tests, doctests and the lessons
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --doctest-modules \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=600 tests dpdiff lessons

lint: $(READY)  ## formatting, lint, and the types of costs and solvers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --no-error-summary

unit: $(READY)  ## the unit tests alone
	@$(BIN)/python -m pytest tests

lessons: $(READY)  ## run the lessons again and store their text outputs, without images
	@$(BIN)/python book/lessons.py
	@$(BIN)/python book/notebooks.py

notebooks: $(READY)  ## make the readers' notebooks (Binder, Colab) from the lessons
	@$(BIN)/python book/notebooks.py

figures: $(READY)  ## draw the digits of the welcome page
	@$(BIN)/python book/figures.py

explorer: $(READY)  ## compute what the explorer page shows (about ten minutes)
	@$(BIN)/python book/explorer.py

links: $(READY)  ## ask the built book's links to other sites whether they answer (needs a network)
	@$(BIN)/python book/links.py

accessibility:  ## look at the built book in a browser with axe-core (needs npm and Chromium)
	@test -d _build/html || { echo "There is no built book: run make book first." >&2; exit 1; }
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 18 or newer" >&2; exit 1; }
	@mkdir -p _build/browser && cp book/browser/* _build/browser
	@npm install --prefix _build/browser --no-audit --no-fund --silent
	@node _build/browser/check.mjs _build/html

play:  ## play with the built explorer in a browser, with mouse, touch and keys (needs npm and Chromium)
	@test -d _build/html || { echo "There is no built book: run make book first." >&2; exit 1; }
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 18 or newer" >&2; exit 1; }
	@mkdir -p _build/browser && cp book/browser/* _build/browser
	@npm install --prefix _build/browser --no-audit --no-fund --silent
	@node _build/browser/explorer.mjs _build/html dpdiff/models/digits/costs.npz

prices: $(READY)  ## what a schedule costs to choose (hours on one core; restartable), and rough networks
	@$(BIN)/python benchmarks/pool.py digits --knots 193 --images 143
	@$(BIN)/python benchmarks/prices.py digits
	@$(BIN)/python benchmarks/rough.py

bench: $(READY)  ## time the solvers
	@$(BIN)/python benchmarks/solvers.py

clean:  ## remove what was built; .venv stays
	@rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache lessons/.ruff_cache .hypothesis
	@find dpdiff tests lessons book -name __pycache__ -type d -prune -exec rm -rf {} +
