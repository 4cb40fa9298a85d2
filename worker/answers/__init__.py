"""Asks the sources of a generation in turn, a program of its own: `python -m worker.answers PLAN.json`."""
