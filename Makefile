# make demo   from a bare checkout to figures: environment, embedded videos, the ablation sweep, the report
# make test   the test suite from the same start; PYTEST_ARGS="-m slow" runs what takes minutes
# make lint   ruff: what it finds wrong, and how it lays out
# make types  mypy, at the level that pyproject.toml states
# make bench  pytest-benchmark over the attention variants
# make figures  the figures again, from the committed results and those of the demo
# make clean  removes the environment and what the demo made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
export PYTHONUNBUFFERED := 1

.PHONY: demo test lint types bench figures clean

demo: $(VENV)/installed
	@# A run that failed (status 1) is a row of the figures too; only a grid that could not start ends here.
	@status=0; $(BIN)/python sweeps/launch.py --grid ablations.yaml --runs $(RUNS) || status=$$?; \
	[ $$status -le 1 ] || exit $$status; \
	$(BIN)/python analysis/collect.py --runs $(RUNS) --out build/results --replace && \
	$(BIN)/python analysis/regenerate.py --results build/results analysis/results --figures build/figures && \
	echo "Look at build/figures/report.html, or at the pictures beside it; the runs are in $(RUNS)/." && exit $$status

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/python -m mypy

bench: $(VENV)/installed
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only $(PYTEST_ARGS)

figures: $(VENV)/installed
	$(BIN)/python analysis/regenerate.py

# torch goes first and by its exact pin: any looser request may pull another build with gigabytes of CUDA libraries.
$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "Installing the pinned packages of requirements.lock into $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) build $(RUNS) *.egg-info
