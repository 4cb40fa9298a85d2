"""`generate`: answers to the prompts of a file.

    python -m worker.dpo generate --model M [--adapter DIR] --data prompts.jsonl --out answers.jsonl
        --samples K --temperature T --top-p P --top-k N --seed S --max-new-tokens N

What callers rely on:

- M is the folder of a base model or of a merged one (or a hub id); DIR that of a LoRA adapter for it. A folder that is
  damaged, of another kind or of another model ends the command with code 2 and says what to do.
- `--data`: a file with prompts, in the forms of docs/preference-data.md; the simplest is JSON Lines of
  `{"prompt": [{"role": "user", "content": "…"}]}`, `{"prompt": "plain text"}`, and `tools` beside it.
- Each prompt gets K answers. An answer is named by its prompt's line in the file, counted from 1, and its sample, from 0
  to K - 1. Its own seed is a hash of `--seed`, the prompt's tokens and the sample: the same three draw the same tokens, up to
  rounding, whatever else is asked. So two lines with the same prompt get the same answers.
- `--out FILE` is appended to, an answer a line as soon as it ends, in no order:

      {"line": 3, "sample": 0, "seed": 70368744177664, "completion": "…", "tokens": 57, "finish": "stop"}

  `tokens` counts those of the completion without its end token; `finish` is `stop` (by itself) or `length` (at
  `--max-new-tokens`). `FILE.settings.json` beside it names the model by its weights' SHA-256, and the sampling.
- The same command again goes on: whole answers are kept and not asked for again, a torn last line is dropped. More samples
  or more prompts may be asked of the same file. Another model, adapter or sampling than those of FILE.settings.json,
  another seed, or another prompt in an answered line end it with code 2; `--fresh` drops what the file holds.
- With `--out`, standard output has the engine's events, one JSON object a line: `state` (`stage` loading, then generating
  with `total_steps`, the number of answers), `step` (answers that are there; `total_steps`, `eta_seconds`, `tokens`,
  `tokens_per_second`), `log` (`message`, `level`; of a line that can't be answered or was cut also `line` and `reason`),
  and at last `done` (`path`, `answers`, `made`, `prompts`, `left_out`, `tokens`, `at_the_limit`, `seconds`) or `error`
  (`reason`, `message`, `exit_code`). Without `--out`, standard output has the answers, in the file's order, each with its
  `prompt`, and standard error what is wrong with lines.
- Exit codes as in docs/engine.md: 0 all answers are there; 2 settings, model or adapter; 3 no usable prompt; 4 memory; 5
  the model's numbers aren't finite; 6 the disk is full; 143 after SIGTERM, with every answer that had ended in FILE.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from worker.dpo.commands.endings import explain
from worker.dpo.data.pairs import Problem
from worker.dpo.ground.errors import DONE, BadSetting

EXAMPLES = """examples:
  python -m worker.dpo generate --model models/base --data eval.jsonl
  python -m worker.dpo generate --model models/base --adapter out --data eval.jsonl --out answers.jsonl \\
      --samples 4 --temperature 0.8 --top-p 0.95 --seed 7

With --out a command that was stopped goes on where it was when it is started again.
"""
MOST_SAMPLES, MOST_TOKENS = 1024, 1_000_000
LINES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Answer the prompts of a file, one JSON object an answer."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the model (safetensors)")
    parser.add_argument("--adapter", help="folder of a LoRA adapter")
    parser.add_argument(
        "--data", required=True, type=Path, help="file with prompts: preference pairs, or lines with a prompt alone"
    )
    parser.add_argument("--out", type=Path, help="file for the answers, which a later call goes on with")
    parser.add_argument("--fresh", action="store_true", help="drop the answers that OUT holds")
    parser.add_argument("--limit", type=int, help="answer the first N prompts only")
    parser.add_argument("--samples", type=int, default=1, help="answers to each prompt (default 1)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default), above samples")
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="of the likeliest tokens that together have this probability (default 1)",
    )
    parser.add_argument("--top-k", type=int, default=0, help="of so many of the likeliest tokens; 0 is all (default)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=LINES,
        help=f"answers written at a time (default {LINES}, fewer on little memory)",
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")


def run(args: argparse.Namespace) -> int:
    """Answer. Returns the exit code; without --out raises what loading and answering raise."""
    return _into_file(args) if args.out is not None else _printed(args)


def _into_file(args: argparse.Namespace) -> int:
    from worker.dpo.decoding.answering import fill, read
    from worker.dpo.decoding.written import AnswerFile
    from worker.dpo.ground.events import Event, EventWriter
    from worker.dpo.ground.stopping import Stop
    from worker.dpo.model.loading import weights_hash

    stop = Stop()
    stop.listen()
    with EventWriter() as events:

        def report(problem: Problem) -> None:
            what = "left out" if problem.dropped else "changed"
            message = f"Line {problem.line} {what}: {problem.message}"
            events.emit(Event.LOG, level="warning", message=message, line=problem.line, reason=problem.reason)

        try:
            asking = _asking(args)
            events.emit(Event.STATE, stage="loading")
            model, tokenizer = _load(args)
            stop.check()
            settings = {
                "model": weights_hash(model),
                "dtype": args.dtype,
                "temperature": args.temperature,
                "top_p": args.top_p,
                "top_k": args.top_k,
                "max_new_tokens": args.max_new_tokens,
            }
            with AnswerFile(args.out, settings, fresh=args.fresh) as file:
                if file.dropped:
                    message = f"{file.dropped} lines of {args.out} weren't whole; their answers are asked for again."
                    events.emit(Event.LOG, level="warning", message=message, dropped=file.dropped)
                asked = read(asking, tokenizer, model, report)
                facts = fill(model, tokenizer, asked, asking, file, events, stop)
        except Exception as problem:
            code, reason, message = explain(problem)
            events.emit(Event.ERROR, reason=reason, message=message, exit_code=code)
            return code
        events.emit(Event.DONE, **facts)
    return DONE


def _printed(args: argparse.Namespace) -> int:
    from worker.dpo.decoding.answering import answers, read, record

    def report(problem: Problem) -> None:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)

    asking = _asking(args)
    model, tokenizer = _load(args)
    asked = read(asking, tokenizer, model, report)
    turn, early = 0, {}
    for line, answer in answers(model, tokenizer, asked, asking, log=lambda text: print(text, file=sys.stderr)):
        prompt = asked.prompts[line.prompt]
        early[line.prompt * asking.samples + line.sample] = record(prompt, line, answer) | {"prompt": prompt.messages}
        while turn in early:
            print(json.dumps(early.pop(turn), ensure_ascii=False), flush=True)
            turn += 1
    return DONE


def _asking(args: argparse.Namespace) -> Any:
    from worker.dpo.decoding.answering import Asking
    from worker.dpo.decoding.sampling import Sampling

    for name, value, most in (
        ("samples", args.samples, MOST_SAMPLES),
        ("max-new-tokens", args.max_new_tokens, MOST_TOKENS),
    ):
        if not 1 <= value <= most:
            raise BadSetting(f"--{name} is {value}: choose a number from 1 to {most:,}.")
    sampling = Sampling(args.temperature, args.top_p, args.top_k)
    return Asking(
        args.data, sampling, args.samples, args.seed, args.max_new_tokens, max(1, args.batch_size), limit=args.limit
    )


def _load(args: argparse.Namespace) -> tuple[Any, Any]:
    """Model and tokenizer. A template that writes the date writes that of OUT's first answers. Raises ModelError."""
    from worker.dpo.data import chat, moment
    from worker.dpo.model import loading
    from worker.dpo.publish.merge import read_tokenizer

    device = loading.choose_device(args.device)
    tokenizer = read_tokenizer(args.model, Path(args.adapter)) if args.adapter else loading.load_tokenizer(args.model)
    chat.ensure_template(tokenizer)
    if args.out is not None and moment.writes_time(tokenizer):
        moment.fix(tokenizer, moment.noted(args.out.with_name(args.out.name + ".begun"), anew=args.fresh))
    model: Any = loading.load_base(args.model, dtype=args.dtype, device=device)
    return (loading.load_adapter(model, args.adapter) if args.adapter else model), tokenizer
