"""Guidelines: each change a version, however many people save at once."""

from concurrent.futures import ThreadPoolExecutor

from app.db import read_session, write_session
from app.models import Project, User
from app.services.collecting import guidelines
from tests.factory import Factory


def write(factory: Factory, project: Project, text: str) -> int:
    with write_session(factory.engine) as session:
        row = session.get_one(Project, project.id)
        return guidelines.write(session, project=row, text=text, by=session.get_one(User, row.created_by_id)).version


def test_guidelines_keep_every_version(factory: Factory) -> None:
    project = factory.project()
    assert [write(factory, project, text) for text in ("Be kind.", "Be kind.", "Be brief.")] == [2, 2, 3]
    with read_session(factory.engine) as session:
        row = session.get_one(Project, project.id)
        texts = [guidelines.get(session, project=row, version=version) for version in (1, 2, 3, None, 4)]
    assert [text and text.text for text in texts] == [
        "Pick the shorter answer.",
        "Be kind.",
        "Be brief.",
        "Be brief.",
        None,
    ]


def test_people_who_save_guidelines_at_once_each_get_a_version(factory: Factory) -> None:
    project = factory.project()
    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(lambda number: write(factory, project, f"Version by person {number}."), range(6)))
    assert sorted(versions) == [2, 3, 4, 5, 6, 7]


def test_a_byte_order_mark_is_no_part_of_the_text(factory: Factory) -> None:
    """Case 173."""
    project = factory.project()
    write(factory, project, "\ufeff# Title\n")
    with read_session(factory.engine) as session:
        current = guidelines.get(session, project=session.get_one(Project, project.id))
        assert current is not None and current.text == "# Title\n"
