"""What a generation's folder is like when an attempt takes it up, however the last one ended."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.models import Comparison, Job, JobKind, Pairing, Project
from app.services.jobs import leases
from app.services.loop import endpoints, generations
from app.services.loop.endpoints import Wanted
from app.services.loop.generating import answers, making, prompts
from app.services.loop.generating.wanted import AnswerSource, Sampling
from app.storage import get_storage
from tests.factory import Factory
from worker.kinds.generation import AnswerFile, Generating

HOST = "127.0.0.1:9"


def line(number: int, *, finish: str = "stop", text: str = "Aye.") -> bytes:
    told = {"line": number, "sample": 0, "seed": 1, "completion": text, "tokens": 3, "finish": finish}
    return json.dumps(told).encode() + b"\n"


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", HOST)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.project()


@pytest.fixture
def job(engine: Engine, settings: Settings, project: Project) -> Job:
    """A running generation that asks two endpoints three questions."""
    ids = prompts.store(engine, project_id=project.id, given=prompts.read_given(["One?", "Two?", "Three?"]))
    with write_session(engine) as session:
        for name in ("near", "far"):
            endpoints.add(session, wanted=Wanted(name, f"http://{HOST}/v1", "m"), by=None, settings=settings)
        generations.start(
            session,
            project=session.merge(project),
            by=None,
            sources=[AnswerSource.endpoint("near"), AnswerSource.endpoint("far")],
            sampling=Sampling(),
            prompts=ids,
            pairing=Pairing.ACROSS,
        )
    with write_session(engine) as session:
        claimed = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
    assert claimed is not None
    return claimed


def taken_up(engine: Engine, settings: Settings, job: Job, folder: Path) -> tuple[Generating, list[dict[str, Any]]]:
    """The kind as a worker makes it for an attempt, and what its program is told of each source."""
    kind = Generating(job, settings)
    with read_session(engine) as session:
        kind.inputs(session)
    kind.command(folder, get_storage(settings))
    return kind, json.loads((folder / "plan.json").read_text())["sources"]


def test_a_line_that_was_half_written_swallows_no_other(
    engine: Engine, settings: Settings, job: Job, tmp_path: Path
) -> None:
    taken_up(engine, settings, job, tmp_path)
    file = tmp_path / "source-0" / "answers.jsonl"
    file.write_bytes(line(1) + line(2)[:30])
    _, (near, _) = taken_up(engine, settings, job, tmp_path)
    assert near["questions"] == [[2, 0], [3, 0]]
    with file.open("ab") as more:
        more.write(line(2, text="Now whole."))
    _, (near, _) = taken_up(engine, settings, job, tmp_path)
    assert near["questions"] == [[3, 0]]


def test_what_arrived_outlives_a_kill_while_the_file_is_put_in_order(
    engine: Engine, settings: Settings, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_up(engine, settings, job, tmp_path)
    (tmp_path / "source-0" / "answers.jsonl").write_bytes(line(1) + line(2, finish="failed"))
    whole = Path.write_bytes

    def killed(path: Path, data: bytes) -> int:
        whole(path, data[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        taken_up(engine, settings, job, tmp_path)
    monkeypatch.setattr(Path, "write_bytes", whole)
    _, (near, _) = taken_up(engine, settings, job, tmp_path)
    assert near["questions"] == [[2, 0], [3, 0]]


def test_what_failed_is_asked_again_until_pairs_are_being_made(
    engine: Engine, settings: Settings, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer to a prompt whose pairs are made would be in no pair and have no marks."""
    taken_up(engine, settings, job, tmp_path)
    for number in (0, 1):
        told = [line(1, text=f"By {number}, one."), line(2, text=f"By {number}, two."), line(3, finish="failed")]
        (tmp_path / f"source-{number}" / "answers.jsonl").write_bytes(b"".join(told))
    kind, sources = taken_up(engine, settings, job, tmp_path)
    assert [one["questions"] for one in sources] == [[[3, 0]], [[3, 0]]]
    monkeypatch.setattr(making, "PROMPTS_AT_ONCE", 1)
    making.note_missing(engine, job_id=job.id, token=str(job.lease_token))
    real = making._store
    done: list[int] = []

    def killed(*given: Any, paired: int, **more: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(paired)
        real(*given, paired=paired, **more)

    monkeypatch.setattr(making, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        kind.store_result(tmp_path, get_storage(settings))
    monkeypatch.setattr(making, "_store", real)
    kind, sources = taken_up(engine, settings, job, tmp_path)
    assert [one["questions"] for one in sources] == [[], []]
    assert [one["missing"] for one in sources] == [0, 0]
    result = kind.store_result(tmp_path, get_storage(settings))
    with write_session(engine) as session:
        result.end(session)
        plan = generations.get(session, job.id)
        assert (plan.counts["answers"], plan.counts["failed"], plan.counts["pairs"]) == (4, 2, 2)
        assert session.query(Comparison).count() == 2
        assert len(answers.places(session, job_id=job.id)) == 6


def test_lines_that_are_no_answers_are_passed_over(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "source-0", 0)
    file.begin()
    file.ask([(7, [{"role": "user", "content": "One?"}])])
    file.path.write_bytes(b"[]\n" + line(5) + b"\xff\n" + line(1))
    batch = file.new()
    assert batch is not None and [one.prompt_id for one in batch.arrived] == [7]
