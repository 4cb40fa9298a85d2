"""How long the desk's requests take in a project of 100,000 comparisons, at the database.

    python bench/judging_speed.py [--comparisons 100000] [--database URL]

Two judgments are wanted of each. First everything is open; then one person has judged the first half alone, which
is the worst case for finding that person's next pair. Without `--database`: SQLite in a temporary folder.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.orm import Session

from app.db import make_engine, read_session, write_session
from app.models import Base, Choice, Comparison, Judgment, Project, Slot, SlotState, User
from app.services.accounts import users
from app.services.collecting import desk, judgments, listing, pairs, projects, slots
from app.services.collecting.pairs import NewPair
from app.services.datasets import snapshots
from app.storage import Storage


def timed(name: str, action: Callable[[], object], times: int = 50) -> None:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - began))
    taken.sort()
    print(f"  {name:34} median {median(taken):8.1f} ms   worst {taken[-1]:8.1f} ms", flush=True)


def fill(session: Session, project: Project, count: int) -> None:
    for start in range(0, count, 1000):
        pairs.add_many(
            session,
            project=project,
            pairs=[
                NewPair(
                    [{"role": "user", "content": f"Question {number}?"}],
                    (f"Yes {number}. " * 20, f"No {number}. " * 30),
                )
                for number in range(start, min(start + 1000, count))
            ],
        )


def judge_half(session: Session, project: Project, user: User) -> None:
    """As if this person had judged the first half of the pairs, written in bulk."""
    ids = list(
        session.scalars(select(Comparison.id).where(Comparison.project_id == project.id).order_by(Comparison.id))
    )
    ids = ids[: len(ids) // 2]
    session.execute(
        update(Slot)
        .where(Slot.project_id == project.id, Slot.ordinal == 1, Slot.comparison_id <= ids[-1])
        .values(state=SlotState.DONE, holder_id=user.id),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        insert(Judgment),
        [{"project_id": project.id, "comparison_id": row, "user_id": user.id, "choice": Choice.FIRST} for row in ids],
    )


def at_the_desk(engine: Engine, project: Project, user: User) -> None:
    def show_and_judge() -> None:
        with write_session(engine) as session:
            pair = desk.show_next(session, project=project, user=user)
            assert pair
        with write_session(engine) as session:
            judgments.record(session, token=pair.token, user=user, choice="left")

    def progress() -> None:
        with read_session(engine) as session:
            listing.progress(session, project=project, user=user)

    timed("show a pair and judge it", show_and_judge)
    timed("progress", progress, 10)


def measure(engine: Engine, count: int, folder: str) -> None:
    Base.metadata.create_all(engine)
    with write_session(engine) as session:
        ann, bo, cy = (
            users.create(session, username=name, display_name=name, role="evaluator") for name in ("ann", "bo", "cy")
        )
        project = projects.create(session, slug="bench", name="Bench", by=ann, judgments_per_comparison=2)
        fill(session, project, count)
    print(f"{engine.dialect.name}: {count:,} comparisons, all open")
    at_the_desk(engine, project, ann)
    with write_session(engine) as session:
        session.execute(update(Slot).values(slots.OPENED), execution_options={"synchronize_session": False})
        session.execute(delete(Judgment))
        judge_half(session, project, ann)
        if engine.dialect.name == "postgresql":
            session.connection().exec_driver_sql("ANALYZE")
    print("half of them judged by the same person")
    at_the_desk(engine, project, ann)
    print("the same, for somebody else")
    at_the_desk(engine, project, bo)
    with write_session(engine) as session:
        # What is left of the first round is done: all that is open is the second judgment of what Ann has judged.
        session.execute(
            update(Slot)
            .where(Slot.project_id == project.id, Slot.ordinal == 1, Slot.state != SlotState.DONE)
            .values(state=SlotState.DONE, holder_id=cy.id, **slots.NO_LEASE),
            execution_options={"synchronize_session": False},
        )
    print("only second judgments are open, half of them of pairs that the person has judged")
    at_the_desk(engine, project, ann)
    for name, action in (("preview of a snapshot", snapshots.preview), ("freezing it", snapshots.freeze)):

        def run(action: Callable[..., object] = action) -> None:
            if action is snapshots.freeze:
                action(engine, project=project, by_id=ann.id, storage=Storage(f"file://{folder}"))
                return
            with read_session(engine) as session:
                action(session, project=project)

        timed(name, run, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--database", default="")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        measure(make_engine(given.database or f"sqlite:///{Path(folder) / 'bench.db'}"), given.comparisons, folder)


if __name__ == "__main__":
    main()
