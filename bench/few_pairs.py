"""What a run on few pairs changes, by learning rate and epochs: the demo's pairs, and what each setting costs.

    python -m bench.few_pairs --model MODEL_FOLDER [--rates 2e-5 5e-5 1e-4 2e-4] [--epochs 3 6] [--seeds 1 2] [--out build/few_pairs]

Trains on what the demo project's judgments amount to, frozen by the product itself (25 train and 6 eval pairs), with the other settings of
the preset for few pairs. Prints, as means over the seeds: on how many eval prompts the greedy answer changed, accuracy on eval
pairs, KL divergence from the base on their answers (nats an answer), and the share of repeated 4-grams before and after, since a rate that
is too high shows there first. Nothing of it depends on how fast the machine is.

Each run is kept in OUT.runs.jsonl: a command that was stopped goes on where it was.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from sqlalchemy import select

from app.config import Settings
from app.db import get_engine, write_session
from app.demo import seed
from app.models import Project
from app.ops import migrate
from app.services.accounts import users
from app.services.datasets import snapshots
from app.services.training import presets
from app.storage import get_storage
from bench.machine import machine_facts, publish


def demo_pairs(folder: Path) -> dict[str, Path]:
    """The files of a snapshot of the demo project, by name."""
    settings = Settings(data_dir=folder / "data", _env_file=None)
    engine = get_engine(settings)
    migrate.upgrade(engine)
    content = seed.content()
    with write_session(engine) as session:
        users.create(session, username="bench", display_name="Bench", role="admin")
        seed.seed(session, content=content)
    with write_session(engine) as session:
        project = session.scalars(select(Project)).one()
    storage = get_storage(settings)
    frozen = snapshots.freeze(engine, project=project, by_id=None, storage=storage)
    paths = {}
    for file in frozen.files:
        paths[file.name] = folder / file.name
        paths[file.name].write_bytes(storage.read_bytes(file.key))
    return paths


def train(model: str, files: dict[str, Path], out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run, as its engine printed them."""
    command = [sys.executable, "-m", "worker.dpo", "train", "--model", model, "--data", str(files["train.jsonl"])]
    command += ["--eval-data", str(files["eval.jsonl"]), "--out", str(out)]
    for key, value in config.items():
        command += ["--set", f"{key}={value}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    after = [event for event in events if event["event"] == "eval"][-1]
    return {
        "accuracy": after["eval_rewards/accuracies"],
        "kl": after["eval_kl"],
        "answers": json.loads((out / "metrics.json").read_text())["answers"],
        "steps": max(event["step"] for event in events if event["event"] == "step"),
    }


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| learning rate | epochs | steps | greedy answers changed | eval accuracy | KL, nats an answer | repeated 4-grams, before → after |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate, epochs in dict.fromkeys((run["learning_rate"], run["epochs"]) for run in runs):
        own = [run for run in runs if (run["learning_rate"], run["epochs"]) == (rate, epochs)]
        answers = [run["answers"] for run in own]
        repeats = [100 * fmean(one[side]["repetition"] for one in answers) for side in ("before", "after")]
        changed, prompts = fmean(one["changed"] for one in answers), answers[0]["prompts"]
        accuracy, kl = fmean(run["accuracy"] for run in own), fmean(run["kl"] for run in own)
        lines.append(
            f"| {rate:g} | {epochs} | {own[0]['steps']} | {changed:.1f} of {prompts} | {100 * accuracy:.0f} % | {kl:.2f}"
            f" | {repeats[0]:.1f} → {repeats[1]:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-5, 5e-5, 1e-4, 2e-4])
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("build/few_pairs"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = args.out.with_suffix(".runs.jsonl")
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = demo_pairs(folder)
        for seed_number in args.seeds:
            for rate in args.rates:
                for epochs in args.epochs:
                    which = {"learning_rate": rate, "epochs": epochs, "seed": seed_number}
                    if any(which.items() <= run.items() for run in runs):
                        continue
                    config = presets.named("few").settings | {
                        "learning_rate": rate,
                        "num_train_epochs": epochs,
                        "seed": seed_number,
                        "report_to": "[]",
                    }
                    out = folder / f"run-{len(runs)}"
                    runs.append(which | train(args.model, files, out, config))
                    with kept.open("a") as file:
                        file.write(json.dumps(runs[-1]) + "\n")
                    print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    runs.sort(key=lambda run: (run["learning_rate"], run["epochs"], run["seed"]))
    text = table(runs)
    publish(args.out, {"machine": machine_facts(), "runs": runs}, text)


if __name__ == "__main__":
    main()
