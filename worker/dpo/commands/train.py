"""`train`: a training run as JSON lines of events, and an exit code that says how it ended."""

import argparse
import os
from pathlib import Path

from worker.dpo.commands.endings import explain
from worker.dpo.ground.errors import DONE

EXAMPLES = """examples:
  python -m worker.dpo train --model models/base --data train.jsonl --eval-data eval.jsonl --out out
  python -m worker.dpo train --model models/base --data train.jsonl --out out --set beta=0.2 --set lora_r=0
  accelerate launch --num_processes 2 -m worker.dpo train --model models/base --data train.jsonl --out out

A stopped or killed run goes on from its last training state when the same command is started again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_run_arguments(parser, examples=EXAMPLES)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", required=True, type=Path, help="folder for the result and the training state")
    parser.add_argument("--fresh", action="store_true", help="drop the training state in OUT and start again")


def add_run_arguments(parser: argparse.ArgumentParser, *, examples: str) -> None:
    """What names a training run: model, data and settings."""
    parser.add_argument("--model", required=True, help="folder or hub id of the base model (safetensors)")
    parser.add_argument(
        "--data", required=True, type=Path, help="preference file: JSON Lines, JSON, CSV, TSV or Parquet, gzip too"
    )
    parser.add_argument("--eval-data", type=Path, help="preference file to evaluate on")
    add_settings(parser, examples=examples)


def add_settings(parser: argparse.ArgumentParser, *, examples: str) -> None:
    """A run's settings, from a file and one at a time."""
    from worker.dpo.ground.config import settings_table

    settings = "\n".join(
        f"  {name:<28} {meaning}{f' (default {default})' if default else ''}"
        for name, default, meaning in settings_table()
    )
    parser.epilog = f"{examples}\nsettings, for --set and --config:\n{settings}"
    parser.add_argument("--config", type=Path, help="settings as JSON or YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="one setting; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Train, printing the run's events. Returns the exit code."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    from worker.dpo.ground.config_file import load_config
    from worker.dpo.ground.events import Event, EventWriter
    from worker.dpo.ground.stopping import Stop
    from worker.dpo.run.loop import train
    from worker.dpo.run.setup import RunRequest

    stop = Stop()
    stop.listen()
    main_process = os.environ.get("RANK", "0") == "0"
    with EventWriter(enabled=main_process) as events:
        try:
            config = load_config(args.config, args.settings)
            request = RunRequest(args.model, args.data, args.out, config, eval_data=args.eval_data, fresh=args.fresh)
            # Buffers are constants (rotary frequencies): exchanging them would only make a forward wait for the others.
            ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
            facts = train(request, events, stop, Accelerator(cpu=config.device == "cpu", kwargs_handlers=[ddp]))
        except Exception as problem:
            code, reason, message = explain(problem)
            events.emit(Event.ERROR, reason=reason, message=message, exit_code=code)
            return code
        events.emit(Event.DONE, **facts)
    return DONE
