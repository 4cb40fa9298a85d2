# make run: everything from a fresh checkout to a running demo. make test: every test.
PYTHON ?= python3

.PHONY: run test lint types check setup clean

run:
	@$(PYTHON) app/bootstrap.py run
	@exec .venv/bin/prefloop up --demo

setup:
	@$(PYTHON) app/bootstrap.py dev

test: setup
	.venv/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache

types: setup
	.venv/bin/mypy

check: test lint types

clean:
	rm -rf .venv node_modules app/static/vendor build *.egg-info
