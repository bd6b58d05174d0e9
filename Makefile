# Everything needed is made on first use: a virtual environment in .venv, reinstalled only when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One torch thread is faster than two when teacher and student share a small machine.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# The index has CUDA builds, which run on a CPU too; for the smaller CPU builds:
# make demo TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_FLAGS ?=

.PHONY: demo test check format stubs bench clean help

help:  ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## distil a small student twice and write runs/demo/report.html (DEMO_FLAGS="--train.steps 20" for less)
	$(BIN)/student-trainer demo --config examples/digits/demo.toml $(DEMO_FLAGS)

test: $(READY)  ## run all tests (TEST_FLAGS="-k loss" for some)
	$(BIN)/python -m pytest $(TEST_FLAGS)

check: $(READY)  ## lint, formatting, types, stub drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/protos/test_stubs.py

format: $(READY)  ## mend formatting and what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: $(READY)  ## regenerate protos/v1 from its schemas
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/v1/*.proto

bench: $(READY)  ## write benchmarks/results/truncation.json
	$(BIN)/python -m benchmarks.truncation

clean:  ## remove the environment and all runs
	rm -rf $(VENV)
	find runs -mindepth 1 -not -name .gitkeep -delete

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH_FLAGS) torch torchvision
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)
