"""`estimate`: the memory that a training run would need, before it is started."""

import argparse
import json
import sys
from dataclasses import asdict

from worker.dpo.commands.train import add_run_arguments
from worker.dpo.ground.memory import peak_memory

EXAMPLES = """examples:
  python -m worker.dpo estimate --model models/base --data train.jsonl
  python -m worker.dpo estimate --model models/base --data train.jsonl --set lora_r=0 --set token_budget=4096
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options: those of `train`, without --out and --fresh."""
    parser.description = (
        "Load the model, count what a training run would hold, and print it as one JSON object, in bytes."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_run_arguments(parser, examples=EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Print the estimate. Returns the exit code. Raises what loading a run raises."""
    import tempfile
    from pathlib import Path

    from accelerate import Accelerator

    from worker.dpo.ground.config_file import load_config
    from worker.dpo.ground.events import EventWriter
    from worker.dpo.ground.stopping import Stop
    from worker.dpo.run.setup import RunRequest, prepare

    config = load_config(args.config, args.settings)
    with tempfile.TemporaryDirectory() as out, EventWriter(sys.stderr, rich=False) as events:
        request = RunRequest(args.model, args.data, Path(out), config, eval_data=args.eval_data)
        setup = prepare(request, events, Stop(), Accelerator(cpu=config.device == "cpu"))
    plan = setup.memory
    print(json.dumps({**asdict(plan), "peak": plan.peak, "loading_peak": peak_memory(setup.scorer.device)}))
    return 0
