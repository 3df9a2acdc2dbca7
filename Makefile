# What CI runs, one command: `make`. Needs an environment with `pip install -c constraints.txt -e ".[train,postgres,test]"`.
PYTHON ?= python
# Without this, the root's folder `kernels` would stand in for the library of that name.
export PYTHONSAFEPATH = 1

.PHONY: check lint format types docs docs-check test plotly

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

# The part of plotly.js that the page draws with, in the version that the Python package has.
PLOTLY = plotly.js-cartesian-dist-min
plotly:
	version=$$($(PYTHON) -c "from plotly.offline import get_plotlyjs_version as version; print(version())") && \
	folder=$$(mktemp -d) && cd $$folder && npm pack --silent $(PLOTLY)@$$version && tar xzf *.tgz && cd - && \
	cp $$folder/package/plotly-cartesian.min.js dashboard/vendor/ && cp $$folder/package/LICENSE dashboard/vendor/plotly.LICENSE
