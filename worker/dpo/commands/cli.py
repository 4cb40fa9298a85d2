"""The command line: arguments in, events or JSON lines out, and an exit code that says how it ended."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from worker.dpo.ground.errors import BAD_DATA, BAD_SETTING, DONE, EXIT_CODES, OUT_OF_MEMORY, UNEXPECTED, RunError

EXAMPLES = """examples:
  python -m worker.dpo train --model models/base --data train.jsonl --eval-data eval.jsonl --out out
  python -m worker.dpo train --model models/base --data train.jsonl --out out --set beta=0.2 --set lora_r=0
  accelerate launch --num_processes 2 -m worker.dpo train --model models/base --data train.jsonl --out out

A stopped or killed run goes on from its last training state when the same command is started again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    # Offline use must not wait for a hub's answer about telemetry.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.command == "train":
        return _train(args)
    return _run(args)


def _parser() -> argparse.ArgumentParser:
    from worker.dpo.commands import estimate, generate, merge, score

    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="python -m worker.dpo",
        description="Direct preference optimisation on one machine.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser(
        "train", help="train with DPO or a relative of it", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_train_arguments(training, examples=EXAMPLES)
    training.add_argument("--out", required=True, type=Path, help="folder for the result and the training state")
    training.add_argument("--fresh", action="store_true", help="drop the training state in OUT and start again")
    for name, module, help_text in (
        ("score", score, "log-probabilities and rewards per pair"),
        ("generate", generate, "answers to prompts"),
        ("merge", merge, "an adapter merged into its base model"),
        ("estimate", estimate, "memory that a run would need"),
    ):
        command = commands.add_parser(name, help=help_text)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def add_train_arguments(parser: argparse.ArgumentParser, *, examples: str) -> None:
    """What names a training run: model, data and settings."""
    from worker.dpo.ground.config import settings_table

    settings = "\n".join(
        f"  {name:<28} {meaning}{f' (default {default})' if default else ''}"
        for name, default, meaning in settings_table()
    )
    parser.epilog = f"{examples}\nsettings, for --set and --config:\n{settings}"
    parser.add_argument("--model", required=True, help="folder or hub id of the base model (safetensors)")
    parser.add_argument("--data", required=True, type=Path, help="preference file (JSON Lines, gzip too)")
    parser.add_argument("--eval-data", type=Path, help="preference file to evaluate on")
    parser.add_argument("--config", type=Path, help="settings as JSON or YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="one setting; may be repeated"
    )


def _train(args: argparse.Namespace) -> int:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    from worker.dpo.ground.config import load_config
    from worker.dpo.ground.events import EventWriter
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
            events.emit("error", reason=reason, message=message, exit_code=code)
            return code
        events.emit("done", **facts)
    return DONE


def _run(args: argparse.Namespace) -> int:
    try:
        return args.run(args)
    except BrokenPipeError:
        # The reader of a pipe such as `| head` has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as problem:
        code, _, message = explain(problem)
        print(message, file=sys.stderr)
        return code


def explain(problem: BaseException) -> tuple[int, str, str]:
    """(exit code, stable reason, what happened and what to do) of an error; an unforeseen one is traced to stderr."""
    from worker.dpo.commands.merge import MergeError
    from worker.dpo.data.reading import DataFileError
    from worker.dpo.ground.config import ConfigError
    from worker.dpo.loss.pair_losses import LossOptionError
    from worker.dpo.model.loading import ModelError
    from worker.dpo.run.memory import is_out_of_memory
    from worker.dpo.run.state import StateError
    from worker.dpo.run.trackers import TrackerError

    if isinstance(problem, RunError):
        return problem.exit_code, problem.reason, str(problem)
    if isinstance(problem, ConfigError | LossOptionError | ModelError | StateError | TrackerError | MergeError):
        return BAD_SETTING, "bad_setting", str(problem)
    if isinstance(problem, DataFileError):
        return BAD_DATA, "bad_data", str(problem)
    if is_out_of_memory(problem):
        return (
            OUT_OF_MEMORY,
            "out_of_memory",
            f"Memory ran out: {problem} Choose a smaller model, max_length or batch_size.",
        )
    traceback.print_exception(problem)
    return UNEXPECTED, "unexpected", f"{type(problem).__name__}: {problem}"
