"""Rows that nothing names go; rows that anything names stay."""

from sqlalchemy import Engine, select

from app.db import read_session, write_session
from app.models import Prompt, PromptKey, Response
from app.services.loop.removal import unused
from tests.factory import Factory


def test_only_what_nothing_names_goes(engine: Engine, factory: Factory) -> None:
    project = factory.project()
    pair = factory.comparison(project)
    with write_session(engine) as session:
        spare = Prompt(project_id=project.id, content_hash="0" * 64, messages=[], split=pair_split(session))
        session.add(spare)
        session.flush()
        session.add(Response(prompt_id=spare.id, content_hash="1" * 64, text="x", characters=1, words=1))
        session.add(PromptKey(project_id=project.id, key=5, prompt_id=spare.id, fingerprint=0))
        session.flush()
        spare_id = spare.id
        unused.drop_prompts(session, project.id, {spare_id, pair.prompt_id}, {spare_id: {5}})
        assert session.get(Prompt, spare_id) is not None, "its answer names it"
        unused.drop(session, Response, set(session.scalars(select(Response.id))))
        unused.drop_prompts(session, project.id, {spare_id, pair.prompt_id}, {spare_id: {5}})
    with read_session(engine) as session:
        assert session.scalars(select(Prompt.id)).all() == [pair.prompt_id]
        assert len(session.scalars(select(Response.id)).all()) == 2
        assert spare_id not in session.scalars(select(PromptKey.prompt_id)).all()


def pair_split(session: object) -> str:
    return session.scalars(select(Prompt.split)).first()  # type: ignore[attr-defined]


def test_what_prompts_are_filed_under_is_known_by_their_text(engine: Engine, factory: Factory) -> None:
    project = factory.project()
    pair = factory.comparison(project, prompt="How do I find the way to the end of the universe from here?")
    with read_session(engine) as session:
        keys = unused.prompt_keys(session, [pair.id])[pair.prompt_id]
        filed = session.scalars(select(PromptKey.key)).all()
    assert filed and set(filed) <= set(keys)
