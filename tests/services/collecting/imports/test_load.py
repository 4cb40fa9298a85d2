"""Imports: streams of every kind into a project, in batches that stay."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, func, select, text

from app.bulk import AT_ONCE
from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import (
    Choice,
    Comparison,
    Import,
    ImportState,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    Slot,
    SlotState,
    User,
)
from app.models.base import now
from app.services.collecting import judgments
from app.services.collecting.desk import show_next
from app.services.collecting.imports import load as imports
from app.services.collecting.imports import mapping
from tests.conftest import ROOT
from tests.factory import Factory


def load(
    factory: Factory, project: Project, data: bytes | Path, user: User | None = None, settings: Settings | None = None
) -> Import:
    stream = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
    with stream:
        return imports.load(
            factory.engine,
            project_id=project.id,
            user_id=(user or factory.engineer()).id,
            stream=stream,
            filename="pairs.jsonl",
            settings=settings or factory.settings,
        )


def rows(objects: Iterable[object]) -> bytes:
    return "\n".join(json.dumps(row) for row in objects).encode()


def waiting(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"Question {number}?", "responses": [f"Yes, {number}.", f"No, {number}."]} for number in range(count)
    ]


def test_real_transcripts_come_in_with_every_refusal_explained(factory: Factory, hh_file: Path) -> None:
    project, user = factory.project(), factory.engineer()
    row = load(factory, project, hh_file, user)
    assert (row.state, row.lines, row.added, row.judged, row.duplicates, row.rejected) == (
        ImportState.DONE,
        1156,
        1149,
        1149,
        0,
        7,
    )
    assert Counter(bad["reason"] for bad in row.rejections) == {"empty_answer": 2, "differs_before_last_turn": 5}
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Slot.id)).where(Slot.state == SlotState.DONE)) == 1149
        assert set(session.scalars(select(Judgment.source).distinct())) == {JudgmentSource.IMPORT}
        roles = {
            tuple(message["role"] for message in messages)[-1] for messages in session.scalars(select(Prompt.messages))
        }
    assert roles == {"user"}
    again = load(factory, project, hh_file, user)
    assert (again.added, again.judged, again.duplicates, again.rejected) == (0, 0, 1149, 7)
    other = load(factory, project, hh_file, factory.engineer())
    assert (other.added, other.judged, other.duplicates) == (0, 0, 1149)


def test_content_that_is_there_is_counted_and_not_stored_twice(factory: Factory) -> None:
    project = factory.project()
    pairs = waiting(5)
    turned = [
        {"prompt": pair["prompt"], "response_a": pair["responses"][1], "response_b": pair["responses"][0]}
        for pair in pairs
    ]  # type: ignore[index]
    row = load(factory, project, rows([*pairs, *pairs[:2], *turned]))
    assert (row.added, row.duplicates, row.lines) == (5, 7, 12)
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Comparison.id))) == 5


def test_a_judged_line_judges_a_pair_that_waits(factory: Factory) -> None:
    project = factory.project()
    load(factory, project, rows(waiting(2)))
    row = load(factory, project, rows([{"prompt": "Question 0?", "chosen": "No, 0.", "rejected": "Yes, 0."}]))
    assert (row.added, row.duplicates, row.judged) == (0, 1, 1)
    with read_session(factory.engine) as session:
        assert session.scalars(select(Judgment.choice)).all() == [Choice.SECOND]
        assert session.scalar(select(func.count(Slot.id)).where(Slot.state == SlotState.OPEN)) == 1


def test_a_contradiction_is_refused_in_a_file_and_between_files(factory: Factory) -> None:
    project = factory.project()
    one, turned = ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": "Q", "chosen": "B", "rejected": "A"})
    row = load(factory, project, rows([one, one, turned]))
    assert (row.added, row.judged, row.duplicates, row.rejected) == (1, 1, 1, 1)
    assert row.rejections == [{"line": 3, "reason": "contradicts_earlier", "message": row.rejections[0]["message"]}]
    assert load(factory, project, rows([turned])).rejected == 1


def test_an_imported_judgment_takes_the_pair_that_its_importer_holds(factory: Factory) -> None:
    project, user = factory.project(), factory.engineer()
    factory.comparison(project, prompt="Q", answers=("A", "B"))
    with write_session(factory.engine) as session:
        held = show_next(session, project=session.merge(project), user=session.merge(user))
    assert held and load(factory, project, rows([{"prompt": "Q", "chosen": "A", "rejected": "B"}]), user).judged == 1
    with read_session(factory.engine) as session:
        slot = session.scalars(select(Slot)).one()
    assert (slot.state, slot.holder_id, slot.lease_token) == (SlotState.DONE, user.id, None)
    with write_session(factory.engine) as session:
        assert show_next(session, project=session.merge(project), user=session.merge(user)) is None
        later = judgments.record(session, token=held.token, user=session.merge(user), choice="tie")
    with read_session(factory.engine) as session:
        assert [row.id for row in session.scalars(select(Judgment).where(~Judgment.superseded))] == [later.id]


def test_an_imported_judgment_takes_a_place_whose_lease_ran_out(factory: Factory) -> None:
    project, slow = factory.project(lease_seconds=60), factory.user()
    factory.comparison(project, prompt="Q", answers=("A", "B"))
    held = factory.shown(project, slow, now=now() - timedelta(seconds=61))
    load(factory, project, rows([{"prompt": "Q", "chosen": "A", "rejected": "B"}]))
    assert held and factory.record(held.token, slow).late


def test_an_imported_judgment_is_kept_where_others_have_every_place(factory: Factory) -> None:
    project, other = factory.project(), factory.user()
    factory.comparison(project, prompt="Q", answers=("A", "B"))
    held = factory.shown(project, other)
    assert load(factory, project, rows([{"prompt": "Q", "chosen": "A", "rejected": "B"}])).judged == 1
    assert held and not factory.record(held.token, other).late
    with read_session(factory.engine) as session:
        filled = session.execute(select(Judgment.source, Judgment.slot_id.is_not(None)).order_by(Judgment.id)).tuples()
        assert list(filled) == [(JudgmentSource.IMPORT, False), (JudgmentSource.WEB, True)]


def test_every_wanted_judgment_but_the_imported_one_stays_open(factory: Factory) -> None:
    project = factory.project(judgments_per_comparison=3)
    load(factory, project, rows([{"prompt": "Q", "chosen": "A", "rejected": "B"}]))
    assert factory.judge(project, factory.user(), "left") and factory.judge(project, factory.user(), "left")
    assert factory.judge(project, factory.user(), "left") is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + rows(waiting(3)),
        rows(waiting(3)).replace(b"\n", b"\r\n") + b"\r\n",
        rows(waiting(3)).replace(b"\n", b"\n\n \n"),
        gzip.compress(rows(waiting(3))),
        gzip.compress(b"\xef\xbb\xbf" + rows(waiting(3))),
        gzip.compress(rows(waiting(2)) + b"\n") + gzip.compress(rows(waiting(3)[2:])) + b"\0" * 64,
    ],
    ids=["bom", "crlf", "blank lines", "gzip", "gzip with bom", "two gzip members"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_files_of_every_make_are_read(factory: Factory, data: bytes) -> None:
    row = load(factory, factory.project(), data)
    assert (row.state, row.lines, row.added, row.rejected) == (ImportState.DONE, 3, 3, 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PAR1" + b"\0" * 100, "Parquet"),
        (b"PK\x03\x04" + b"\0" * 100, "ZIP"),
        (rows(waiting(1)).decode().encode("utf-16"), "UTF-16"),
        (gzip.compress(rows(waiting(1)))[:10] + b"\xff" * 40, "damaged"),
        (b"nonsense\n" * 9, "begins with “nonsense”"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"".join(rows([row]) for row in waiting(3)), "--data-binary"),
        (b"", "no lines"),
        (b"\n\n", "no lines"),
    ],
    ids=["Parquet", "ZIP", "UTF-16", "damaged gzip", "words", "Git LFS", "curl -d", "empty", "blank lines"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_of_another_kind_fails_with_its_reason(factory: Factory, data: bytes, words: str) -> None:
    row = load(factory, factory.project(), data)
    assert row.state is ImportState.FAILED and words in row.error and row.finished_at


def test_a_cut_off_gzip_keeps_what_was_read(factory: Factory) -> None:
    project = factory.project()
    packed = gzip.compress(rows(waiting(3000)))
    row = load(factory, project, packed[:-2000])
    assert row.state is ImportState.FAILED and "cut off" in row.error and 1000 < row.added < 3000
    assert row.rejected == 0  # half a line isn't a line
    whole = load(factory, project, packed)
    assert (whole.state, whole.added, whole.duplicates) == (ImportState.DONE, 3000 - row.added, row.added)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_small_file_that_unpacks_to_a_huge_one_is_stopped(factory: Factory) -> None:
    bomb = gzip.compress(rows(waiting(2)) + b"\n" + b" " * 50_000_000)
    row = load(
        factory, factory.project(), bomb, settings=factory.settings.model_copy(update={"max_import_bytes": 1_000_000})
    )
    assert row.state is ImportState.FAILED and "1,000,000 bytes" in row.error
    assert row.added == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_line_that_is_too_long_is_refused_and_the_next_one_read(factory: Factory) -> None:
    long = {"prompt": "x" * 2000, "responses": ["a", "b"]}
    row = load(
        factory,
        factory.project(),
        rows([waiting(1)[0], long, waiting(2)[1], long]),
        settings=factory.settings.model_copy(update={"max_line_bytes": 1024}),
    )
    assert row.added == 2
    assert [(bad["line"], bad["reason"]) for bad in row.rejections] == [(2, "too_long"), (4, "too_long")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_of_which_nothing_is_accepted_fails_and_is_not_read_to_its_end(factory: Factory) -> None:
    row = load(factory, factory.project(), b'{"prompt": 5}\n' * 2200)
    assert (row.lines, row.rejected, len(row.rejections), row.state) == (1000, 1000, 1000, ImportState.FAILED)
    assert [bad["line"] for bad in row.rejections] == list(range(1, 1001))
    assert "all refused" in row.error and "Line 1:" in row.error
    few = load(factory, factory.project(), b'{"prompt": 5}\n{"prompt": 6}\n')
    assert (few.state, few.lines) == (ImportState.FAILED, 2) and few.error.startswith("No line was accepted.")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_thousands_of_bad_lines_after_a_good_one_are_counted_and_the_first_thousand_told(factory: Factory) -> None:
    row = load(factory, factory.project(), rows(waiting(1)) + b"\n" + b"nonsense\n" * 1700)
    assert (row.lines, row.rejected, len(row.rejections), row.state) == (1701, 1700, 1000, ImportState.DONE)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_import_stops_where_it_is_asked_to(factory: Factory) -> None:
    project, user = factory.project(), factory.engineer()

    def press(row: Import) -> None:
        with write_session(factory.engine) as session:
            imports.stop(session, row=imports.get(session, row.id), by=user)

    row = imports.load(
        factory.engine,
        project_id=project.id,
        user_id=user.id,
        stream=io.BytesIO(rows(waiting(3000))),
        filename="x",
        settings=factory.settings,
        progress=press,
    )
    assert (
        row.state is ImportState.FAILED and row.error.startswith("It was stopped after") and row.added in (1000, 2000)
    )
    assert load(factory, project, rows(waiting(3000)), user).added == 3000 - row.added


def test_every_column_is_told_of_with_what_it_became(factory: Factory) -> None:
    data = rows(
        [{"frage": f"Q{number}?", "gut": "A", "schlecht": "B", "note": "n", "nichts": None} for number in range(3)]
    )
    project = factory.project()
    refused = load(factory, project, data)
    assert refused.state is ImportState.FAILED and "`frage`" in refused.error
    given = {"frage": "prompt", "gut": "chosen", "schlecht": "rejected"}
    row = imports.load(
        factory.engine,
        project_id=project.id,
        user_id=factory.engineer().id,
        stream=io.BytesIO(data),
        filename="x",
        settings=factory.settings,
        given=given,
    )
    assert (row.added, row.judged, row.mapping) == (3, 3, given)
    assert row.report.columns == {
        "frage": {"prompt": 3},
        "gut": {"chosen": 3},
        "schlecht": {"rejected": 3},
        "note": {"left_out": 3},
        "nichts": {"empty": 3},
    }
    assert row.report.recognised == (
        "Read as `frage` → prompt; `gut` → chosen answer; `schlecht` → rejected answer; left out: `note`."
    )
    again = load(factory, project, data)  # what was said is kept for the next file with these columns
    assert (again.state, again.duplicates, again.mapping) == (ImportState.DONE, 3, given)
    other = load(factory, factory.project(), data)
    assert other.state is ImportState.FAILED


def test_a_line_with_many_answers_is_many_pairs(factory: Factory) -> None:
    row = load(factory, factory.project(), rows([{"prompt": "Q", "responses": ["A", "B", "C", "D"]}]))
    assert (row.lines, row.added, row.judged) == (1, 6, 0)


def test_a_mapping_that_cannot_be_is_refused_before_anything_is_stored(factory: Factory) -> None:
    with pytest.raises(Invalid, match="can't become"):
        mapping.checked({"a": "everything"})
    with pytest.raises(Invalid, match="COLUMN=ROLE"):
        mapping.parsed(["prompt"])
    assert mapping.parsed(["a=b=prompt"]) == {"a=b": "prompt"}


def test_progress_is_told_and_stored_while_it_runs(factory: Factory) -> None:
    seen = []
    project = factory.project()

    def watch(row: Import) -> None:
        with read_session(factory.engine) as session:
            stored = imports.get(session, row.id)
        seen.append((stored.state, stored.added))

    imports.load(
        factory.engine,
        project_id=project.id,
        user_id=factory.engineer().id,
        stream=io.BytesIO(rows(waiting(1200))),
        filename="/tmp/\nä.jsonl",
        settings=factory.settings,
        progress=watch,
    )
    assert seen == [(ImportState.RUNNING, 1000), (ImportState.RUNNING, 1200)]
    with read_session(factory.engine) as session:
        (row,) = imports.listing(session, project=project)
    assert row.state is ImportState.DONE and row.filename == "/tmp/ä.jsonl"


def test_a_reader_that_fails_leaves_a_failed_import_with_its_good_lines(factory: Factory) -> None:
    class Broken(io.RawIOBase):
        sent = False

        def read(self, size: int = -1) -> bytes:
            if self.sent:
                raise OSError("the sender went away")
            self.sent = True
            return rows(waiting(3)) + b"\n{"

    row = imports.load(
        factory.engine,
        project_id=factory.project().id,
        user_id=factory.engineer().id,
        stream=Broken(),
        filename="",
        settings=factory.settings,
    )
    assert (row.state, row.added) == (ImportState.FAILED, 3) and "went away" in row.error


KILLED = """
import os, signal, sys
from app.config import get_settings
from app.db import get_engine
from app.services.collecting.imports import load as imports
def stop(row):
    if row.added >= 1000:
        os.kill(os.getpid(), signal.SIGKILL)
imports.load(get_engine(), project_id=int(sys.argv[1]), user_id=int(sys.argv[2]), stream=open(sys.argv[3], "rb"), filename="x",
             settings=get_settings(), progress=stop)
"""


def test_an_import_that_was_killed_can_be_run_again(factory: Factory, tmp_path: Path) -> None:
    project, user = factory.project(), factory.engineer()
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(rows(waiting(2200)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(project.id), str(user.id), str(path)],
        cwd=ROOT,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with read_session(factory.engine) as session:
        (dead,) = imports.listing(session, project=project)
    assert dead.state is ImportState.RUNNING and dead.added == 1000
    assert not imports.is_stalled(dead) and imports.is_stalled(dead, now=now() + 2 * imports.STALLED_AFTER)
    again = load(factory, project, path, user)
    assert (again.state, again.added, again.duplicates) == (ImportState.DONE, 1200, 1000)
    with read_session(factory.engine) as session:
        assert session.scalar(select(func.count(Slot.id))) == 2200


def kept(factory: Factory, project: Project) -> tuple[int, int, int, int]:
    """How many prompts, comparisons, slots and judgments a project has."""
    with read_session(factory.engine) as session:
        return tuple(  # type: ignore[return-value]
            session.scalar(select(func.count(kind.id)).where(kind.project_id == project.id))
            for kind in (Prompt, Comparison, Slot, Judgment)
        )


def test_files_that_are_read_at_once_into_one_project_double_nothing(factory: Factory) -> None:
    """Whoever looked before another one's batch was stored looks again."""
    project, pairs = factory.project(judgments_per_comparison=2), waiting(1200)
    files = [rows(pairs[:900]), rows(reversed(pairs[300:])), rows(pairs[600:] + pairs[:600])]
    users = [factory.engineer() for _ in files]
    with ThreadPoolExecutor(len(files)) as pool:
        done = list(pool.map(lambda file, user: load(factory, project, file, user), files, users))
    assert kept(factory, project) == (1200, 1200, 2400, 0)
    assert sum(row.added for row in done) == 1200
    assert [row.lines for row in done] == [900, 900, 1200]


def test_judged_and_waiting_lines_in_one_batch_fill_the_slots_that_they_should(factory: Factory) -> None:
    project, user = factory.project(judgments_per_comparison=2), factory.engineer()
    judged = [
        {"prompt": f"Question {number}?", "chosen": f"Yes, {number}.", "rejected": f"No, {number}."}
        for number in range(0, 40, 2)
    ]
    row = load(factory, project, rows([*waiting(30), *judged]), user)
    assert (row.added, row.judged, row.duplicates) == (35, 20, 15)
    assert kept(factory, project) == (35, 35, 70, 20)
    with read_session(factory.engine) as session:
        done = select(Slot.holder_id, func.count()).where(Slot.state == SlotState.DONE).group_by(Slot.holder_id)
        assert list(session.execute(done).tuples()) == [(user.id, 20)]
        judgments_in_slots = select(Judgment.slot_id).where(Judgment.slot_id.is_not(None))
        assert len(set(session.scalars(judgments_in_slots))) == 20


def test_a_batch_takes_as_many_statements_whatever_its_size(factory: Factory) -> None:
    project, user = factory.project(), factory.engineer()
    said: list[str] = []

    def heard(connection: object, cursor: object, statement: str, *others: object) -> None:
        said.append(statement)

    took: list[int] = []
    inserted: list[int] = []
    event.listen(Engine, "before_cursor_execute", heard)
    try:
        for count in (10, 400):
            mixed = [
                {"prompt": f"{count} {number}?", "chosen": "Yes.", "rejected": "No."}
                if number % 2
                else {"prompt": f"{count} {number}?", "responses": ["Yes.", "No."]}
                for number in range(count)
            ]
            said.clear()
            load(factory, project, rows(mixed), user)
            inserted.append(sum(statement.startswith("INSERT") for statement in said))
            took.append(len(said) - inserted[-1])
    finally:
        event.remove(Engine, "before_cursor_execute", heard)
    assert took[0] == took[1] > 0
    assert inserted[1] - inserted[0] <= 400 * 10 / AT_ONCE  # no pair has ten rows


@pytest.mark.parametrize("people", [True, False])
def test_who_judges_on_sqlite_waits_for_short_transactions_alone(
    factory: Factory, engine: Engine, people: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "PAIRS_BESIDE_PEOPLE", 10)
    monkeypatch.setattr(imports.writer, "people_are_here", lambda: people)
    stored: list[int] = []
    real = imports.storing.store
    monkeypatch.setattr(
        imports.storing, "store", lambda session, row, looked, outcome: (
            stored.append(len(looked.parsed)), real(session, row, looked, outcome)
        )
    )  # fmt: skip
    row = load(factory, factory.project(), rows(waiting(25)))
    assert (row.lines, row.added) == (25, 25)
    assert stored == ([10, 10, 5] if people and engine.dialect.name == "sqlite" else [25])


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_looks_at_tables_that_an_import_made_grow(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "FIRST_SIZE", 10)
    load(factory, factory.project(), rows(waiting(25)))
    with read_session(factory.engine) as session:
        known = session.execute(text("SELECT relname, reltuples FROM pg_class WHERE relkind = 'r'")).tuples()
        sizes = dict(known.all())
    assert (sizes["prompts"], sizes["responses"], sizes["comparisons"], sizes["slots"]) == (25, 50, 25, 25)
