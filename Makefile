# make run: everything from a fresh checkout to a running demo. make test: every test but those of make test-long, which
# take minutes each.
PYTHON ?= python3

.PHONY: run test test-long lint types check run-config setup clean

run:
	@$(PYTHON) app/bootstrap.py run
	@exec .venv/bin/prefloop up --demo

setup:
	@$(PYTHON) app/bootstrap.py dev

test: setup
	.venv/bin/python -m pytest -n 3 --dist loadgroup -m "not long" $(ARGS)

test-long: setup
	.venv/bin/python -m pytest -n 2 --dist loadgroup -m long $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache

types: setup
	.venv/bin/mypy

check: lint types test test-long

run-config: setup
	.venv/bin/python -m tools.copy_run_config

clean:
	rm -rf .venv node_modules app/static/vendor build *.egg-info
