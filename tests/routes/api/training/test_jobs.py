"""Jobs over the API: as a script starts, watches and stops them."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import write_session
from app.events.types import StepTaken
from app.models import JobKind, Snapshot, User
from app.services.jobs import jobs, leases, workers
from tests.factory import Factory
from tests.services.training.trained import trained

pytestmark = pytest.mark.usefixtures("tiny")

Api = Callable[[User], dict[str, str]]


@pytest.fixture
def snapshot(factory: Factory) -> Snapshot:
    return factory.snapshot(factory.judged(4, default_base_model="tiny"))


@pytest.fixture
def engineer(factory: Factory, api: Api) -> dict[str, str]:
    return api(factory.engineer())


def create(client: TestClient, headers: dict[str, str], snapshot: Snapshot, key: str = "k1", **body: object) -> dict:
    wanted = {"snapshot_id": snapshot.id, "base_model": "tiny", "config": {"beta": 0.2}, **body}
    reply = client.post("/api/v1/jobs", json=wanted, headers=headers | {"Idempotency-Key": key})
    assert reply.status_code == 201, reply.text
    return reply.json()


def run_to_success(engine: Engine) -> None:
    with write_session(engine) as session:
        job = leases.claim(session, worker="w", kinds=list(JobKind), lease_seconds=60)
        steps = [StepTaken(step=step, more={"loss": 1 / step}) for step in range(1, 4)]
        leases.progress(session, job_id=job.id, token=job.lease_token, printed=steps, output_bytes=9)
        leases.succeed(session, job_id=job.id, token=job.lease_token)


def test_job_is_made_once_shown_and_listed(
    client: TestClient, engineer: dict[str, str], snapshot: Snapshot, settings: Settings
) -> None:
    made = create(client, engineer, snapshot)
    assert create(client, engineer, snapshot)["id"] == made["id"]
    shown = client.get(f"/api/v1/jobs/{made['id']}", headers=engineer).json()
    assert (shown["state"], shown["config"]["beta"], shown["snapshot_sha256"]) == ("queued", 0.2, snapshot.sha256)
    assert list((settings.broker_dir / "messages").glob("*.prefloop-train.msg")), "the doorbell was rung"
    listed = client.get("/api/v1/jobs", params={"state": "queued"}, headers=engineer).json()
    assert [job["id"] for job in listed["items"]] == [made["id"]]
    assert client.get("/api/v1/jobs", params={"state": "failed"}, headers=engineer).json()["total"] == 0


def test_key_used_for_another_request_is_a_conflict(
    client: TestClient, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    create(client, engineer, snapshot)
    other = {"snapshot_id": snapshot.id, "base_model": "tiny", "config": {"beta": 0.9}}
    reply = client.post("/api/v1/jobs", json=other, headers=engineer | {"Idempotency-Key": "k1"})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


def test_job_on_what_a_project_has_now_freezes_it(
    client: TestClient, engineer: dict[str, str], factory: Factory
) -> None:
    project = factory.judged(4, default_base_model="tiny")
    reply = client.post("/api/v1/jobs", json={"project": project.slug}, headers=engineer)
    assert reply.status_code == 201, reply.text
    assert (reply.json()["project"], reply.json()["snapshot_number"], reply.json()["base_model"]) == (
        project.slug,
        1,
        "tiny",
    )


def test_impossible_setting_is_named(client: TestClient, engineer: dict[str, str], snapshot: Snapshot) -> None:
    body = {"snapshot_id": snapshot.id, "base_model": "tiny", "config": {"learning_rat": 1}}
    reply = client.post("/api/v1/jobs", json=body, headers=engineer)
    assert reply.status_code == 422
    assert "learning_rate" in reply.text


def test_cancel_and_retry(client: TestClient, engineer: dict[str, str], snapshot: Snapshot) -> None:
    job = create(client, engineer, snapshot)
    assert client.post(f"/api/v1/jobs/{job['id']}/cancel", headers=engineer).json()["state"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{job['id']}/retry", headers=engineer).json()["state"] == "queued"
    assert client.post(f"/api/v1/jobs/{job['id']}/retry", headers=engineer).status_code == 409


def test_events_come_as_pages_of_json(
    client: TestClient, engine: Engine, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    url = f"/api/v1/jobs/{create(client, engineer, snapshot)['id']}/events"
    run_to_success(engine)
    first = client.get(url, params={"limit": 3}, headers=engineer).json()
    assert ([row["event"] for row in first["items"]], first["over"]) == (["state", "state", "step"], False)
    rest = client.get(url, params={"after": first["after"]}, headers=engineer).json()
    assert ([row["event"] for row in rest["items"]], rest["over"]) == (["step", "step", "state"], True)


def test_events_come_as_a_stream_that_goes_on_after_the_last_id(
    client: TestClient, engine: Engine, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    url = f"/api/v1/jobs/{create(client, engineer, snapshot)['id']}/events"
    run_to_success(engine)
    headers = engineer | {"Accept": "text/event-stream"}
    reply = client.get(url, headers=headers)
    assert reply.headers["content-type"].startswith("text/event-stream")
    messages = [
        dict(line.split(": ", 1) for line in message.splitlines()) for message in reply.text.strip().split("\n\n")
    ]
    assert [message["event"] for message in messages] == ["state", "state", "step", "step", "step", "state"]
    assert json.loads(messages[-1]["data"])["state"] == "succeeded"
    rest = client.get(url, headers=headers | {"Last-Event-ID": messages[3]["id"]})
    assert rest.text.count("event: ") == 2
    assert client.get(url, headers=headers | {"Last-Event-ID": messages[-1]["id"]}).status_code == 204


def test_list_shows_runs_unless_another_kind_is_asked_for(
    client: TestClient, engine: Engine, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    run = create(client, engineer, snapshot)
    with write_session(engine) as session:
        export, _ = jobs.queue(session, kind=JobKind.EXPORT, project_id=snapshot.project_id, by=None)

    def listed(**params: str) -> list[tuple[int, str]]:
        items = client.get("/api/v1/jobs", params=params, headers=engineer).json()["items"]
        return [(job["id"], job["kind"]) for job in items]

    assert listed() == listed(kind="training") == [(run["id"], "training")]
    assert listed(kind="export") == [(export.id, "export")]
    assert listed(kind="all") == [(export.id, "export"), (run["id"], "training")]
    assert client.get("/api/v1/jobs", params={"kind": "baking"}, headers=engineer).status_code == 422
    shown = client.get(f"/api/v1/jobs/{export.id}", headers=engineer).json()
    assert (shown["kind"], shown["state"], "snapshot_id" in shown) == ("export", "queued", False)


def test_queued_job_tells_what_it_waits_for(
    client: TestClient, engine: Engine, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    made = create(client, engineer, snapshot)
    assert made["waiting"] == "no worker is running"
    with write_session(engine) as session:
        workers.register(
            session, name="exports", device="", memory_bytes=None, version="9", kinds=[JobKind.EXPORT], versions={}
        )
    shown = client.get(f"/api/v1/jobs/{made['id']}", headers=engineer).json()
    assert shown["waiting"] == "no running worker can do runs: start one of this version of Prefloop"
    (listed,) = client.get("/api/v1/jobs", headers=engineer).json()["items"]
    assert listed["waiting"] == shown["waiting"]
    cancelled = client.post(f"/api/v1/jobs/{made['id']}/cancel", headers=engineer).json()
    assert (cancelled["state"], cancelled["waiting"]) == ("cancelled", "")


def test_workers_are_listed_with_whether_they_live(
    client: TestClient, engine: Engine, engineer: dict[str, str]
) -> None:
    with write_session(engine) as session:
        workers.register(
            session,
            name="cpu-1",
            device="CPU, 2 cores",
            memory_bytes=8 * 2**30,
            version="0.1.0",
            kinds=[JobKind.TRAINING],
            versions={"torch": "2.13.0"},
        )
    (worker,) = client.get("/api/v1/workers", headers=engineer).json()
    assert (worker["name"], worker["alive"], worker["job_id"]) == ("cpu-1", True, None)
    assert (worker["version"], worker["kinds"]) == ("0.1.0", ["training"])


@pytest.mark.parametrize("path", ["jobs", "checkpoints", "workers"])
def test_evaluators_and_strangers_see_nothing_of_training(
    client: TestClient, factory: Factory, engineer: dict[str, str], api: Api, path: str
) -> None:
    project = factory.judged()
    assert client.post("/api/v1/jobs", headers=engineer, json={"project": project.slug, "base_model": "tiny"}).json()
    assert client.get(f"/api/v1/{path}").status_code == 401
    reply = client.get(f"/api/v1/{path}", headers=api(factory.user()))
    assert (reply.status_code, reply.json().get("items")) in [(403, None), (200, [])]
    if path != "workers":
        refused = client.get(f"/api/v1/{path}?project={project.slug}", headers=api(factory.user()))
        assert refused.status_code == 403


@pytest.mark.parametrize(
    "config",
    [
        '{"report_to": 5}',
        '{"beta": 1' + "0" * 400 + "}",
        '{"beta": 1e999}',
        '{"beta": NaN}',
        '{"beta": -Infinity}',
        '{"beta": true}',
        '{"beta": [0.1]}',
        '{"beta": {"value": 0.1}}',
        '{"seed": 1.5}',
        '{"loss_type": [[["sigmoid"]]]}',
        '{"loss_type": {"sigmoid": 1}}',
        '{"loss_type": [["sigmoid", 1e999]]}',
        '{"lora_target_modules": ["q\\u0000"]}',
        '{"lora_target_modules": ["\\ud800"]}',
        '{"lora_target_modules": [5]}',
        '{"\\ud800": 1}',
        '{"": 1}',
        '{"__class__": 1, "model_config": {}, "model_fields": []}',
        "{" + ", ".join(f'"key{number}": 1' for number in range(5000)) + "}",
        '{"dtype": "' + "x" * 100_000 + '"}',
        '{"loss_type": ' + "[" * 400 + "]" * 400 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_hostile_settings_are_refused_shortly(
    client: TestClient, engineer: dict[str, str], snapshot: Snapshot, config: str
) -> None:
    body = f'{{"snapshot_id": {snapshot.id}, "base_model": "tiny", "config": {config}}}'
    reply = client.post("/api/v1/jobs", content=body, headers=engineer | {"Content-Type": "application/json"})
    assert reply.status_code == 422, reply.text[:500]
    problem = reply.json()
    assert problem["detail"].isprintable() and len(problem["detail"]) < 5000
    assert all(error["field"].startswith("body.config.") and error["message"] for error in problem["errors"])


def test_a_config_that_is_no_object_or_too_deep_is_refused(
    client: TestClient, engineer: dict[str, str], snapshot: Snapshot
) -> None:
    for config in ("[]", '"beta=1"', "null", "5", "[" * 100_000, '{"beta": 1' + "0" * 5000 + "}"):
        body = f'{{"snapshot_id": {snapshot.id}, "base_model": "tiny", "config": {config}}}'
        reply = client.post("/api/v1/jobs", content=body, headers=engineer | {"Content-Type": "application/json"})
        assert reply.status_code in (400, 422), (config[:20], reply.text[:500])


def test_a_model_that_is_not_here_is_refused(
    client: TestClient, snapshot: Snapshot, factory: Factory, api: Callable[[User], dict[str, str]]
) -> None:
    body = {"snapshot_id": snapshot.id, "base_model": "elsewhere"}
    reply = client.post("/api/v1/jobs", json=body, headers=api(factory.engineer()))
    assert reply.status_code == 422 and "no base model named" in reply.json()["detail"]


def test_a_run_starts_from_a_checkpoint_on_new_pairs_only(
    client: TestClient, engine: Engine, settings: Settings, engineer: dict[str, str], factory: Factory, api: Api
) -> None:
    maker = factory.engineer()
    project = factory.judged(4, eval_percent=0, default_base_model="tiny")
    _, start = trained(engine, settings, project, maker)
    wanted = {"project": project.slug, "from_checkpoint": start.id, "new_pairs_only": True}
    nothing = client.post("/api/v1/jobs", json=wanted, headers=engineer)
    assert (nothing.status_code, nothing.json()["code"]) == (409, "snapshot_empty")
    factory.comparison(project)
    assert factory.judge(project, maker)
    made = client.post("/api/v1/jobs", json=wanted, headers=engineer)
    assert made.status_code == 201, made.text
    assert (made.json()["from_checkpoint"], made.json()["base_model"]) == (start.id, "tiny")
    snapshot = client.get(f"/api/v1/snapshots/{made.json()['snapshot_id']}", headers=engineer).json()
    assert (snapshot["counts"]["train"], snapshot["rule"]["new_to_checkpoint"]) == (1, start.id)
    again = {"snapshot_id": snapshot["id"], "from_checkpoint": start.id}
    assert client.post("/api/v1/jobs", json=again, headers=engineer).status_code == 201
    for body, field in (
        (again | {"new_pairs_only": True}, "new_pairs_only"),
        ({"project": project.slug, "new_pairs_only": True}, "new_pairs_only"),
        (wanted | {"base_model": "other"}, "base_model"),
        (wanted | {"config": {"lora_r": 5}}, "body.config.lora_r"),
    ):
        refused = client.post("/api/v1/jobs", json=body, headers=engineer)
        assert refused.status_code == 422 and field in refused.text, refused.text
    plain = client.post("/api/v1/jobs", json={"project": project.slug}, headers=engineer).json()
    assert plain["from_checkpoint"] is None


def test_a_checkpoint_of_a_hidden_project_is_as_one_that_is_not_there(
    client: TestClient, engine: Engine, settings: Settings, factory: Factory, api: Api
) -> None:
    owner, other = factory.engineer(), factory.engineer()
    hidden = factory.project(by=owner, eval_percent=0, open_to_everybody=False)
    factory.comparison(hidden)
    assert factory.judge(hidden, owner)
    _, start = trained(engine, settings, hidden, owner)
    project = factory.judged(4, eval_percent=0, default_base_model="tiny")
    for number in (start.id, 999):
        body = {"project": project.slug, "from_checkpoint": number}
        refused = client.post("/api/v1/jobs", json=body, headers=api(other))
        assert (refused.status_code, refused.json()["detail"].split(".")[0]) == (
            404,
            f"There is no checkpoint {number}",
        )
        rule = {"rule": {"new_to_checkpoint": number}}
        for action in ("preview", "snapshots"):
            asked = client.post(f"/api/v1/projects/{project.slug}/{action}", json=rule, headers=api(other))
            assert asked.status_code == 404, asked.text
