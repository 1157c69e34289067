# Everything here works from a clean clone; `make help` says what there is.
PYTHON ?= python3
ARGS ?=
GPU_OUT ?= gpu-results

.DEFAULT_GOAL := help
.PHONY: help reproduce test lint types docs bench gpu gpu-tests gpu-engine gpu-kernels gpu-loader clean FORCE

help:
	@echo "make reproduce  the main job: lottery tickets on handwritten digits, figures and report in runs/ (ARGS=\"--seed 1\")"
	@echo "make test       the tests, then the rules of ruff and the types (ARGS=\"tests/kernels -x\")"
	@echo "make lint       ruff: rules and format; mypy: types"
	@echo "make docs       the pages as a site, in build/site; a warning is an error"
	@echo "make bench      the kernels against named competitors: a table, JSON and plots (ARGS=\"masked_sgd --quick\")"
	@echo "make gpu        on a CUDA machine, with its python3: gpu-tests, gpu-engine, gpu-kernels, gpu-loader; results in gpu-results/ (GPU_OUT=...)"
	@echo "make clean      remove caches and build leftovers; .venv/ and runs/ stay"
	@echo
	@echo "The first of reproduce, test, lint and bench installs what is missing: system packages (apt) and .venv (PYTHON=python3.12)."

reproduce: .venv/.installed
	@.venv/bin/python -m sparselt.reproduce digits_resnet8 --experiments main $(ARGS)

# Two processes of one thread each; a file's tests share a process, for their fixtures and compiled kernels.
test: .venv/.installed
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)
	@.venv/bin/ruff check --quiet
	@$(MAKE) --no-print-directory types

lint: .venv/.installed types
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check

# mypy checks the package as it is installed, with kernels, reproduce and benchmarks in it.
types: .venv/.installed
	@rm -rf build/types && mkdir -p build/types/sparselt
	@ln -s $(CURDIR)/sparselt/* $(CURDIR)/kernels $(CURDIR)/reproduce $(CURDIR)/benchmarks build/types/sparselt/
	@cd build/types && $(CURDIR)/.venv/bin/python -m mypy -p sparselt --config-file $(CURDIR)/pyproject.toml

# MkDocs and its theme are installed by the first build.
docs: .venv/.installed
	@.venv/bin/python -c 'import material, mkdocstrings_handlers.python' 2>/dev/null || \
		.venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt --no-build-isolation --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict

# The stamp holds the folder it was made in: a .venv that was moved or has lost its interpreter is set up again.
ifeq ($(and $(wildcard .venv/bin/python),$(findstring $(CURDIR),$(file < .venv/.installed))),)
.venv/.installed: FORCE
endif
.venv/.installed: pyproject.toml setup.py constraints.txt scripts/setup.sh
	@scripts/setup.sh $(PYTHON)

bench: .venv/.installed
	@.venv/bin/python -m sparselt.benchmarks $(ARGS)

# Takes the machine's own torch, Triton and NumPy; needs no network, FFCV, tyro or .venv. Each step takes 8 minutes at most.
gpu: gpu-tests gpu-engine gpu-kernels gpu-loader

gpu-tests gpu-engine gpu-kernels gpu-loader:
	@$(PYTHON) -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2>/dev/null || \
		{ echo "make $@: $(PYTHON) has no torch that sees a CUDA device; run it on a machine with one, or name its Python (PYTHON=...)." >&2; exit 1; }
	@$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m sparselt.benchmarks.gpu $(@:gpu-%=%) --out $(GPU_OUT)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find kernels reproduce sparselt tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
