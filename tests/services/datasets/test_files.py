"""The files of a snapshot: hashed, split by prompt, read by TRL."""

import hashlib
import json
from pathlib import Path

import pytest

from app.db import write_session
from app.models import Choice
from app.services.collecting import pairs
from app.services.datasets import snapshots
from app.storage import Storage
from tests.factory import Factory
from tests.services.datasets.frozen import freeze, judge_all

FIRST, SECOND, TIE, BOTH_BAD, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


def test_the_files_are_what_the_snapshot_says_and_their_hash_can_be_made_with_sha256sum(
    factory: Factory, storage: Storage, tmp_path: Path
) -> None:
    snapshot = freeze(factory, factory.judged(40, eval_percent=50), storage)
    assert [file.name for file in snapshot.files] == ["eval.jsonl", "train.jsonl"]
    printed = ""
    for file in snapshot.files:
        data = storage.read_bytes(file.key)
        assert (len(data), hashlib.sha256(data).hexdigest(), data.count(b"\n")) == (
            file.size,
            file.sha256,
            snapshots.pairs_in(snapshot, file.name),
        )
        printed += f"{file.sha256}  {file.name}\n"
    assert snapshot.sha256 == hashlib.sha256(printed.encode()).hexdigest()
    assert (
        snapshots.pairs_in(snapshot, "eval.jsonl") == snapshot.counts.eval > 0
        and snapshots.pairs_in(snapshot, "train.jsonl") == snapshot.counts.train > 0
    )


def test_a_prompt_is_never_in_both_files(factory: Factory, storage: Storage) -> None:
    project = factory.project(eval_percent=50)
    for number in range(30):
        factory.comparison(project, prompt=f"Question {number % 10}?")
    judge_all(factory, project, *["left"] * 30)
    snapshot = freeze(factory, project, storage)
    evaluated, trained = (
        {line for row in storage.read_bytes(file.key).splitlines() for line in [json.dumps(json.loads(row)["prompt"])]}
        for file in snapshot.files
    )
    assert evaluated and trained and not evaluated & trained


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_trl_trains_on_the_files_as_they_are(factory: Factory, storage: Storage, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    from tests.worker.dpo.tiny import tiny_llama, tiny_tokenizer

    project = factory.project(eval_percent=40)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    for number in range(12):
        with write_session(factory.engine) as session:
            pairs.add(
                session,
                project=session.merge(project),
                prompt=[*turns, {"role": "user", "content": f"Question {number}?"}],
                responses=(f"Yes, {number}.", f"No, {number}."),
                external_id=f"row-{number}" if number else None,
            )
    judge_all(factory, project, *["left"] * 12)
    snapshot = freeze(factory, project, storage, weights="strength", soft_labels=True)
    for file in snapshot.files:
        (tmp_path / file.name).write_bytes(storage.read_bytes(file.key))
    loaded = load_dataset(
        "json",
        data_files={"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "eval.jsonl")},
        cache_dir=str(tmp_path / "cache"),
    )
    assert (len(loaded["train"]), len(loaded["eval"])) == (snapshot.counts.train, snapshot.counts.eval)
    assert loaded["train"][0]["prompt"][:3] == turns
    config = DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        eval_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=tiny_llama(),
        ref_model=tiny_llama(),
        args=config,
        train_dataset=loaded["train"],
        eval_dataset=loaded["eval"],
        processing_class=tiny_tokenizer(),
    )
    text = trainer.processing_class.decode(
        trainer.train_dataset[0]["prompt_ids"] + trainer.train_dataset[0]["chosen_ids"]
    )
    assert (
        text.startswith("<|im_start|>system\nBe kind.<|im_end|>") and loaded["train"][0]["chosen"][0]["content"] in text
    )
    assert trainer.train().training_loss == pytest.approx(
        0.6931, abs=1e-3
    )  # log 2: policy and reference are the same model
    assert len(trainer.eval_dataset) == snapshot.counts.eval and "eval_loss" in trainer.evaluate()
