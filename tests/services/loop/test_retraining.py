"""A run again without what was excluded: its snapshot, its settings, its receipt, and the weights that a run without it has."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.errors import Conflict
from app.models import Project, Snapshot, TrainingRun, User
from app.services.datasets import snapshots
from app.services.loop import retraining
from app.services.loop.removal import imports
from app.services.training import runs
from app.storage import Storage
from tests.conftest import ROOT
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.services.collecting.test_exclusions import exclude
from tests.services.training.trained import trained, trained_from


def judged(factory: Factory, words: list[str], slug: str) -> tuple[Project, User]:
    maker = factory.engineer()
    project = factory.project(by=maker, slug=slug, eval_percent=0)
    for word in words:
        factory.comparison(
            project, prompt=f"What about {word}?", answers=(f"{word} is fine.", f"I know nothing of {word}, I fear.")
        )
        shown = factory.shown(project, maker)
        assert shown is not None
        factory.record(shown.token, maker, "left" if shown.left.endswith("is fine.") else "right")
    return project, maker


def lines(storage: Storage, snapshot: Snapshot, name: str = "train.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(snapshots.file(snapshot, name).key).splitlines()]


def leave_out(engine: Engine, project: Project, kind: str, subject: int, by: User) -> None:
    row = exclude(engine, project, kind, subject, by)
    imports.settle(engine, exclusion_id=row.id)


def again(engine: Engine, storage: Storage, run: TrainingRun, by: User) -> tuple[TrainingRun, Snapshot]:
    made = retraining.retrain(engine, job_id=run.job_id, by_id=by.id, storage=storage)
    with read_session(engine) as session:
        return runs.get(session, made.job_id), snapshots.get(session, made.snapshot_id)


def test_the_new_snapshot_is_the_old_one_without_the_pair(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = judged(factory, ["apples", "pears", "plums", "figs"], "fruit")
    run, _ = trained(engine, settings, project, maker)
    factory.comparison(project)
    assert factory.judge(project, maker), "judged since, and no part of the run again"
    leave_out(engine, project, "pair", 2, maker)
    made, snapshot = again(engine, storage, run, maker)
    with read_session(engine) as session:
        before = snapshots.get(session, run.snapshot_id)
    assert lines(storage, snapshot) == [one for one in lines(storage, before) if one["comparison_id"] != 2]
    assert (snapshot.counts.pairs, snapshot.counts.left_out["excluded"]) == (3, 1)
    assert snapshot.rule == before.rule
    assert snapshot.statistics.warnings[0].code == "made_without"
    assert (made.config["pair_order"], made.base_model) == ("content", run.base_model)
    assert "without 1 pairs" in made.note
    second, _ = again(engine, storage, run, maker)
    assert second.job_id == made.job_id, "a second click finds the first one's run"


def test_a_pair_of_which_a_vote_was_excluded_is_decided_anew(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    maker, other = factory.engineer(), factory.user()
    project = factory.project(by=maker, eval_percent=0, judgments_per_comparison=2)
    factory.comparisons(project, 2)
    for user, choices in ((maker, ("left", "left")), (other, ("left", "left"))):
        for choice in choices:
            shown = factory.shown(project, user)
            assert shown is not None
            side = choice if shown.left.startswith("Answer one") else "right"
            factory.record(shown.token, user, side)
    run, _ = trained(engine, settings, project, maker)
    leave_out(engine, project, "judgment", 1, maker)
    _, snapshot = again(engine, storage, run, maker)
    assert {one["comparison_id"]: one["votes"] for one in lines(storage, snapshot)} == {1: 1, 2: 2}
    assert snapshot.counts.pairs == 2


def test_nothing_excluded_is_no_reason_to_train_again(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = judged(factory, ["apples", "pears"], "fruit")
    run, _ = trained(engine, settings, project, maker)
    with pytest.raises(Conflict, match="Nothing that snapshot 1 holds"):
        again(engine, storage, run, maker)
    with read_session(engine) as session:
        assert retraining.receipt(session, job_id=run.job_id) is None


def test_the_receipt_has_the_hashes_of_both(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = judged(factory, ["apples", "pears", "plums"], "fruit")
    run, checkpoint = trained(engine, settings, project, maker)
    leave_out(engine, project, "pair", 1, maker)
    made, snapshot = again(engine, storage, run, maker)
    with read_session(engine) as session:
        waiting = retraining.receipt(session, job_id=made.job_id)
        assert waiting is not None and waiting.after.weights == {} and waiting.before.weights
    worker = PretendWorker(engine, settings)
    worker.claim()
    worker.publish()
    with read_session(engine) as session:
        told = retraining.receipt(session, job_id=made.job_id)
        assert told is not None
        assert retraining.again(session, job_id=run.job_id) == [made.job_id]
    assert (told.before.checkpoint_id, told.pairs_left_out) == (checkpoint.id, 1)
    assert (told.after.snapshot_sha256, bool(told.after.weights)) == (snapshot.sha256, True)


def test_a_chain_is_made_again_from_its_first_run_that_saw_the_pair(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = judged(factory, ["apples", "pears"], "fruit")
    first, checkpoint = trained(engine, settings, project, maker)
    factory.comparisons(project, 2)
    assert factory.judge(project, maker) and factory.judge(project, maker)
    second, _ = trained_from(engine, settings, project, maker, checkpoint)
    with pytest.raises(Conflict, match="Nothing that snapshot 2 holds"):
        again(engine, storage, second, maker)
    leave_out(engine, project, "pair", 1, maker)
    with pytest.raises(Conflict, match=f"run {first.job_id} saw pairs that are excluded. Retrain run {first.job_id}"):
        again(engine, storage, second, maker)
    again(engine, storage, first, maker)
    with pytest.raises(Conflict, match="Retrain run"):
        again(engine, storage, second, maker)  # it isn't done yet
    worker = PretendWorker(engine, settings)
    worker.claim()
    clean = worker.publish()
    made, snapshot = again(engine, storage, second, maker)
    assert (made.parent_id, snapshot.number) == (clean.id, 2), "its own pairs are as they were"
    assert made.note == f"Run {second.job_id} from checkpoint {clean.id}"
    assert again(engine, storage, second, maker)[0].job_id == made.job_id
    with read_session(engine) as session:
        told = retraining.receipt(session, job_id=made.job_id)
    assert told is not None and (told.before.from_checkpoint, told.after.from_checkpoint) == (checkpoint.id, clean.id)
    leave_out(engine, project, "pair", 3, maker)
    made, snapshot = again(engine, storage, second, maker)
    assert (made.parent_id, [line["comparison_id"] for line in lines(storage, snapshot)]) == (clean.id, [4])
    assert made.note == f"Run {second.job_id} without 1 pairs, from checkpoint {clean.id}"


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
def test_its_weights_are_those_of_a_run_that_never_saw_the_pair(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage, tmp_path: Path
) -> None:
    """Bit for bit, on a CPU, with the threads and the number type of the receipt."""
    from tests.worker.dpo.pairs_for_tests import run_folder

    words = ["apples", "pears", "plums", "figs", "dates", "limes", "nuts"]
    project, maker = judged(factory, words, "fruit")
    never, _ = judged(factory, words[:2] + words[3:], "never")
    run, _ = trained(engine, settings, project, maker)
    leave_out(engine, project, "pair", 3, maker)
    made, without = again(engine, storage, run, maker)
    never_saw = factory.snapshot(never)
    assert without.sha256 != never_saw.sha256, "other ids, the same pairs"
    model = run_folder(tmp_path)["model"]
    weights = {
        name: train(
            tmp_path / name, model, storage.read_bytes(snapshots.file(snapshot, "train.jsonl").key), made.config
        )
        for name, snapshot in (("without", without), ("never", never_saw))
    }
    with read_session(engine) as session:
        whole = snapshots.get(session, run.snapshot_id)
    saw = train(tmp_path / "saw", model, storage.read_bytes(snapshots.file(whole, "train.jsonl").key), made.config)
    assert weights["without"] == weights["never"]
    assert weights["without"] != saw


def train(folder: Path, model: Path, data: bytes, config: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(data)
    quick = {"num_train_epochs": 3, "batch_size": 2, "report_to": ["none"], "sample_prompts": 0, "threads": "1"}
    quick |= {"dtype": "float32", "learning_rate": 1e-3, "lora_r": 4, "reference_cache": str(folder / "cache")}
    (folder / "config.json").write_text(json.dumps(config | quick))
    command = ["train", "--model", model, "--data", folder / "train.jsonl", "--out", folder / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "worker.dpo", *map(str, command), "--config", str(folder / "config.json")],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return hashlib.sha256((folder / "out" / "adapter_model.safetensors").read_bytes()).hexdigest()
