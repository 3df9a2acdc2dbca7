# What CI runs, one command: `make`. Needs an environment with `pip install -c constraints.txt -e ".[train,postgres,test]"`.
PYTHON ?= python
# Without this, the root's folder `kernels` would stand in for the library of that name.
export PYTHONSAFEPATH = 1

.PHONY: check lint format types docs docs-check test

check: lint types docs-check test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy -p foreshock

docs:
	$(PYTHON) docs/generate.py

docs-check:
	$(PYTHON) docs/generate.py --check

test:
	$(PYTHON) -m pytest
