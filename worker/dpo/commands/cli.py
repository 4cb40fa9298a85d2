"""The command line: arguments in, events or JSON lines out, and an exit code that says how it ended."""

import argparse
import os
import sys
from collections.abc import Sequence

from worker.dpo.commands.endings import explain
from worker.dpo.ground.errors import DONE, EXIT_CODES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    # Offline use must not wait for a hub's answer about telemetry.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _run(args)


def _parser() -> argparse.ArgumentParser:
    from worker.dpo.commands import estimate, export, generate, margins, merge, rates, score, train

    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="python -m worker.dpo",
        description="Direct preference optimisation on one machine.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module, help_text in (
        ("train", train, "train with DPO or a relative of it"),
        ("score", score, "log-probabilities and rewards per pair"),
        ("generate", generate, "answers to prompts"),
        ("margins", margins, "each pair's margin from a model that wasn't trained on it"),
        ("merge", merge, "an adapter merged into its base model"),
        ("export", export, "a checkpoint as merged safetensors or GGUF, proven"),
        ("estimate", estimate, "memory that a run would need"),
        ("rates", rates, "how fast this machine multiplies, by number type"),
    ):
        command = commands.add_parser(name, help=help_text)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


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
