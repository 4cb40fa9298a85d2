"""The way of an export with real processes: a run's checkpoint, a worker, the engine, a download, llama.cpp."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import Checkpoint, ExportFormat, Job, JobState, User
from app.services.jobs import jobs
from app.services.training import checkpoints, exports, runs
from app.storage import Storage
from tests.factory import Factory
from tests.worker.running import QUICK, Watcher, Workers, folder_of

pytestmark = pytest.mark.timeout(900)
PATIENCE = 400  # seconds that a real model may need on a busy machine
one_size = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def models(tiny_models: Path) -> Path:
    return tiny_models


@pytest.fixture
def settings(settings: Settings, models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    quick = {
        "MODELS_DIR": str(models),
        "HEARTBEAT_SECONDS": "0.5",
        "SWEEP_SECONDS": "0.5",
        "CANCEL_GRACE_SECONDS": "20",
    }
    for name, value in quick.items():
        monkeypatch.setenv(f"PREFLOOP_{name}", value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


def train(
    engine: Engine, factory: Factory, by: User, watcher: Watcher, base_model: str, **config: object
) -> Checkpoint:
    """The checkpoint of a short run."""
    snapshot = factory.snapshot(factory.judged(8, eval_percent=0))
    with write_session(engine) as session:
        made = runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model=base_model,
            config={**QUICK, "max_steps": 1, "batch_size": 2, **config},
            by=session.merge(by),
        )
    job = watcher.until_over(made.job_id, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{watcher.workers.logs()}"
    with read_session(engine) as session:
        (checkpoint,) = checkpoints.listing(session).items
    return checkpoint


def export(engine: Engine, checkpoint: Checkpoint, format: ExportFormat, by: User) -> int:
    with write_session(engine) as session:
        row = checkpoints.get(session, checkpoint.id)
        made = exports.create(session, checkpoint=row, format=format, by=session.merge(by), refused={})
    return made.job_id


def ended_well(watcher: Watcher, job_id: int) -> Job:
    job = watcher.until_over(job_id, PATIENCE)
    assert job.state is JobState.SUCCEEDED, f"{job.error}\n{watcher.workers.logs()}"
    return job


@one_size
def test_a_run_s_checkpoint_becomes_merged_weights_that_transformers_loads(
    engine: Engine,
    settings: Settings,
    factory: Factory,
    engineer: User,
    workers: Workers,
    watcher: Watcher,
    storage: Storage,
    tmp_path: Path,
) -> None:
    workers.start()
    checkpoint = train(engine, factory, engineer, watcher, "tiny", learning_rate=0.01)
    job = ended_well(watcher, export(engine, checkpoint, ExportFormat.MERGED, engineer))
    assert watcher.states(job.id) == ["queued", "running", "succeeded"]
    assert [row.step for row in watcher.events(job.id, "step")] == sorted(
        row.step for row in watcher.events(job.id, "step")
    )
    assert any("nats" in row.data["message"] for row in watcher.events(job.id, "log"))
    with read_session(engine) as session:
        made = exports.get(session, job.id)
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for file in made.files:
        assert storage.fetch(file.key, folder / file.name).sha256 == file.sha256
    assert json.loads((folder / "export.json").read_text()) == made.proof
    assert made.proof["training_moved"] > 0 and all(check["passed"] for check in made.proof["checks"])
    told = "".join(path.read_text() for path in [*folder.glob("*.json"), folder / "README.md"])
    assert str(settings.data_dir) not in told and str(settings.models) not in told

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model(**tokenizer("Hello", return_tensors="pt")).logits.shape[-1] == 260
    watcher.until_gone(folder_of(settings, job.id))


@one_size
def test_what_the_engine_refuses_fails_the_job_with_its_reason_and_stores_nothing(
    engine: Engine, settings: Settings, factory: Factory, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    workers.start()
    checkpoint = train(engine, factory, engineer, watcher, "tiny")
    job = watcher.until_over(
        export(engine, checkpoint, ExportFormat.GGUF_F16, engineer)
    )  # its tokenizer merges nothing
    assert (job.state, job.error_code) == (JobState.FAILED, "export_refused")
    assert "Export it as merged instead." in job.error
    with read_session(engine) as session:
        assert exports.get(session, job.id).files == ()
    assert not list(settings.data_dir.rglob("*.gguf"))


@one_size
def test_a_cancelled_export_leaves_nothing_and_is_made_anew_by_retry(
    engine: Engine, settings: Settings, factory: Factory, engineer: User, workers: Workers, watcher: Watcher
) -> None:
    workers.start()
    checkpoint = train(engine, factory, engineer, watcher, "tiny")
    job_id = export(engine, checkpoint, ExportFormat.MERGED, engineer)
    watcher.until("the export began", lambda: watcher.job(job_id).state is not JobState.QUEUED)
    with write_session(engine) as session:
        jobs.cancel(session, job=jobs.get(session, job_id), by=session.merge(engineer))
    assert watcher.until_over(job_id).state is JobState.CANCELLED
    left = {path.name for path in folder_of(settings, job_id).iterdir()}
    assert not left & {"out", ".out.partial"}
    with write_session(engine) as session:
        jobs.retry(session, job=jobs.get(session, job_id), by=session.merge(engineer))
    ended_well(watcher, job_id)


class TestRealModel:
    """The demo's base model, trained one step and served by llama.cpp."""

    @pytest.fixture
    def models(self, smollm2: Path) -> Path:
        return smollm2.parent

    @pytest.mark.long
    @one_size
    def test_a_run_s_checkpoint_is_downloaded_as_q8_0_and_loaded_by_llama_cpp(
        self,
        engine: Engine,
        settings: Settings,
        factory: Factory,
        engineer: User,
        workers: Workers,
        watcher: Watcher,
        client: TestClient,
        api: Callable[[User], dict[str, str]],
        smollm2: Path,
        tmp_path: Path,
    ) -> None:
        workers.start()
        options = {"sample_prompts": 0, "learning_rate": 1e-3}
        checkpoint = train(engine, factory, engineer, watcher, smollm2.name, **options)
        token, address = api(engineer), f"/api/v1/checkpoints/{checkpoint.id}/exports"
        asked = client.post(address, json={"format": "gguf-q8_0"}, headers=token)
        assert asked.status_code == 201, asked.text
        ended_well(watcher, asked.json()["job_id"])
        (made,) = client.get(address, headers=token).json()["items"]
        assert made["proof"]["not_checked"] == []
        served = [check for check in made["proof"]["checks"] if check["reader"] == "llama.cpp"]
        assert {check["name"] for check in served} == {"prompts", "ends", "log-probabilities"}
        file = tmp_path / "model.gguf"
        file.write_bytes(client.get(f"{address}/gguf-q8_0/files/model-q8_0.gguf", headers=token).content)

        from worker.dpo.publish import figures, llama_cpp

        prompt = figures.Rendered("hello", [{"role": "user", "content": "What is the capital of France?"}], "", [1])
        reading = llama_cpp.read(file, [prompt], [figures.Answer(prompt, [2])], [2])
        assert reading.texts[0].endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
        assert reading.ends == {2: True}
