# Every target sets up .venv by itself; python3, pip and make are all that must be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs
# one_knob, cifar10, federated and language_model train for long and are run by hand; structure counts source lines and measures nothing.
BENCHMARKS := $(filter-out one_knob knob cifar10 federated language_model structure,$(basename $(notdir $(wildcard benchmarks/*.py))))
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs web web-page bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /make \1: /p' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## Train, compress and restore a small network in a few minutes
	$(BIN)/metaq demo --out runs/demo --force

test: $(INSTALLED) ## Run the tests that tell at once whether a change holds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(INSTALLED) ## Run all tests, with all examples of every property
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --hypothesis-profile thorough

lint: $(INSTALLED) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable keeps the theme from advertising its successor; warnings of the build itself end it.
docs: $(DOCS_INSTALLED) ## Build the documentation as a site in site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

web: ## Serve the page that reads handwriting, on this machine alone
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory web 8000

web-page: ## Build that page as one file, build/handwriting.html, which works from disk too
	npm ci --prefix web --no-fund --no-audit
	@mkdir -p build
	node web/build_page.js build/handwriting.html

bench: $(INSTALLED) ## Run every benchmark of minutes; JSON and pictures go to benchmarks/results
	@mkdir -p benchmarks/results
	@set -e; for name in $(BENCHMARKS); do \
		echo "benchmarks/$$name.py"; \
		plot=""; if grep -q '"--plot"' "benchmarks/$$name.py"; then plot="--plot benchmarks/results/$$name.png"; fi; \
		$(BIN)/python "benchmarks/$$name.py" --json "benchmarks/results/$$name.json" $$plot; \
	done

clean: ## Remove the virtual environment, caches and build outputs
	rm -rf $(VENV) build dist site web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# PyTorch goes first and alone, so that a wheel already at hand (PIP_FIND_LINKS, a mirror) is taken as pinned. The stamp
# is written last: an installation that failed half-way is tried again.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(TORCH)
	$(PIP) install -c constraints.txt -e '.[test,lint]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP) install -c constraints.txt -e '.[docs]'
	touch $@
