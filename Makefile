PYTHON ?= python3
VENV := .venv
LITELLM := $(VENV)-litellm
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format bench clean

demo: $(VENV)/.base  ## install and compress a real question over the project's own documents
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev $(LITELLM)/.done  ## run the tests, offline
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## every benchmark, one after the other; eval/README.md names them
	$(BIN)/python -m ctxcomp_eval.bench

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) -e '.[bench]'
	touch $@

$(LITELLM)/.done: tests/service/litellm.txt  ## LiteLLM's proxy, a peer of the service, does not go together with transformers
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/service/litellm.txt
	touch $@

clean:
	rm -rf $(VENV) $(LITELLM) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
