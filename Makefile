# Two commands set everything up: `make demo` (the core alone) and `make test` (with every extra).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-gpu lint format bench bench-gpu clean

demo: $(VENV)/.core
	$(BIN)/brimful demo --run --out demo

# Kernels in Triton's interpreter are half of the work. Two processes share each half, and the second
# half runs whatever the first one finds.
KERNELS := tests/cuda tests/runtimes/cuda tests/vision/cuda
IN_TWO := --numprocesses 2 --dist worksteal

test: $(VENV)/.dev
	@failed=0; \
	$(BIN)/python -m pytest $(IN_TWO) $(KERNELS) || failed=1; \
	$(BIN)/python -m pytest $(IN_TWO) $(addprefix --ignore ,$(KERNELS)) || failed=1; \
	exit $$failed

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests benchmarks scripts
	$(BIN)/ruff format src tests benchmarks scripts

# Side by side with `ultralytics predict`, one run; needs the weights beside the project.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/engine_overhead.py
	$(BIN)/python benchmarks/engine_drivers.py
	$(BIN)/python benchmarks/cpu_predict.py
	$(BIN)/python benchmarks/cpu_pictures.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

NATIVE := $(wildcard src/brimful/native/*.c) src/brimful/native/build.py hatch_build.py

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.core

# Both want a CUDA device, and fail without one. What passed where is written to a file for CI, which
# has no GPU (tests/gpu_report.py).
GPU_TESTS := $(wildcard tests/runtimes/test_cuda*.py) $(KERNELS)

test-gpu: $(VENV)/.dev
	REQUIRE_CUDA=1 $(BIN)/python -m pytest --gpu-report=benchmarks/results/gpu_tests.json $(GPU_TESTS)

bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu_decode_stress.py
	$(BIN)/python benchmarks/gpu_accuracy.py
	$(BIN)/python benchmarks/gpu_predict.py
	$(BIN)/python benchmarks/gpu_runtimes.py
	$(BIN)/python benchmarks/gpu_ablation.py
	$(BIN)/python benchmarks/gpu_masks.py
	$(BIN)/python benchmarks/gpu_memory.py
	$(BIN)/python benchmarks/gpu_latency.py
	$(BIN)/python benchmarks/gpu_video.py
	$(BIN)/python benchmarks/gpu_scaling.py

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache
