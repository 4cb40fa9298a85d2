"""Which prompts a generation asks, and prompts that somebody gives."""

import io

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import Project, Prompt, Split
from app.services.collecting.imports import load
from app.services.loop.generating import prompts
from app.services.loop.generating.prompts import From, Rule
from tests.factory import Factory


def chosen(engine: Engine, project: Project, **rule: object) -> list[int]:
    with read_session(engine) as session:
        return prompts.choose(session, project=project, rule=Rule(**rule))


def test_a_choice_is_random_bounded_and_stays_the_same(engine: Engine, factory: Factory) -> None:
    project, other = factory.project(), factory.project()
    factory.comparisons(project, 12)
    factory.comparisons(other, 3)
    every = chosen(engine, project)
    assert len(set(every)) == 12
    assert every != sorted(every)
    assert chosen(engine, project, limit=5) == every[:5]
    turned = chosen(engine, project, seed=11)
    assert sorted(turned) == sorted(every)
    assert turned[0] != every[0]


def test_a_split_gives_its_own(engine: Engine, factory: Factory) -> None:
    project = factory.project(eval_percent=50)
    factory.comparisons(project, 12)
    train, held_out = chosen(engine, project, of=From.TRAIN), chosen(engine, project, of=From.EVAL)
    assert train
    assert held_out
    with read_session(engine) as session:
        splits = dict(session.execute(select(Prompt.id, Prompt.split)).tuples().all())
    assert {splits[one] for one in train} == {Split.TRAIN}
    assert sorted([*train, *held_out]) == sorted(splits)


def test_an_import_gives_its_prompts_each_once(engine: Engine, settings: Settings, factory: Factory) -> None:
    project, by = factory.project(), factory.engineer()
    factory.comparison(project)
    lines = b"".join(
        b'{"prompt": "%s?", "responses": ["Aye %d.", "No %d."]}\n' % (question, number, number)
        for number, question in enumerate((b"One", b"Two", b"One"))
    )
    row = load.load(
        engine, project_id=project.id, user_id=by.id, stream=io.BytesIO(lines), filename="a.jsonl", settings=settings
    )
    ids = chosen(engine, project, of=From.IMPORT, import_id=row.id)
    with read_session(engine) as session:
        texts = [told[-1]["content"] for told in prompts.messages_of(session, ids=ids).values()]
    assert texts == ["One?", "Two?"]
    assert chosen(engine, factory.project(), of=From.IMPORT, import_id=row.id) == []


@pytest.mark.parametrize("limit", [0, 10_001])
def test_a_limit_out_of_bounds_is_refused(engine: Engine, factory: Factory, limit: int) -> None:
    with pytest.raises(Invalid):
        chosen(engine, factory.project(), limit=limit)


def test_given_prompts_are_stored_once_with_their_split(engine: Engine, factory: Factory) -> None:
    project = factory.project(eval_percent=50)
    given = prompts.read_given(["One?", [{"role": "user", "content": "Two?"}], "One?"])
    ids = prompts.store(engine, project_id=project.id, given=given)
    assert len(ids) == 2
    assert prompts.store(engine, project_id=project.id, given=given) == ids
    factory.comparison(project, prompt="One?")
    with write_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Prompt)) == 2
    assert sorted(chosen(engine, project)) == sorted(ids)


def test_near_duplicates_of_given_prompts_share_their_split(engine: Engine, factory: Factory) -> None:
    project = factory.project(eval_percent=50)
    text = (
        "Please tell me in which year the tower of the old town hall of this city was built, and by whom it was built."
    )
    given = prompts.read_given([text, text.replace("Please tell", "please  tell")])
    first, second = prompts.store(engine, project_id=project.id, given=given)
    with read_session(engine) as session:
        one, other = session.get_one(Prompt, first), session.get_one(Prompt, second)
    assert one.group_id == other.group_id is not None
    assert one.split is other.split


def test_a_prompt_that_is_none_is_named_by_its_number() -> None:
    with pytest.raises(Invalid, match="Prompt 2"):
        prompts.read_given(["One?", "  "])


def test_prompts_that_are_kept_for_evaluations_are_left_alone(engine: Engine, factory: Factory) -> None:
    project = factory.project()
    ids = prompts.store(engine, project_id=project.id, given=prompts.read_given(["One?", "Two?"]))
    with write_session(engine) as session:
        session.get_one(Prompt, ids[0]).split = Split.KEPT
    assert chosen(engine, project) == [ids[1]]
    with read_session(engine) as session:
        assert prompts.without_kept(session, ids=ids) == [ids[1]]
