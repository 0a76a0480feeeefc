# Every target sets itself up: `make test` works in a fresh clone with nothing but python3.
VENV   ?= .venv
PY     := $(VENV)/bin/python
# The tests call deepspeed and torchrun by their names.
PYTEST := PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pytest -q
# Idle OpenMP threads must sleep: tiny models on a shared machine are otherwise many times slower.
export OMP_WAIT_POLICY := PASSIVE
# Byte-code is kept: else each process that the tests start compiles torch and transformers anew, for many seconds.
export PYTHONDONTWRITEBYTECODE :=
export VENV
# Material for MkDocs else prints a long notice of its successor before each build.
export NO_MKDOCS_2_WARNING := 1
# Processes that share the tests, a file's tests in one of them.
JOBS ?= 2

.PHONY: setup lint format types test test-slow test-browser test-gpu parity quickstart notebooks demos docs docs-serve

setup:
	@bash scripts/setup.sh

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache --no-logo

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: setup
	$(PY) -m mypy

test: setup
	OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile -m "not slow and not gpu and not browser"

test-slow: setup
	OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile --durations 15 -m "slow and not gpu and not browser"

# Needs a chromium; Debian's package of that name will do.
test-browser:
	EXTRAS=browser bash scripts/setup.sh
	BROWSER=required OMP_NUM_THREADS=1 $(PYTEST) -m browser tests/serve/browser

test-gpu: setup
	$(PYTEST) -m gpu

# Against every recorded output of the public code in the folder ORACLE, or in all that lie beside the repository; the
# test suite reads a selection.
parity: setup
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m tests.parity $(ORACLE)

quickstart:
	bash scripts/quickstart.sh

# Nobody looks at their output. A cell that fails ends the run.
notebooks:
	EXTRAS=notebooks bash scripts/setup.sh
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/jupyter execute $(wildcard notebooks/*.ipynb)

# What the slow tests run at a tenth of its size, whole.
demos: quickstart notebooks

# The documentation as a site in site/; a link or an anchor that leads nowhere ends it.
docs:
	EXTRAS=docs bash scripts/setup.sh
	$(PY) -m mkdocs build

docs-serve:
	EXTRAS=docs bash scripts/setup.sh
	$(PY) -m mkdocs serve
