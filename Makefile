# Every target sets up what it needs: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-slow lint format bench tiny clean

help:
	@echo "make demo       make a film, ask the shipped model about it, show the evidence"
	@echo "make test       lint, types and the test suite (about eight minutes on two cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make lint       ruff and mypy alone"
	@echo "make bench      the figures of docs/tiny-model.md, measured again (about 15 minutes)"
	@echo "make tiny       train the shipped checkpoints from nothing (about two and a half hours on two cores)"

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; takes a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

demo: $(READY)
	@$(BIN)/videoreasoner demo --out out/demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -m "not slow" --durations=10

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --durations=10

bench: $(READY)
	$(BIN)/python bench/tiny_model.py --out out/tiny-model

tiny: $(READY)
	$(BIN)/videoreasoner synthetic train-tiny out/tiny

clean:
	rm -rf .venv out
