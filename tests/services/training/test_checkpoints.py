"""Checkpoints: which files belong to one, and where each says that it comes from."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid, NotFound
from app.models import Project, User
from app.services.collecting import guidelines, projects
from app.services.training import checkpoints
from tests.factory import Factory
from tests.services.training.trained import trained


@pytest.fixture
def engineer(factory: Factory) -> User:
    return factory.engineer()


@pytest.fixture
def project(factory: Factory) -> Project:
    return factory.judged(8, eval_percent=0)


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "chat_template.jinja", "runs/events.out.tfevents.1", "README.md"]
)
def test_weights_texts_and_curves_are_offered(name: str) -> None:
    assert checkpoints.is_offered(name)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "optimizer.pt", ".hidden.json", "runs/../secret.json", "a/b.json", "x.safetensors.tmp", ""],
)
def test_pickles_hidden_files_and_files_elsewhere_are_not(name: str) -> None:
    assert not checkpoints.is_offered(name)


def test_a_checkpoint_keeps_the_chain_that_it_comes_from(
    engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    run, made = trained(engine, settings, project, engineer)
    with read_session(engine) as session:
        checkpoint = checkpoints.get(session, made.id)
    chain = checkpoint.provenance
    assert chain["project"] == {
        "slug": project.slug,
        "name": project.name,
        "guideline_version": project.guideline_version,
    }
    assert chain["snapshot"]["sha256"] == run.snapshot.sha256
    assert chain["base_model"]["weights_sha256"] == "b7" * 32
    assert (chain["job"]["id"], chain["started_by"], chain["seed"]) == (run.job_id, engineer.username, 42)
    assert checkpoint.metrics["after"] and checkpoint.metrics["before"]
    assert checkpoints.size(checkpoint) == sum(file.size for file in checkpoint.files) > 7000
    assert checkpoints.folder_name(checkpoint) == f"{project.slug}-checkpoint-{checkpoint.id}"


def test_the_guidelines_are_those_that_people_judged_by(
    engine: Engine, settings: Settings, factory: Factory, engineer: User
) -> None:
    project = factory.judged(8, eval_percent=0)
    with write_session(engine) as session:
        row = projects.get(session, project.slug)
        newer = guidelines.write(session, project=row, text="Be brief.", by=session.merge(engineer))
    assert newer.version == 2
    _, made = trained(engine, settings, project, engineer)
    assert made.provenance["project"]["guideline_version"] == 1


def test_a_projects_checkpoints_are_listed_newest_first(
    engine: Engine, settings: Settings, project: Project, factory: Factory, engineer: User
) -> None:
    _, first = trained(engine, settings, project, engineer)
    _, second = trained(engine, settings, project, engineer)
    other = factory.project()
    with read_session(engine) as session:
        assert [row.id for row in checkpoints.listing(session, project=project).items] == [second.id, first.id]
        assert checkpoints.listing(session, project=other).items == []


def test_a_file_is_known_by_its_exact_name(
    engine: Engine, settings: Settings, project: Project, engineer: User
) -> None:
    _, made = trained(engine, settings, project, engineer)
    with read_session(engine) as session:
        assert checkpoints.file(session, checkpoint_id=made.id, name="README.md")[1].size > 0
        for name in ("readme.md", "../README.md", ""):
            with pytest.raises(NotFound):
                checkpoints.file(session, checkpoint_id=made.id, name=name)
        with pytest.raises(NotFound):
            checkpoints.get(session, 2**40)


@pytest.mark.parametrize("text", [None, "", "{", "[]"], ids=["no file", "empty", "cut off", "a list"])
def test_a_folder_without_its_record_is_not_a_checkpoint(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / checkpoints.FACTS).write_text(text)
    with pytest.raises(Invalid, match="without a whole checkpoint"):
        checkpoints.read_facts(tmp_path)
