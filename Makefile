# Two commands set everything up: `make demo` (the core alone) and `make test` (with every extra).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-gpu lint format bench bench-gpu clean

demo: $(VENV)/.core
	$(BIN)/brimful demo --run --out demo

# Kernels in Triton's interpreter are half of the work, on one CPU each; the others want the machine.
KERNELS := tests/runtimes/cuda tests/vision/cuda

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 2 $(KERNELS)
	$(BIN)/python -m pytest $(addprefix --ignore ,$(KERNELS))

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

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

NATIVE := $(wildcard src/brimful/native/*.c) src/brimful/native/build.py hatch_build.py

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt $(NATIVE)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.core

# Both want a CUDA device, and fail without one.
test-gpu: $(VENV)/.dev
	REQUIRE_CUDA=1 $(BIN)/python -m pytest -m gpu tests/runtimes
	REQUIRE_CUDA=1 $(BIN)/python -m pytest $(KERNELS)

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
