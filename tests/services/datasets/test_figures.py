"""Figures for pages: at once for a small project, from the background with their time for a large one."""

from datetime import timedelta

import pytest

from app.db import read_session, write_session
from app.models import KeptFigures, Project
from app.models.base import now
from app.services.datasets import figures
from app.services.datasets.figures import Figures
from tests.factory import Factory
from tests.services.datasets.frozen import preview


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects of more than four comparisons are large."""
    monkeypatch.setattr(figures, "MOST_COMPARISONS", 4)


def look(factory: Factory, project: Project, after: timedelta = timedelta(0), **rule: object) -> Figures:
    with read_session(factory.engine) as session:
        return figures.look(session, project=project, rule=rule, now=now() + after)


def test_a_small_projects_figures_are_of_now(factory: Factory, large: None) -> None:
    project = factory.judged(4)
    assert look(factory, project) == Figures(preview(factory, project))


def test_a_large_projects_figures_are_computed_once_and_kept_with_their_time(factory: Factory, large: None) -> None:
    project = factory.judged(6)
    assert look(factory, project) == Figures(None, None, is_due=True)
    before = now()
    figures.refresh(factory.engine, project_id=project.id).join()
    kept = look(factory, project)
    assert kept.preview == preview(factory, project) and not kept.is_due
    assert kept.as_of is not None and kept.as_of >= before
    factory.comparison(project)
    assert look(factory, project) == kept  # of their time, and not yet due
    assert look(factory, project, timedelta(hours=1)).is_due
    assert figures.compute(factory.engine, project_id=project.id)
    again = look(factory, project)
    assert again.preview == preview(factory, project) != kept.preview


def test_rules_have_figures_of_their_own_and_the_oldest_go(
    factory: Factory, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "RULES_KEPT", 2)
    project = factory.judged(6)
    for least in (1, 2, 3):
        assert figures.compute(factory.engine, project_id=project.id, rule={"min_judgments": least})
    shown = [look(factory, project, min_judgments=least).preview for least in (1, 2, 3)]
    assert shown[0] is None
    assert [one.counts.pairs for one in shown[1:] if one] == [0, 0]


def test_one_computes_at_a_time_and_who_is_gone_keeps_nobody_waiting(factory: Factory, large: None) -> None:
    project = factory.judged(6)
    assert figures.compute(factory.engine, project_id=project.id)

    def began(ago: timedelta) -> None:
        with write_session(factory.engine) as session:
            (row,) = session.query(KeptFigures)
            row.began_at = now() - ago

    began(timedelta(minutes=1))
    assert not figures.compute(factory.engine, project_id=project.id)
    assert not figures.compute(factory.engine, project_id=project.id, rule={"soft_labels": True})
    assert not look(factory, project, timedelta(minutes=10)).is_due
    began(figures.LOST)
    assert look(factory, project, timedelta(minutes=10)).is_due
    assert figures.compute(factory.engine, project_id=project.id)


def test_one_that_fails_may_be_tried_again(factory: Factory, large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factory.judged(6)
    with monkeypatch.context() as broken:
        broken.setattr(figures.snapshots, "preview", lambda *args, **more: 1 / 0)
        figures.refresh(factory.engine, project_id=project.id).join()
        with pytest.raises(ZeroDivisionError):
            figures.compute(factory.engine, project_id=project.id)
    assert look(factory, project) == Figures(None, None, is_due=True)
    assert figures.compute(factory.engine, project_id=project.id)
