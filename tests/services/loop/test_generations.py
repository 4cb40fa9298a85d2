"""Starting a generation: what is refused, what the plan keeps, and that one key makes one job."""

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound, PrefloopError
from app.models import (
    Evaluation,
    EvaluationPair,
    GenerationPlan,
    JobKind,
    JobState,
    Pairing,
    Project,
    Prompt,
    Purpose,
    User,
)
from app.services.jobs import jobs
from app.services.loop import generations
from app.services.loop.generating import prompts
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import AnswerSource, Sampling
from app.services.loop.generations import Order
from tests.factory import Factory
from tests.services.training.trained import trained

BASE = AnswerSource.base("tiny")


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    project = factory.project(slug="tone")
    factory.comparisons(project, 5)
    return project


def start(engine: Engine, project: Project, by: User, **more: object) -> GenerationPlan:
    rule = more.get("rule", Rule(limit=3))
    with write_session(engine) as session:
        asked = {"sources": [BASE], "samples": 2, "pairing": Pairing.ROUND_ROBIN, "sampling": Sampling(seed=7)} | more
        ids = prompts.choose(session, project=session.merge(project), rule=rule or Rule())
        asked = {"prompts": ids, "rule": rule} | asked
        return generations.start(session, project=session.merge(project), by=session.merge(by), **asked)


def test_a_generation_waits_with_its_plan(engine: Engine, project: Project, engineer: User) -> None:
    plan = start(engine, project, engineer)
    assert (plan.job.kind, plan.job.state) == (JobKind.GENERATION, JobState.QUEUED)
    assert plan.sources == [{"kind": "base", "name": "tiny"}]
    assert plan.sampling == {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 256, "seed": 7}
    assert (plan.prompts["of"], len(plan.prompts["ids"]), plan.counts) == ("project", 3, {"prompts": 3, "wanted": 6})
    assert generations.answers_wanted(plan) == 6
    with read_session(engine) as session:
        (listed,) = generations.listing(session, project=project).items
    assert listed.job_id == plan.job_id


def test_one_key_makes_one_generation(engine: Engine, project: Project, engineer: User) -> None:
    first = start(engine, project, engineer, idempotency_key="once")
    assert start(engine, project, engineer, idempotency_key="once").job_id == first.job_id
    with pytest.raises(Conflict):
        start(engine, project, engineer, idempotency_key="once", samples=3)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [BASE, BASE]}, "sources"),
        ({"sources": [AnswerSource.base("../../etc")]}, "sources"),
        ({"samples": 0}, "samples"),
        ({"samples": 17}, "samples"),
        ({"samples": 1}, "samples"),
        ({"pairing": Pairing.ACROSS}, "pairing"),
        ({"sampling": Sampling(temperature=0)}, "temperature"),
        ({"sampling": Sampling(top_p=0)}, "top_p"),
        ({"sampling": Sampling(max_new_tokens=0)}, "max_new_tokens"),
        ({"prompts": []}, "prompts"),
        ({"prompts": list(range(10_001))}, "limit"),
        ({"prompts": list(range(10_000)), "samples": 16}, "limit"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    engine: Engine, project: Project, engineer: User, asked: dict[str, object], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        start(engine, project, engineer, **asked)
    assert refused.value.details["field"] == field
    with read_session(engine) as session:
        assert jobs.listing(session).total == 0


def test_a_checkpoint_of_another_project_is_as_missing_as_none(
    engine: Engine, settings: Settings, project: Project, engineer: User, factory: Factory
) -> None:
    other = factory.judged(4)
    _, theirs = trained(engine, settings, other, engineer)
    said = []
    for number in (theirs.id, 999):
        with pytest.raises(NotFound) as missing:
            start(engine, project, engineer, sources=[AnswerSource.checkpoint(number)])
        said.append(missing.value.what.replace(str(number), "N"))
    assert said[0] == said[1]
    plan = start(engine, other, engineer, sources=[BASE, AnswerSource.checkpoint(theirs.id)], pairing=Pairing.ACROSS)
    assert plan.sources[1] == {
        "kind": "checkpoint",
        "name": f"checkpoint {theirs.id} of run {theirs.job_id}",
        "id": theirs.id,
    }


@pytest.mark.parametrize("missing", [AnswerSource.endpoint("gone"), AnswerSource.checkpoint(999)])
def test_given_prompts_are_not_kept_where_a_source_is_missing(
    engine: Engine, project: Project, engineer: User, missing: AnswerSource
) -> None:
    with read_session(engine) as session:
        before = session.scalar(select(func.count(Prompt.id)))
    order = Order(sources=[missing], samples=2, pairing=Pairing.ROUND_ROBIN, given=["Nobody asked this before."])
    with pytest.raises((NotFound, Invalid), match="There is no"):
        generations.begin(engine, project=project, by_id=engineer.id, order=order)
    with read_session(engine) as session:
        assert session.scalar(select(func.count(Prompt.id))) == before


def test_base_models_are_looked_for_before_the_transaction(settings: Settings, tiny: str) -> None:
    generations.require(settings, [AnswerSource.base(tiny)])
    with pytest.raises(Invalid) as refused:
        generations.require(settings, [AnswerSource.base("missing")])
    assert refused.value.details["field"] == "sources"


def test_an_evaluation_asks_its_own_prompts_in_its_own_order(
    engine: Engine, settings: Settings, factory: Factory, engineer: User
) -> None:
    project = factory.judged(4)
    _, checkpoint = trained(engine, settings, project, engineer)
    with write_session(engine) as session:
        ids = sorted(session.scalars(Prompt.__table__.select().with_only_columns(Prompt.id)), reverse=True)
        evaluation = Evaluation(
            project_id=project.id, number=1, checkpoint_id=checkpoint.id, opponent_model="tiny", goal="superiority",
            margin=5.0, maximum=4, prompts={}, sampling={}, seed=1, plan_sha256="0" * 64,
        )  # fmt: skip
        session.add(evaluation)
        session.flush()
        session.add_all(
            EvaluationPair(evaluation_id=evaluation.id, place=place, prompt_id=prompt_id)
            for place, prompt_id in enumerate(ids)
        )
        session.flush()
        plan = generations.start(
            session,
            project=session.merge(project),
            by=session.merge(engineer),
            sources=[AnswerSource.checkpoint(checkpoint.id), BASE],
            sampling=Sampling(temperature=0, max_new_tokens=8),
            purpose=Purpose.EVALUATION,
            evaluation_id=evaluation.id,
        )
    assert (plan.samples, plan.pairing, plan.prompts["ids"]) == (1, Pairing.NONE, ids)
    assert plan.evaluation_id == evaluation.id


def test_a_job_of_another_kind_is_no_generation(engine: Engine) -> None:
    with read_session(engine) as session, pytest.raises(NotFound):
        generations.get(session, 1)


def test_given_prompts_name_themselves(engine: Engine, project: Project, engineer: User) -> None:
    ids = prompts.store(engine, project_id=project.id, given=prompts.read_given(["One?", "Two?"]))
    assert start(engine, project, engineer, prompts=ids, rule=None).prompts == {"of": From.GIVEN, "ids": ids}


def test_errors_are_of_ours() -> None:
    with pytest.raises(PrefloopError):
        Sampling.of({"temperature": "hot"})
