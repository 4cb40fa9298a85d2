"""`export`: a checkpoint as merged safetensors or GGUF, proven to be the trained model before it's published."""

import argparse
from pathlib import Path

from worker.dpo.commands.endings import explain
from worker.dpo.ground.errors import DONE

EXAMPLES = """examples:
  python -m worker.dpo export --model models/base --adapter out --as merged --out merged
  python -m worker.dpo export --model models/base --adapter out --as gguf-q8_0 --out gguf
"""
FORMATS = ("merged", "gguf-f16", "gguf-q8_0")
# Into so many steps the work is cut for those who watch it.
STEPS = 100
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = (
        "Write a checkpoint in a form that others serve, read it back, and compare it with the trained model on fixed "
        "prompts. OUT appears when the comparison has passed; its figures are in OUT/export.json."
    )
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model, not quantised")
    parser.add_argument(
        "--adapter",
        required=True,
        type=Path,
        metavar="CHECKPOINT",
        help="folder of the LoRA adapter, or of a full model",
    )
    parser.add_argument("--as", required=True, choices=FORMATS, dest="form", help="what to write")
    parser.add_argument("--out", required=True, type=Path, help="new folder for the export")
    parser.add_argument("--dtype", choices=DTYPES, help="type of merged weights (default: the base's)")


def run(args: argparse.Namespace) -> int:
    """Export, printing events as a training run does. Returns the exit code."""
    from worker.dpo.ground.events import Event, EventWriter
    from worker.dpo.ground.stopping import Stop
    from worker.dpo.publish.export import Progress, Request, export

    stop = Stop()
    stop.listen()
    with EventWriter() as events:
        said = ("", -1)

        def state(stage: str, share: float) -> None:
            nonlocal said
            step, last = int(share * STEPS), said
            said = (stage, step)
            if stage != last[0]:
                events.emit(Event.STATE, stage=stage, total_steps=STEPS)
            # A large model has thousands of tensors; a reader wants no more steps than these.
            if step != last[1]:
                events.emit(Event.STEP, step, total_steps=STEPS)

        progress = Progress(state, stop.check, lambda message: events.emit(Event.LOG, message=message))
        try:
            facts = export(Request(args.model, args.adapter, args.form, args.out, dtype=args.dtype), progress)
        except Exception as problem:
            code, reason, message = explain(problem)
            events.emit(Event.ERROR, reason=reason, message=message, exit_code=code)
            return code
        events.emit(Event.DONE, path=str(args.out), files=sorted(path.name for path in args.out.iterdir()), **facts)
    return DONE
