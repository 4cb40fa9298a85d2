"""Asking for new answers on a page: the form, its cost, what came of it."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select
from starlette.testclient import TestClient

from app.config import Settings
from app.db import read_session, write_session
from app.models import Arm, Comparison, Finish, GenerationPlan, JobKind, JobState, Project, User
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
        ({"pairing": "rubbish"}, "isn&#39;t one of the choices"),
        ({"prompts_from": "-1"}, "isn&#39;t one of the choices"),
        ({"arm_random": "10", "arm_diversity": "90"}, "Random has a share of 10 %"),
        ({"arm_random": "50", "arm_diversity": "some"}, "isn&#39;t a share in percent"),
        ({"arm_random": "50", "arm_diversity": "50", "keep": "100"}, "no arm has a choice"),
        ({"arm_random": "50", "arm_margin": "50"}, "The project has no checkpoint"),
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


def test_shares_of_arms_are_kept_with_the_plan_and_told(engine: Engine, page: TestClient) -> None:
    asked = FORM | {"arm_random": "60", "arm_disagreement": "", "arm_diversity": "40", "keep": "", "samples": "3"}
    cost = page.post("/projects/tone/generate/cost", data=asked, headers=OWN).text
    assert "50 % of the candidate pairs will be asked, the others never." in cost
    assert "dealt by lot: random 60 %, diversity 40 %." in cost
    number = int(page.post("/projects/tone/generate", data=asked, headers=OWN).headers["location"].rsplit("/", 1)[1])
    assert started(engine)[0].arms == {"shares": {"random": 0.6, "diversity": 0.4}, "keep": 0.5}
    shown = page.get(f"/generations/{number}").text
    assert "random 60 %, diversity 40 %" in shown
    with write_session(engine) as session:
        job = leases.claim(session, worker="one", kinds=[JobKind.GENERATION], lease_seconds=600)
        assert job is not None
        ids = generations.prompt_ids(generations.get(session, number))
        said = ("It is red.", "Blue, I would say.", "Nobody knows.")
        told = [Arrived(one, 0, place, 1, text, Finish.STOP) for one in ids for place, text in enumerate(said)]
        answers.store(session, job_id=number, arrived=told)
    making.pair(engine, job_id=number, token=job.lease_token or "")
    assert "Pairs that no arm chose" in page.get(f"/generations/{number}").text
    with read_session(engine) as session:
        arms = session.execute(select(Comparison.id, Comparison.arm).where(Comparison.arm.is_not(None))).tuples().all()
    assert 3 <= len(arms) <= 6
    pair, arm = arms[0]
    words = {Arm.RANDOM: "random", Arm.DIVERSITY: "diversity"}[arm]
    assert f"asked by the arm “{words}”" in page.get(f"/comparisons/{pair}").text
    listed = page.get(f"/projects/tone/data?arm={arm.value}").text
    assert listed.count(f'<span class="muted small">{words}</span>') == sum(one is arm for _, one in arms)


def test_evaluators_see_no_source(
    engine: Engine, factory: Factory, project: Project, page: TestClient, sign_in: Callable[[User], TestClient]
) -> None:
    page.post("/projects/tone/generate", data=FORM, headers=OWN)
    evaluator = sign_in(factory.user())
    for path in ("/projects/tone/generations", "/projects/tone/generate", "/generations/1", "/jobs/1"):
        assert evaluator.get(path).status_code == 403
