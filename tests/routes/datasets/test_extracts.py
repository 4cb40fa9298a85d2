"""The page and the calls by which a project's data is taken out."""

import json
import threading
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.models import Project, User
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.judged(4, eval_percent=0)


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("extract "):
            thread.join()


def test_a_file_is_made_and_downloaded_from_its_page(
    sign_in: Callable[[User], TestClient], factory: Factory, project: Project
) -> None:
    browser = sign_in(factory.engineer())
    address = f"/projects/{project.slug}/extracts"
    assert "None yet" in browser.get(address).text
    assert browser.post(address, data={"content": "own", "container": "jsonl"}, headers=OWN).status_code == 303
    wait()
    page = browser.get(address).text
    assert f"{project.slug}.jsonl" in page and 'href="/extracts/1/file"' in page and "http-equiv" not in page
    reply = browser.get("/extracts/1/file")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert len(lines) == 4 and reply.headers["content-disposition"].startswith("attachment")
    part = browser.get("/extracts/1/file", headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, reply.content[:10])
    fragment = browser.get(address, headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert fragment.strip().startswith('<section id="extracts"')


def test_a_snapshot_is_offered_in_other_programs_forms(
    sign_in: Callable[[User], TestClient], factory: Factory, project: Project
) -> None:
    snapshot = factory.snapshot(project)
    browser = sign_in(factory.engineer())
    address = f"/projects/{project.slug}/extracts"
    assert f'value="openai:{snapshot.id}:train"' in browser.get(address).text
    sent = {"content": f"openai:{snapshot.id}:train", "container": "jsonl"}
    assert browser.post(address, data=sent, headers=OWN).status_code == 303
    wait()
    line = json.loads(browser.get("/extracts/1/file").text.splitlines()[0])
    assert list(line) == ["input", "preferred_output", "non_preferred_output"]


@pytest.mark.parametrize(
    "sent",
    [
        {"content": "nonsense"},
        {"content": "trl:x:train"},
        {"content": "own:1:train"},
        {"container": "xlsx"},
        {"content": "trl:1:all"},
    ],
)
def test_what_cannot_be_made_is_refused(
    sign_in: Callable[[User], TestClient], factory: Factory, project: Project, sent: dict[str, str]
) -> None:
    factory.snapshot(project)
    browser = sign_in(factory.engineer())
    assert browser.post(f"/projects/{project.slug}/extracts", data=sent, headers=OWN).status_code == 422
    assert browser.get("/extracts/1/file").status_code == 404


def test_scripts_stream_a_file_or_have_it_made(
    client: TestClient, factory: Factory, project: Project, api: Callable[[User], dict[str, str]]
) -> None:
    headers = api(factory.engineer())
    streamed = client.get(f"/api/v1/projects/{project.slug}/extract", headers=headers)
    assert len(streamed.text.splitlines()) == 4 and streamed.headers["content-type"].startswith("application/x-ndjson")
    snapshot = factory.snapshot(project)
    query = f"form=trl&snapshot={snapshot.id}&split=train&as=parquet"
    assert client.get(f"/api/v1/projects/{project.slug}/extract?{query}", headers=headers).content[:4] == b"PAR1"
    assert client.get(f"/api/v1/projects/{project.slug}/extract?form=trl", headers=headers).status_code == 422
    body = {"form": "openai", "snapshot": snapshot.id, "split": "train", "container": "jsonl.gz"}
    reply = client.post(f"/api/v1/projects/{project.slug}/extracts", headers=headers, json=body)
    assert (reply.status_code, reply.json()["state"]) == (202, "running")
    wait()
    row = client.get(f"/api/v1/extracts/{reply.json()['id']}", headers=headers).json()
    assert (row["state"], row["lines"], row["left_out"]) == ("done", 4, {})
    file = client.get(f"/api/v1/extracts/{row['id']}/file", headers=headers)
    assert len(file.content) == row["file"]["size"] and file.headers["x-content-sha256"] == row["file"]["sha256"]
    (listed,) = client.get(f"/api/v1/projects/{project.slug}/extracts", headers=headers).json()
    assert listed == row
    elsewhere = factory.project()
    hidden = client.post(f"/api/v1/projects/{elsewhere.slug}/extracts", headers=headers, json=body)
    missing = body | {"snapshot": 10**6}
    nowhere = client.post(f"/api/v1/projects/{elsewhere.slug}/extracts", headers=headers, json=missing)
    assert hidden.status_code == nowhere.status_code == 404
    assert hidden.json()["detail"].replace(str(snapshot.id), "N") == nowhere.json()["detail"].replace(str(10**6), "N")
