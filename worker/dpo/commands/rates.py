"""`rates`: how fast this machine multiplies matrices, by number type, which is what `dtype=auto` goes by."""

import argparse
import json
import os
from contextlib import suppress

EXAMPLES = """examples:
  python -m worker.dpo rates
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Print GFLOP/s of matrix products by number type, as one JSON object. They are measured once and kept."
    )
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def run(args: argparse.Namespace) -> int:
    """Print the rates. Returns the exit code. Raises ModelError for a device that isn't there."""
    from worker.dpo.machine.rates import product_rates
    from worker.dpo.model.loading import choose_device

    # Nobody waits for it. The best of several tries counts, so what runs beside it changes little.
    with suppress(OSError):
        os.nice(10)
    print(json.dumps(product_rates(choose_device(args.device))))
    return 0
