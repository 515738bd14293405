# make demo · make test · make check: each sets up .venv from nothing but Python and this repository.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: .venv/ready
	$(BIN)/separable demo

# One thread a process: two processes share two cores better than two threads each would.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_architecture.py

bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python bench/shrink.py digits
	$(BIN)/python bench/shrink.py characters
	$(BIN)/python bench/training.py
	$(BIN)/python bench/filters.py

clean:
	rm -rf .venv build dist src/*.egg-info
