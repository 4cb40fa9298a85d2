"""Exports: one job a checkpoint and format, refused before anything is queued, whole or not there."""

import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Checkpoint, ExportFormat, Job, JobKind, JobState, Project, User
from app.services.jobs import jobs
from app.services.training import base_models, checkpoints, exports
from app.storage import Storage
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.exported import exported, exporter, wanted
from tests.services.training.trained import trained
from worker.dpo.publish.export import FORMATS

CONFIG = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 4096}
TOKENIZER = {
    "model": {"type": "BPE", "merges": [["a", "b"]]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory, settings: Settings) -> Project:
    prepare_model(settings)
    return factory.judged(8)


@pytest.fixture
def checkpoint(engine: Engine, settings: Settings, project: Project, engineer: User) -> Checkpoint:
    return loaded(engine, trained(engine, settings, project, engineer)[1])


def loaded(engine: Engine, checkpoint: Checkpoint) -> Checkpoint:
    with read_session(engine) as session:
        return checkpoints.get(session, checkpoint.id)


def describe_model(settings: Settings, config: dict[str, object], tokenizer: dict[str, object]) -> None:
    folder = base_models.path(settings, "tiny")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_the_formats_are_the_engine_s() -> None:
    assert tuple(ExportFormat) == FORMATS


def test_an_export_is_a_queued_job_of_its_own_kind(engine: Engine, checkpoint: Checkpoint, engineer: User) -> None:
    export = wanted(engine, checkpoint, engineer)
    assert (export.job.kind, export.job.state) == (JobKind.EXPORT, JobState.QUEUED)
    assert export.job.project_id == checkpoint.run.job.project_id
    assert (export.format, export.files, export.proof) == (ExportFormat.GGUF_Q8_0, (), {})


def test_wishing_again_finds_the_first_wish_s_job(engine: Engine, checkpoint: Checkpoint, factory: Factory) -> None:
    first = wanted(engine, checkpoint, factory.engineer())
    assert wanted(engine, checkpoint, factory.engineer()).job_id == first.job_id
    assert wanted(engine, checkpoint, factory.engineer(), ExportFormat.MERGED).job_id != first.job_id
    with read_session(engine) as session:
        made = exports.of_checkpoint(session, checkpoint=checkpoint)
    assert [export.format for export in made] == [ExportFormat.MERGED, ExportFormat.GGUF_Q8_0]


def test_wishes_at_the_same_moment_make_one_job(engine: Engine, checkpoint: Checkpoint, engineer: User) -> None:
    start, made = threading.Barrier(4), []

    def wish() -> None:
        start.wait()
        made.append(wanted(engine, checkpoint, engineer).job_id)

    threads = [threading.Thread(target=wish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1
    with read_session(engine) as session:
        assert len(session.scalars(select(Job).where(Job.kind == JobKind.EXPORT)).all()) == 1


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_one_that_ended_badly_is_tried_again_by_the_same_job(
    ending: str, engine: Engine, settings: Settings, checkpoint: Checkpoint, engineer: User
) -> None:
    export = wanted(engine, checkpoint, engineer)
    if ending == "failed":
        worker = exporter(engine, settings)
        worker.claim()
        worker.fail("export_differs", "The export isn't the trained model.")
    else:
        with write_session(engine) as session:
            jobs.cancel(session, job=jobs.get(session, export.job_id), by=session.merge(engineer))
    again = wanted(engine, checkpoint, engineer)
    assert (again.job_id, again.job.state) == (export.job_id, JobState.QUEUED)


def test_a_finished_one_stays_as_it_is(
    engine: Engine, settings: Settings, checkpoint: Checkpoint, engineer: User
) -> None:
    export = exported(engine, settings, checkpoint, engineer)
    again = wanted(engine, checkpoint, engineer)
    assert (again.job_id, again.job.state, again.files) == (export.job_id, JobState.SUCCEEDED, export.files)
    assert exports.size(again) == sum(file.size for file in export.files) > 16_000
    assert exports.folder_name(again) == f"{checkpoint.run.job.project.slug}-checkpoint-{checkpoint.id}-gguf-q8_0"


def test_a_model_without_words_in_gguf_is_refused_before_anything_is_queued(
    engine: Engine, settings: Settings, storage: Storage, checkpoint: Checkpoint, engineer: User
) -> None:
    describe_model(settings, CONFIG | {"model_type": "gemma"}, TOKENIZER)
    refused = exports.refusals(settings, storage, checkpoint=checkpoint)
    assert set(refused) == {ExportFormat.GGUF_F16, ExportFormat.GGUF_Q8_0}
    assert "this one is of type gemma" in refused[ExportFormat.GGUF_F16]
    with pytest.raises(exports.CannotExport, match="Export it as merged"), write_session(engine) as session:
        exports.create(
            session, checkpoint=checkpoint, format=ExportFormat.GGUF_F16, by=session.merge(engineer), refused=refused
        )
    with read_session(engine) as session:
        assert exports.of_checkpoint(session, checkpoint=checkpoint) == []


def test_a_model_that_changed_is_judged_anew(settings: Settings, storage: Storage, checkpoint: Checkpoint) -> None:
    describe_model(settings, CONFIG, TOKENIZER)
    assert exports.refusals(settings, storage, checkpoint=checkpoint) == {}
    describe_model(settings, CONFIG, TOKENIZER | {"model": {"type": "Unigram"}})
    assert "Unigram" in exports.refusals(settings, storage, checkpoint=checkpoint)[ExportFormat.GGUF_Q8_0]


def test_a_base_model_that_is_not_here_refuses_nothing(
    settings: Settings, storage: Storage, checkpoint: Checkpoint
) -> None:
    (settings.models / "tiny" / base_models.MANIFEST).unlink()
    assert exports.refusals(settings, storage, checkpoint=checkpoint) == {}


def test_a_base_model_whose_files_are_broken_refuses_gguf_and_no_page_fails(
    settings: Settings, storage: Storage, checkpoint: Checkpoint
) -> None:
    (settings.models / "tiny" / "config.json").write_text("{")
    refused = exports.refusals(settings, storage, checkpoint=checkpoint)
    assert "isn't readable JSON" in refused[ExportFormat.GGUF_F16] and ExportFormat.MERGED not in refused


def test_a_full_fine_tune_is_judged_by_its_own_files(
    engine: Engine, settings: Settings, storage: Storage, project: Project, engineer: User
) -> None:
    files = {
        "model.safetensors": b"weights",
        "prefloop.json": b"{}",
        "config.json": json.dumps(CONFIG | {"model_type": "phi3"}).encode(),
        "tokenizer.json": json.dumps(TOKENIZER).encode(),
    }
    whole = loaded(engine, trained(engine, settings, project, engineer, files)[1])
    assert "of type phi3" in exports.refusals(settings, storage, checkpoint=whole)[ExportFormat.GGUF_F16]


def test_only_a_finished_export_has_files(
    engine: Engine, settings: Settings, checkpoint: Checkpoint, engineer: User
) -> None:
    wanted(engine, checkpoint, engineer)
    with read_session(engine) as session:
        for format in ("gguf-q8_0", "merged", "exe"):
            with pytest.raises(NotFound, match="no finished export"):
                exports.whole(session, checkpoint_id=checkpoint.id, format=format)
        with pytest.raises(NotFound, match="no export 4711"):
            exports.get(session, 4711)
    exporter(engine, settings).claim()


def test_a_half_made_folder_is_not_stored(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "model-f16.gguf").write_bytes(b"GGUF")
    with pytest.raises(Invalid, match="without a whole result"):
        exports.upload(storage, tmp_path, prefix="exports/1")
    (tmp_path / "export.json").write_text('{"as": "gguf-f16"}')
    (tmp_path / "weights.bin").write_bytes(b"pickle")
    files, proof = exports.upload(storage, tmp_path, prefix="exports/1")
    assert [file.name for file in files] == ["export.json", "model-f16.gguf"]
    assert proof == {"as": "gguf-f16"}
