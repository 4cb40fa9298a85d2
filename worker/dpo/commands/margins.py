"""`margins`: each pair's implicit margin from a model that wasn't trained on it, to find labels that contradict the others.

    python -m worker.dpo margins --model M --data pairs.jsonl --folds 5 --config settings.json --out OUT
        [--plant 0.2 --plantings 3]

What callers rely on:

- The data's prompts are cut into folds: lines with the same `group` share one, and without that column lines with the same
  prompt. For each fold a run with the settings of `train` (`--config`, `--set`) is trained on all others, and asked about it. Of one
  model and data the reference log-probabilities are computed once, in the cache that `train` and `score` use.
- OUT/margins.jsonl has a pair a line, in the data's order: `line` of the data and `pair` (its number in the line, from 0), `fold`,
  and

      margin            β·((log π − log π_ref)(chosen) − (log π − log π_ref)(rejected)); far below 0 contradicts the other pairs
      logps_chosen, logps_rejected, ref_logps_chosen, ref_logps_rejected      in nats, of the whole answers
      tokens_chosen, tokens_rejected
      on_policy_gap     mean log π_ref of a token of the chosen answer, less that of the rejected
      ches, ches_normalised     centered hidden embedding similarity (arXiv:2410.08847) by the reference: the higher, the more
                                training on the pair pushes the chosen answer down too

  A pair that can't be scored has `left_out`, a reason of docs/preference-data.md, instead of the figures.
- With `--plant SHARE … --plantings N` all of it is done N times more for each share, on the same data with that share of the labels turned
  around, a draw of its own each time: OUT/planted-1.jsonl … have `flipped` with each pair, and no `ches`. Shares take turns: with 0.1
  0.2, planted-1 and planted-3 are of 0.1. A list made of them as of margins.jsonl shows the precision that the list has on these data.
- The same command again goes on: folds that are there (OUT/folds) are kept, a run that was stopped goes on from its training state.
  Plantings may be added later. Another model, other data, folds or settings end it with code 2; `--fresh` drops all.
- Standard output has the engine's events: `state` (`stage` loading; reference, training, scoring with `fold`, `planting`, 0 for the
  labels as they are), `step` (of `total_steps`, 100 for each fold of each round), `log` warnings, and `done` (`path`,
  `files`, `pairs`, `groups`, `folds`, `plantings`, `planted` with the share of each, `left_out`, `seconds`)
  or `error`. Exit codes are those of `train`.

What it costs: (1 + shares · N) · folds runs, each on (folds − 1)/folds of the pairs, and two forwards a pair for each round.
"""

import argparse
from pathlib import Path

from worker.dpo.commands.endings import explain
from worker.dpo.commands.train import add_settings
from worker.dpo.ground.errors import DONE, BadSetting

EXAMPLES = """examples:
  python -m worker.dpo margins --model models/base --data train.jsonl --out margins
  python -m worker.dpo margins --model models/base --data train.jsonl --out margins --plant 0.2 --plantings 3

A command that was stopped goes on where it was when it is started again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.description = "Score each pair by a model that was trained on the others only."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder or hub id of the base model (safetensors)")
    parser.add_argument("--data", required=True, type=Path, help="preference file, as for train")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for the margins, and for what a stopped command goes on with"
    )
    parser.add_argument(
        "--folds", type=int, default=5, help="parts of the data, each scored by a run on the others (default 5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the folds and the planted flips (default 0)")
    parser.add_argument(
        "--plant",
        type=float,
        nargs="+",
        default=[],
        metavar="SHARE",
        help="shares of labels to turn around, such as 0.2",
    )
    parser.add_argument("--plantings", type=int, default=0, metavar="N", help="how often each is (default 0)")
    parser.add_argument("--fresh", action="store_true", help="drop what OUT holds of an earlier call")
    add_settings(parser, examples=EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Score, printing events. Returns the exit code."""
    from worker.dpo.ground.config_file import load_config
    from worker.dpo.ground.events import Event, EventWriter
    from worker.dpo.ground.stopping import Stop
    from worker.dpo.margins.procedure import Wanted, margins

    stop = Stop()
    stop.listen()
    with EventWriter() as events:
        try:
            _check(args)
            config = load_config(args.config, args.settings)
            wanted = Wanted(
                args.model,
                args.data,
                args.out,
                config,
                args.folds,
                args.seed,
                tuple(args.plant),
                args.plantings,
                args.fresh,
            )
            facts = margins(wanted, events, stop)
        except Exception as problem:
            code, reason, message = explain(problem)
            events.emit(Event.ERROR, reason=reason, message=message, exit_code=code)
            return code
        events.emit(Event.DONE, **facts)
    return DONE


def _check(args: argparse.Namespace) -> None:
    if not 2 <= args.folds <= 100:
        raise BadSetting(f"--folds is {args.folds}: choose 2 to 100; 5 is usual.")
    if not 0 <= args.plantings <= 100:
        raise BadSetting(f"--plantings is {args.plantings}: choose 0 to 100.")
    differ = len(set(args.plant)) == len(args.plant)
    if bool(args.plantings) != bool(args.plant) or not differ or not all(0 < share < 0.5 for share in args.plant):
        raise BadSetting(
            "--plant takes shares above 0 and below 0.5, each once, and --plantings how often: give both, or neither."
        )
