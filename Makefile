PYTHON ?= python3
VENV := .venv
LITELLM := $(VENV)-litellm
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format bench train clean

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

TRAIN := $(BIN)/python -m ctxcomp_eval
train: $(VENV)/.dev  ## make the default weights again, about four hours on 2 cores; needs the shared data
	$(TRAIN).train_token_head --out runs/token_head
	$(TRAIN).pruner_data --out runs/pruner
	$(TRAIN).train_pruner --data runs/pruner --first-layer 2 --steps 1800 --out runs/pruner/r32
	$(TRAIN).pruner_data --out runs/dense --vectors runs/dense/pool.npy --twice qed_train
	$(TRAIN).train_pruner --data runs/dense --init runs/pruner/r32/last.pt --first-layer 2 --rate 6e-4 --steps 1600 \
	    --out runs/pruner/dense
	$(TRAIN).train_pruner --data runs/dense --init runs/pruner/dense/last.pt --first-layer 2 --rate 5e-4 --steps 3000 \
	    --negatives 4 --hops 2 --teacher runs/token_head/best.safetensors --seed 1 --out runs/pruner/third
	cp runs/token_head/best.safetensors ctxcomp/weights/token_head.safetensors
	cp runs/pruner/third/last.safetensors ctxcomp/weights/sentence_pruner.safetensors
	$(TRAIN).train_fusion --head runs/pruner/third/last.safetensors
	$(TRAIN).train_second_look --head runs/pruner/third/last.safetensors

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
