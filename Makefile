# make repro: install, then the whole pipeline on the default corpus.   make test: install, then the tests.
# make ui: the MLflow UI on the recorded runs.   make gpu: all that needs a GPU, tests and benchmarks, in one go.
# PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTSIDE := $(PATH)
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install repro test ui lint gpu

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 12); sys.exit(None if ok else 'audiolib needs Python 3.11 or 3.12, this is ' + sys.version.split()[0] + '; set PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev]'
	touch $@

repro: $(STAMP)
	python -m audiolib.config.project
	dvc repro

# Two files of tests at a time, each in one thread.
test: $(STAMP)
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	ruff check .
	ruff format --check .

ui: $(STAMP)
	python -m audiolib.ui

# Without the virtual environment, so that it runs with the torch that a GPU machine brings; beside that it needs pytest.
gpu: export PATH := $(OUTSIDE)
gpu:
	python3 -m pytest -m gpu tests/kernels
	python3 -m audiolib.bench flexible packing precision scan length scan_gpu --device cuda --keep
