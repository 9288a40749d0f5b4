# make demo and make test are all a new user needs: each builds the environment first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# Real recordings, where they lie beside the checkout: cells and tests on them run, else they are skipped.
ifneq ($(wildcard $(CURDIR)/../shared/data),)
export GEM_DATA ?= $(abspath $(CURDIR)/../shared/data)
endif

# macOS has no timeout(1); a hung worker then has to be stopped by hand.
LIMIT := $(shell command -v timeout >/dev/null 2>&1 && echo timeout)
limit = $(if $(LIMIT),$(LIMIT) -k 10 $(1))

# A Python that was named on the command line is insisted on; any other choice is free.
NAMED := $(filter-out file default undefined,$(origin PYTHON))
PICK := $(if $(NAMED),"$(PYTHON)")

STYLED := nbs gem_detector/__init__.py gem_detector/__init__.pyi setup.py tools $(wildcard tests benchmarks)

.PHONY: help setup demo test check docs bench verify lab lock readme clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' Makefile

setup:  ## build or refresh .venv from requirements.lock
	@sh tools/setup.sh $(PICK)

demo: setup  ## the main job on a simulated market; options in ARGS="--seed 7"
	@$(BIN)/gem-detector demo $(ARGS)

test: setup  ## every notebook, then pytest
	OMP_NUM_THREADS=1 $(call limit,900) $(BIN)/nbdev_test $$([ -d "$$GEM_DATA" ] && echo --flags data)
	OMP_NUM_THREADS=1 $(call limit,900) $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

check: setup  ## notebooks and modules agree and are clean; format, lint, types
	$(BIN)/python tools/check_export.py
	$(BIN)/python tools/public_names.py --check
	$(BIN)/ruff format --check $(STYLED)
	$(BIN)/ruff check $(STYLED) gem_detector
	$(BIN)/mypy

docs: setup  ## the site in _docs, its links checked
	$(BIN)/python tools/build_docs.py
	$(BIN)/python tools/check_links.py _docs

bench: setup  ## every benchmark beside its peers: outputs compared first, then ratios; a page in build/
	$(BIN)/python benchmarks/run_all.py $(ARGS)

verify: setup  ## the long battery: all seeds, fuzz and soak; a dated table in build/
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --flags "slow$$([ -d "$$GEM_DATA" ] && echo ' data')"
	$(BIN)/python -m pytest -m verify --table=build/verify-$$(date -u +%Y-%m-%d).md $(ARGS)

lab: setup  ## JupyterLab on the notebooks; they are cleaned when saved
	$(BIN)/jupyter lab --notebook-dir=nbs

lock: setup  ## requirements.lock anew from settings.ini
	$(BIN)/python tools/requirements.py | $(BIN)/uv pip compile --universal --no-header --no-annotate \
	    --no-emit-index-url --python-version 3.11 --upgrade -q -o requirements.lock -

readme: setup  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

clean:  ## remove what was built, but not .venv
	rm -rf build dist _docs _proc *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(wildcard gem_detector tests tools benchmarks) -name __pycache__ -prune -exec rm -rf {} +
