# make demo | test | check | docs   each makes the virtual environment that it needs; see CONTRIBUTING.md.

PYTHON ?= python3
# The active virtual environment, or one of the project's own.
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
# Compiled when first imported: most of what is installed never is.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install --no-compile -c constraints.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# An extra index to take torch from, for example one that serves builds for the CPU only.
TORCH_INDEX ?=
EXTRAS := onnx,peft,gguf,bleu,reports,dev
LOWEST_TRANSFORMERS := $(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
PYTEST_ARGS ?=

# Each holds what the one before it holds, and more.
RUNNABLE := $(VENV)/.distil_nlp-runnable
INSTALLED := $(VENV)/.distil_nlp-installed
DOCS_INSTALLED := $(VENV)/.distil_nlp-docs-installed
FETCHED := $(VENV)/.distil_nlp-fetched
LOWEST := .venv-lowest
# Tested there only, since whatever finds it imports it, with many words.
QUANTIZERS := $(shell grep -E '^(torchao|bitsandbytes)==' constraints.txt)

.PHONY: install demo test test-lowest check format docs tables wheel constraints clean help

help:            ## Shows this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED)  ## Installs the library and its tools into the active virtual environment, or into .venv.

demo: $(RUNNABLE)  ## Fine-tunes, distils, exports and reports on real sentences (about 12 minutes on 2 cores).
	$(BIN)/distil-nlp run movie_sentiment --output-dir runs/movie_sentiment --resume

# Their models are so small that a second thread only gets in the way.
test test-lowest: export OMP_NUM_THREADS = 1

test: $(FETCHED)  ## Runs all tests.
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(INSTALLED)  ## Checks format, lint, types and that imports only go down the floors.
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(INSTALLED)  ## Formats the code and mends what lint can mend.
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(DOCS_INSTALLED)  ## Builds the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

tables: $(INSTALLED)  ## Renews the tables of docs/benchmarks.md from the results in benchmarks/results.
	cd benchmarks && for name in objectives tasks; do \
	  $(abspath $(BIN))/python $${name}_tables.py > results/$$name.md.new && mv results/$$name.md.new results/$$name.md || exit 1; \
	done

wheel: $(INSTALLED)  ## Builds the wheel into dist/.
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

test-lowest: $(LOWEST)/.installed  ## Runs the quick tests with the lowest transformers that pyproject.toml allows, and with what quantizes teachers.
	$(LOWEST)/bin/python -m pytest -m "not slow" $(PYTEST_ARGS)

constraints:     ## Renews constraints.txt with today's versions; TORCH=X.Y.Z renews torch too.
	$(PYTHON) .ci/constraints.py $(TORCH) "$(EXTRAS),torchao,bitsandbytes,docs" constraints.txt

clean:           ## Removes what make made, but for runs/.
	rm -rf .venv .venv-lowest .venv-ci .venv-wheel dist site .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: a version that is there already, for whatever device, is left as it is.
$(RUNNABLE): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==$(TORCH)
	$(INSTALL) --editable '.[onnx,reports]'
	touch $@

$(INSTALLED): $(RUNNABLE)
	$(INSTALL) --editable '.[$(EXTRAS)]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(INSTALL) --editable '.[docs]'
	touch $@

# What slow tests take from the package index, into the user's cache: after this they need no network.
$(FETCHED): $(INSTALLED) tasks/movie_sentiment.yaml
	$(BIN)/python -c "from distil_nlp.export import ensure_environment; ensure_environment()"
	$(BIN)/distil-nlp check movie_sentiment
	touch $@

# Sees everything in $(VENV), but for an older transformers and what that needs.
$(LOWEST)/.installed: $(INSTALLED)
	rm -rf $(LOWEST)
	$(BIN)/python .ci/overlay.py $(LOWEST) --editable
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --no-input install "transformers==$(LOWEST_TRANSFORMERS).*" $(QUANTIZERS)
	touch $@
