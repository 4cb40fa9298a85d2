"""Asking for new answers on a page: the form, its cost, what came of it."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.models import Finish, GenerationPlan, JobKind, JobState, Project, User
from app.services.jobs import leases
from app.services.loop import generations
from app.services.loop.generating import answers, making
from app.services.loop.generating.answers import Arrived
from tests.factory import Factory

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OWN = {"Sec-Fetch-Site": "same-origin"}
FORM = {
    "source": "base:tiny",
    "samples": "2",
    "pairing": "round_robin",
    "prompts_from": "project",
    "limit": "3",
    "temperature": "0.8",
    "top_p": "0.95",
    "max_new_tokens": "64",
    "seed": "1",
    "key": "once",
}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    project = factory.project(slug="tone")
    factory.comparisons(project, 5)
    return project


@pytest.fixture
def page(sign_in: Callable[[User], TestClient], engineer: User, project: Project, tiny: str) -> TestClient:
    return sign_in(engineer)


def started(engine: Engine) -> list[GenerationPlan]:
    with read_session(engine) as session:
        return [
            generations.get(session, plan.job_id)
            for plan in generations.listing(session, project=session.get_one(Project, 1)).items
        ]


def test_the_form_says_what_it_would_take(page: TestClient) -> None:
    shown = page.get("/projects/tone/generate")
    assert shown.status_code == 200
    assert 'value="base:tiny"' in shown.text
    cost = page.post("/projects/tone/generate/cost", data=FORM, headers=OWN)
    assert "<strong>6 answers will be asked for.</strong>" in cost.text
    assert "<form" not in cost.text
    problem = page.post("/projects/tone/generate/cost", data=FORM | {"samples": "99"}, headers=OWN)
    assert "Choose 1 to 16." in problem.text


def test_one_click_or_two_start_one_generation(engine: Engine, page: TestClient) -> None:
    replies = [page.post("/projects/tone/generate", data=FORM, headers=OWN) for _ in range(2)]
    assert {reply.status_code for reply in replies} == {303}
    assert len({reply.headers["location"] for reply in replies}) == 1
    (plan,) = started(engine)
    assert (plan.samples, len(plan.prompts["ids"]), plan.sampling["max_new_tokens"]) == (2, 3, 64)
    job = page.get(replies[0].headers["location"])
    assert "6 answers of tiny" in job.text
    assert "Generation" in page.get("/projects/tone/generations").text


def test_prompts_that_are_written_there_become_prompts(engine: Engine, page: TestClient) -> None:
    asked = FORM | {"prompts_from": "given", "given": "Why?\r\n\r\n  Who?  \r\n"}
    assert page.post("/projects/tone/generate", data=asked, headers=OWN).status_code == 303
    (plan,) = started(engine)
    assert (plan.prompts["of"], len(plan.prompts["ids"])) == ("given", 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "base:missing"}, "There is no base model named"),
        ({"source": "rubbish:"}, "names no source"),
        ({"samples": "many"}, "isn&#39;t a whole number"),
        ({"temperature": "hot"}, "isn&#39;t a number"),
        ({"prompts_from": "given", "given": " "}, "No prompt was written"),
        ({"prompts_from": "import", "import_id": ""}, "isn&#39;t a whole number"),
        ({"source": "endpoint:nowhere"}, "There is no endpoint named"),
    ],
)
def test_what_is_wrong_is_said_and_what_was_typed_stays(
    engine: Engine, page: TestClient, change: dict[str, str], words: str
) -> None:
    reply = page.post("/projects/tone/generate", data=FORM | change, headers=OWN)
    assert reply.status_code in (404, 422)
    assert words in reply.text.replace("’", "'").replace("'", "&#39;")
    assert 'value="64"' in reply.text
    assert started(engine) == []


def test_answers_are_shown_as_they_arrive_and_by_mark(engine: Engine, settings: Settings, page: TestClient) -> None:
    number = int(page.post("/projects/tone/generate", data=FORM, headers=OWN).headers["location"].rsplit("/", 1)[1])
    assert "No answers here" in page.get(f"/generations/{number}").text
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        ids = generations.prompt_ids(generations.get(session, number))
        told = [
            Arrived(ids[0], 0, 0, 1, "An <b>answer</b>.", Finish.STOP, 4),
            Arrived(ids[0], 0, 1, 1, "I am ChatGPT.", Finish.LENGTH, 5),
            Arrived(ids[1], 0, 0, 1, "It broke.", Finish.FAILED),
        ]
        answers.store(session, job_id=number, arrived=told)
    shown = page.get(f"/generations/{number}").text
    assert "An &lt;b&gt;answer&lt;/b&gt;." in shown
    assert "Not given: It broke." in shown
    making.pair(engine, job_id=number, token=job.lease_token or "")
    with write_session(engine) as session:
        making.note(session, job_id=number, **making.tally(session, job_id=number))
        leases.succeed(session, job_id=number, token=job.lease_token or "")
    marked = page.get(f"/generations/{number}?mark=at_limit").text
    assert "I am ChatGPT." in marked
    assert "An &lt;b&gt;" not in marked
    assert "1 new pairs" in page.get("/projects/tone/generations").text
    assert started(engine)[0].job.state is JobState.SUCCEEDED


def test_evaluators_see_no_source(
    engine: Engine, factory: Factory, project: Project, page: TestClient, sign_in: Callable[[User], TestClient]
) -> None:
    page.post("/projects/tone/generate", data=FORM, headers=OWN)
    evaluator = sign_in(factory.user())
    for path in ("/projects/tone/generations", "/projects/tone/generate", "/generations/1", "/jobs/1"):
        assert evaluator.get(path).status_code == 403
