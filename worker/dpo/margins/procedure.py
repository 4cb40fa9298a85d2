"""Each pair's implicit margin from a model that wasn't trained on it: a run for each fold of the data, kept as it ends."""

import gc
import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from worker.dpo.data import chat, fitting, moment, reading
from worker.dpo.data.pairs import Problem
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.disk import file_sha256, write_error
from worker.dpo.ground.errors import BadSetting
from worker.dpo.ground.events import Event, EventWriter
from worker.dpo.ground.stopping import Stop
from worker.dpo.margins import rows
from worker.dpo.margins.folds import flips, folds_of
from worker.dpo.margins.rows import Grouped
from worker.dpo.margins.scores import score
from worker.dpo.model import loading
from worker.dpo.publish.merge import read_facts, read_tokenizer
from worker.dpo.run.loop import train
from worker.dpo.run.resume import WITHOUT_EFFECT
from worker.dpo.run.setup import RunRequest

RESULT, SETTINGS = "margins.jsonl", "margins.json"
# A part's steps on the wire, and the share of them that is training.
STEPS, TRAINING = 100, 0.85


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. plant: shares of labels; each is turned around in `plantings` more rounds, which make all folds anew."""

    model: str
    data: Path
    out: Path
    config: TrainConfig
    folds: int = 5
    seed: int = 0
    plant: tuple[float, ...] = ()
    plantings: int = 0
    fresh: bool = False

    @property
    def planted(self) -> list[float]:
        """The share that each round turns around, after the one with the labels as they are: first each share once, then again."""
        return list(self.plant) * self.plantings


class OtherMargins(BadSetting):
    """A folder that holds folds of other data, or of other settings."""


def margins(wanted: Wanted, events: EventWriter, stop: Stop) -> dict[str, Any]:
    """Write OUT/margins.jsonl and OUT/planted-N.jsonl; returns what `done` tells.

    A fold that is whole is never made again; one that was stopped goes on from its training state. Raises RunError's kinds.
    """
    out = wanted.out
    if wanted.fresh:
        for name in (SETTINGS, RESULT):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "folds", ignore_errors=True)
        shutil.rmtree(out / "work", ignore_errors=True)
    problems: list[Problem] = []
    events.emit(Event.STATE, stage="loading")
    pairs = rows.read_grouped(wanted.data, problems)
    folds = folds_of([pair.group for pair in pairs], folds=wanted.folds, seed=wanted.seed)
    _tell(problems, events)
    settled = _settle(wanted, pairs)
    progress = _Progress(events, parts=wanted.folds * (1 + len(wanted.planted)))
    try:
        for planting, share in enumerate([0.0, *wanted.planted]):
            turned = flips(len(pairs), share=share, seed=wanted.seed, planting=planting)
            whole: list[dict[str, Any]] = []
            for fold in range(wanted.folds):
                stop.check()
                kept = out / "folds" / f"{planting}-{fold}.jsonl"
                if not kept.exists():
                    _make(settled, kept, pairs, folds, turned, fold, planting, progress, stop)
                whole += rows.read_rows(kept)
                progress.part_done()
            name = f"planted-{planting}.jsonl" if planting else RESULT
            rows.write_rows(out / name, sorted(whole, key=lambda row: (row["line"], row["pair"])))
    except OSError as problem:
        raise write_error(problem, out=out, step=progress.part) from problem
    shutil.rmtree(out / "work", ignore_errors=True)
    left_out = sum("margin" not in row for row in rows.read_rows(out / RESULT))
    return {
        "path": str(out),
        "files": [RESULT, *(f"planted-{number}.jsonl" for number in range(1, 1 + len(wanted.planted)))],
        "pairs": len(pairs),
        "groups": len({pair.group for pair in pairs}),
        "folds": wanted.folds,
        "plantings": len(wanted.planted),
        "planted": wanted.planted,
        "left_out": left_out + sum(problem.dropped for problem in problems),
        "seconds": round(progress.seconds, 1),
    }


def _settle(wanted: Wanted, pairs: Sequence[Grouped]) -> Wanted:
    """The same with a maximum length that all folds share, once OUT is known to be of these settings. Raises OtherMargins."""
    config = wanted.config
    names = ("report_to", "sample_prompts", "early_stopping_patience", "publish")
    quiet = dict(zip(names, (["none"], 0, 0, "last"), strict=True))
    config = config.model_copy(update=quiet)
    deciding = {name: value for name, value in config.as_dict().items() if name not in WITHOUT_EFFECT}
    if config.adapter is not None:
        deciding["adapter"] = loading.adapter_name(config.adapter)
    settings = {
        "model": _name_of(wanted.model),
        "data_sha256": file_sha256(wanted.data),
        "folds": wanted.folds,
        "seed": wanted.seed,
        "plant": list(wanted.plant) or None,
        "config": deciding,
    }
    path = wanted.out / SETTINGS
    kept = _kept_settings(path)
    if kept is None:
        rows.write_rows(path, [settings])
    else:
        known = kept.get("config")
        if isinstance(known, dict) and known.get("adapter") == config.adapter:  # earlier versions knew it by its path
            kept |= {"config": known | {"adapter": deciding.get("adapter")}}
        # Plantings may be asked for afterwards.
        kept = kept | {"plant": settings["plant"] if kept["plant"] is None else kept["plant"]}
        settings |= {"plant": kept["plant"] if settings["plant"] is None else settings["plant"]}
        if kept != settings:
            differ = ", ".join(sorted(name for name in settings if kept.get(name) != settings[name]))
            raise OtherMargins(
                f"{wanted.out} holds folds that were made with another {differ}. Name another folder, or say --fresh."
            )
        rows.write_rows(path, [settings])
    if config.max_length is None:
        config = config.model_copy(update={"max_length": _max_length(wanted, pairs)})
    return replace(wanted, config=config)


def _kept_settings(path: Path) -> dict[str, Any] | None:
    """What OUT's folds were made with; None where there are none. Raises OtherMargins for a damaged file."""
    if not path.exists():
        return None
    try:
        (kept,) = rows.read_rows(path)
        planted = kept.get("plant")  # one share, in folders of before there could be several
        return kept | {"plant": [planted] if isinstance(planted, float) else planted}
    except (ValueError, TypeError) as problem:
        raise OtherMargins(f"{path} is damaged: {problem}. Name another folder, or say --fresh.") from problem


def _name_of(model: str) -> str:
    """A model's own: the SHA-256 of its folder's weights by their names, or the id at a hub."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _max_length(wanted: Wanted, pairs: Sequence[Grouped]) -> int:
    """What a run on all pairs would take by itself."""
    tokenizer = loading.load_tokenizer(wanted.model)
    chat.ensure_template(tokenizer)
    file = wanted.out / "work" / "all.jsonl"
    rows.write_pairs(file, [one.pair for one in pairs])
    dataset = reading.load_dataset(file, tokenizer, max_length=None)
    limit = getattr(loading.read_config(wanted.model), "max_position_embeddings", None)
    return fitting.suggest_max_length(dataset.pairs, model_limit=limit)


def _make(
    wanted: Wanted,
    kept: Path,
    pairs: Sequence[Grouped],
    folds: Sequence[int],
    turned: frozenset[int],
    fold: int,
    planting: int,
    progress: "_Progress",
    stop: Stop,
) -> None:
    """Train on all other folds, score this one, and keep the figures."""
    work = wanted.out / "work" / f"{planting}-{fold}"
    asked = [place for place, own in enumerate(folds) if own == fold]
    judged = [rows.turned(one.pair) if place in turned else one.pair for place, one in enumerate(pairs)]
    train_file, held_out = work / "train.jsonl", work / "held-out.jsonl"
    if not train_file.exists():
        rows.write_pairs(held_out, [judged[place] for place in asked])
        rows.write_pairs(train_file, [pair for pair, own in zip(judged, folds, strict=True) if own != fold])
    events = _Within(progress, fold=fold, planting=planting)
    trained = work / "out"
    if not (trained / "prefloop.json").exists():
        request = RunRequest(wanted.model, train_file, trained, wanted.config)
        train(request, events, stop, Accelerator(cpu=wanted.config.device == "cpu"))
        gc.collect()
    progress.tell(TRAINING, stage="scoring", fold=fold, planting=planting)
    facts = read_facts(trained)
    config = wanted.config.model_copy(update={"dtype": facts["config"]["dtype"]})
    tokenizer = read_tokenizer(wanted.model, trained)
    chat.ensure_template(tokenizer)
    if facts.get("template_time"):
        moment.fix(tokenizer, datetime.fromisoformat(facts["template_time"]))
    dataset = reading.load_dataset(held_out, tokenizer, max_length=config.max_length)
    dataset = fitting.within_vocabulary(dataset, loading.read_config(wanted.model).vocab_size)
    figures = score(wanted.model, trained, dataset.pairs, config, ches=not planting, stop=stop, log=progress.warn)
    by_line = {pair.line: own for pair, own in zip(dataset.pairs, figures, strict=True)}
    dropped = {problem.line: problem.reason for problem in dataset.problems if problem.dropped}
    results = []
    for line, place in enumerate(asked, start=1):
        one = pairs[place]
        row = {"line": one.pair.line, "pair": one.number, "fold": fold}
        if planting:
            row["flipped"] = place in turned
        results.append(row | by_line.get(line, {"left_out": dropped.get(line, "unusable")}))
    rows.write_rows(kept, results)
    shutil.rmtree(work, ignore_errors=True)
    gc.collect()


def _tell(problems: Sequence[Problem], events: EventWriter) -> None:
    for problem in problems[:20]:
        what = "left out" if problem.dropped else "changed"
        message = f"Line {problem.line} {what}: {problem.message}"
        events.emit(Event.LOG, level="warning", message=message, line=problem.line, reason=problem.reason)


class _Progress:
    """How far all parts together are, in steps of which each part has STEPS."""

    def __init__(self, events: EventWriter, *, parts: int) -> None:
        self.events, self.parts, self.part = events, parts, 0
        self._began = time.monotonic()
        self._told: tuple[Any, ...] = ()
        self._step = -1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def part_done(self) -> None:
        self.part += 1
        self._steps(0.0)

    def tell(self, share: float, *, stage: str, fold: int, planting: int) -> None:
        """A part is so far, and does this."""
        if (stage, fold, planting) != self._told:
            self._told = (stage, fold, planting)
            total = self.parts * STEPS
            self.events.emit(Event.STATE, stage=stage, fold=fold, planting=planting, total_steps=total)
        self._steps(share)

    def _steps(self, share: float) -> None:
        step = int((self.part + share) * STEPS)
        if step > self._step:
            self._step = step
            self.events.emit(Event.STEP, step, total_steps=self.parts * STEPS)

    def warn(self, message: str) -> None:
        self.events.emit(Event.LOG, level="warning", message=message)


class _Within(EventWriter):
    """A run's events as those of a part of the whole: its steps as a share, its warnings as they are, nothing else."""

    def __init__(self, progress: _Progress, *, fold: int, planting: int) -> None:
        super().__init__(enabled=False)
        self._progress, self._fold, self._planting = progress, fold, planting

    def emit(self, event: Event, step: int | None = None, **fields: Any) -> None:
        total = fields.get("total_steps") or 0
        if event is Event.STEP and total:
            share = TRAINING * (step or 0) / total
            self._progress.tell(share, stage="training", fold=self._fold, planting=self._planting)
        elif event is Event.STATE and fields.get("stage") in ("reference", "training"):
            self._progress.tell(0.0, stage=fields["stage"], fold=self._fold, planting=self._planting)
        elif event is Event.LOG and fields.get("level") == "warning":
            self._progress.warn(str(fields.get("message")))
