"""A run that starts from a checkpoint: what it takes over, and what is refused before anything is queued."""

from typing import Any

import pytest
from sqlalchemy import Engine, update

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import Checkpoint, Project, TrainingRun, User
from app.services.loop.evaluating import sides
from app.services.training import checkpoints, parents, runs
from app.services.training.parents import Parent
from tests.factory import Factory
from tests.pretend_worker import prepare_model
from tests.services.training.trained import trained, trained_from

WHOLE = {"model.safetensors": b"weights", "config.json": b"{}", "prefloop.json": b"{}"}


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory, engineer: User) -> Project:
    return factory.judged(4, eval_percent=0)


@pytest.fixture
def checkpoint(engine: Engine, settings: Settings, project: Project, engineer: User) -> Checkpoint:
    return trained(engine, settings, project, engineer)[1]


def found(engine: Engine, checkpoint: Checkpoint) -> Parent:
    with read_session(engine) as session:
        return parents.find(session, checkpoint.id)


def shaped(engine: Engine, checkpoint: Checkpoint, **config: Any) -> Parent:
    """The parent whose run had these settings."""
    with write_session(engine) as session:
        run = session.get_one(TrainingRun, checkpoint.job_id)
        run.config = run.config | config
    return found(engine, checkpoint)


def test_it_takes_over_base_model_and_adapter(
    engine: Engine, settings: Settings, factory: Factory, project: Project, engineer: User, checkpoint: Checkpoint
) -> None:
    shaped(engine, checkpoint, lora_r=3, lora_target_modules="q_proj")
    factory.comparison(project)
    assert factory.judge(project, engineer)
    run, child = trained_from(engine, settings, project, engineer, checkpoint)
    with read_session(engine) as session:
        row, made = runs.get(session, run.job_id), checkpoints.get(session, child.id)
        chosen = sides.resolve(session, checkpoint_id=child.id, opponent="parent")
        based = sides.resolve(session, checkpoint_id=child.id, opponent="base")
    assert (row.base_model, row.parent_id, made.run.parent_id) == ("tiny", checkpoint.id, checkpoint.id)
    assert (row.config["lora_r"], row.config["lora_target_modules"]) == (3, "q_proj")
    assert made.provenance["parent"]["checkpoint"] == checkpoint.id
    assert made.provenance["parent"]["weights"] == parents.weights(checkpoints_with_files(engine, checkpoint))
    assert chosen.opponent is not None and chosen.opponent.id == checkpoint.id, "its parent is the opponent"
    assert (based.opponent, based.model) == (None, "tiny")


def checkpoints_with_files(engine: Engine, checkpoint: Checkpoint) -> Checkpoint:
    with read_session(engine) as session:
        return checkpoints.get(session, checkpoint.id)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_r": 8}, "has “LoRA rank” 4, and “LoRA rank” 8 was asked for"),
        ({"lora_r": 0}, "and “LoRA rank” 0 was asked for"),
        ({"lora_alpha": 7}, "has “LoRA alpha” 32"),
        ({"lora_target_modules": "q_proj"}, "LoRA targets"),
        ({"beta": -1}, "beta"),
    ],
)
def test_another_adapter_than_the_parent_s_is_refused_in_words(
    given: dict[str, Any], said: str, engine: Engine, checkpoint: Checkpoint
) -> None:
    parent = shaped(engine, checkpoint, lora_r=4)
    with pytest.raises(Invalid, match=said) as refused:
        parent.config(given)
    assert refused.value.details["setting"] == next(iter(given))


def test_what_it_says_of_the_adapter_itself_may_be_repeated(engine: Engine, checkpoint: Checkpoint) -> None:
    parent = shaped(engine, checkpoint, lora_r=4)
    assert parent.config({"lora_r": "4", "beta": 0.3})["beta"] == 0.3


def test_a_whole_model_is_trained_wholly(engine: Engine, settings: Settings, project: Project, engineer: User) -> None:
    _, checkpoint = trained(engine, settings, project, engineer, WHOLE)
    parent = found(engine, checkpoint)
    assert not parent.is_adapter and parent.config({})["lora_r"] == 0
    with pytest.raises(Invalid, match="is a whole model, of which all is trained, and “LoRA rank” 16 was asked for"):
        parent.config({"lora_r": 16})


def test_another_base_model_is_refused(engine: Engine, settings: Settings, checkpoint: Checkpoint) -> None:
    parent = found(engine, checkpoint)
    assert parent.base("") == parent.base(" tiny ") == "tiny"
    with pytest.raises(Invalid, match="was trained on tiny, and a run from it on other was asked for"):
        parent.base("other")
    parents.require(settings, parent)
    prepare_model(settings, weights_sha256="cc" * 32)
    with pytest.raises(Invalid, match="trained on other weights than tiny has now"):
        parents.require(settings, parent)


def test_a_base_model_that_is_gone_is_named(engine: Engine, settings: Settings, checkpoint: Checkpoint) -> None:
    with write_session(engine) as session:
        session.execute(update(TrainingRun).values(base_model="gone"))
    with pytest.raises(Invalid, match="gone"):
        parents.require(settings, found(engine, checkpoint))


def test_new_pairs_need_a_checkpoint_that_they_are_new_to_and_a_checkpoint_must_be_there(engine: Engine) -> None:
    with pytest.raises(Invalid, match="no checkpoint that they are new to"):
        runs.rule_for(None, parent=None, new_pairs_only=True)
    with read_session(engine) as session, pytest.raises(NotFound, match="no checkpoint 99"):
        parents.find(session, 99)


def test_one_key_with_and_without_a_parent_is_a_conflict(
    engine: Engine, factory: Factory, project: Project, engineer: User, checkpoint: Checkpoint
) -> None:
    parent, wanted = found(engine, checkpoint), {"base_model": "tiny", "config": {}, "idempotency_key": "once"}
    snapshot = factory.snapshot(project)
    for start in (parent, parent):
        with write_session(engine) as session:
            by = session.merge(engineer)
            run = runs.create(session, snapshot=session.merge(snapshot), by=by, parent=start, **wanted)
            assert run.parent_id == checkpoint.id
    with write_session(engine) as session, pytest.raises(Conflict):
        runs.create(session, snapshot=session.merge(snapshot), by=session.merge(engineer), **wanted)
