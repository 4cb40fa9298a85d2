"""Writes 0001.jsonl: a small database as revision 0001 (commit 16c579c) fills it, through that version's own services.

Run it inside a checkout of that commit, whose `app` it then imports:

    cd CHECKOUT-OF-16c579c && PYTHONPATH=. python .../tests/ops/databases/fill_0001.py > .../0001.jsonl

The first line says what tests need in the clear (a token, a password). Then come the stored files, then the rows of every
table in an order that foreign keys allow. Times are fixed where a service takes one; a lease that must still run when
the tests run ends in the year 2099.
"""

import gzip
import io
import json
import os
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

FOLDER = Path(tempfile.mkdtemp(prefix="prefloop-0001-"))
os.environ |= {"PREFLOOP_DATA_DIR": str(FOLDER), "PREFLOOP_SECRET_KEY": "test-" * 10}

from app import migrate  # noqa: E402
from app.config import get_settings  # noqa: E402
from app.db import get_engine, write_session  # noqa: E402
from app.errors import WrongCredentials  # noqa: E402
from app.models import Base, Comparison, Import, Role, Snapshot, User  # noqa: E402
from app.services import (  # noqa: E402
    comparisons,
    demo,
    imports,
    job_leases,
    jobs,
    judgments,
    links,
    logins,
    projects,
    sessions,
    snapshots,
    tokens,
    users,
)
from app.storage import get_storage  # noqa: E402
from tests.pretend_worker import PretendWorker  # noqa: E402

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
FAR = datetime(2099, 1, 1, tzinfo=UTC)
PASSWORD = "a password for the tests"
SETTINGS = get_settings()
ENGINE = get_engine(SETTINGS)
GIVEN: dict[str, str] = {"password": PASSWORD}


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


def people() -> None:
    with write_session(ENGINE) as session:
        admin = users.create(session, username="admin", display_name="Admin", role=Role.ADMIN, password=PASSWORD)
        engineer = users.create(session, username="engineer", display_name="Engineer", role=Role.ENGINEER)
        for number in (1, 2, 3):
            users.create(
                session, username=f"evaluator-{number}", display_name=f"Evaluator {number}", role=Role.EVALUATOR
            )
        gone = users.create(session, username="gone", display_name="Gone", role=Role.EVALUATOR, password=PASSWORD)
        users.set_active(session, user=gone, active=False, by=admin)
        _, GIVEN["token"] = tokens.create(session, user=engineer, name="a script", by=engineer)
        _, GIVEN["evaluator_token"] = tokens.create(session, user=one("evaluator-1", session), name="another script")
        ended, _ = tokens.create(session, user=engineer, name="an old script", days=30, now=START)
        tokens.revoke(session, token_id=ended.id, by=engineer)
        GIVEN["session"] = sessions.start(session, user=admin, address="127.0.0.1", user_agent="A browser", now=FAR)
        sessions.start(session, user=engineer, address="127.0.0.1", user_agent="Another browser", now=START)
        links.create_sign_in(session, user=engineer, by=admin, now=START)  # replaced by the next
        links.create_sign_in(session, user=engineer, by=admin, now=START)
        links.invite(session, role=Role.EVALUATOR, by=admin, note="for the second team", now=START)
        used = links.invite(session, role=Role.EVALUATOR, by=admin, now=START)
        links.accept_invitation(
            session, token=used, username="invited", display_name="Invited", password=PASSWORD, now=minute(1)
        )
    with suppress(WrongCredentials):
        logins.sign_in(ENGINE, username="admin", password="wrong", address="192.0.2.7", settings=SETTINGS)


def one(username: str, session: Any) -> User:
    return users.get(session, username)


def demo_project() -> None:
    """The demo with its pairs that two people judged, which has more slots than its project wants, and two others."""
    pairs = [json.loads(line) for line in (demo.CONTENT / "pairs.jsonl").read_text().splitlines()]
    said = [json.loads(line) for line in (demo.CONTENT / "judgments.jsonl").read_text().splitlines()]
    times = [line["comparison"] for line in said]
    twice = [pair for pair in pairs if times.count(pair["id"]) > 1][:3]
    others = [pair for pair in pairs if times.count(pair["id"]) == 1][:1] + [p for p in pairs if p["id"] not in times][
        :1
    ]
    content = FOLDER / "content"
    content.mkdir()
    kept = {pair["id"] for pair in twice + others}
    lines = [json.dumps(pair | {"priority": 2}) for pair in twice + others]
    (content / "pairs.jsonl").write_text("".join(line + "\n" for line in lines))
    (content / "judgments.jsonl").write_text("".join(json.dumps(x) + "\n" for x in said if x["comparison"] in kept))
    (content / "guidelines.md").write_text("Pick the answer that sounds like the team.\n")
    demo.CONTENT = content
    with write_session(ENGINE) as session:
        assert demo.seed(session, now=minute(0))


def tone_project() -> None:
    """Two judgments wanted of each pair: every way in which a slot can be filled, opened, lost and taken over."""
    with write_session(ENGINE) as session:
        admin = one("admin", session)
        project = projects.create(
            session,
            slug="tone",
            name="Tone",
            by=admin,
            description="Which answer is friendlier?",
            guidelines="Pick the friendlier answer.",
            judgments_per_comparison=3,
            lease_seconds=60,
            eval_percent=30,
        )
        for number in range(1, 15):
            comparisons.add(
                session,
                project=project,
                prompt=[
                    {"role": "system", "content": "You are the help of a library."},
                    {"role": "user", "content": f"Until when is the branch number {number} open? 图书馆"},
                ],
                responses=(f"Until {number} o'clock.", f"Gladly: it closes at {number} o'clock. See you there! ☀"),
                sources=(
                    comparisons.Source(comparisons.SourceKind.MODEL, "model-a"),
                    comparisons.Source(comparisons.SourceKind.PERSON, "the desk"),
                ),
                priority={1: 5, 2: 5, 13: -3}.get(number, 0),
                gold=comparisons.Choice.SECOND if number == 14 else None,
                external_id=f"branch-{number}",
            )
        project = projects.update(session, project=project, by=admin, judgments_per_comparison=2)
        projects.set_guidelines(
            session, project=project, text="Pick the friendlier answer. Length doesn't count.", by=admin
        )

    judge(1, "evaluator-1", "right", strength=3, rationale="It says hello.", flags=["off_topic"])  # web
    judge(2, "evaluator-1", "left", source=judgments.JudgmentSource.API)
    judge(3, "evaluator-2", "tie")
    judge(4, "evaluator-2", "both_bad", rationale="Neither is friendly.")
    judge(5, "evaluator-1", "skip")
    judge(6, "evaluator-1", "right", strength=1)
    # An edit, an edit of the edit, and a judgment that was looked at again and left.
    with write_session(ENGINE) as session:
        project, user = projects.get(session, "tone"), one("evaluator-1", session)
        for at, choice in ((7, "left"), (8, "tie")):
            again = judgments.reopen_last(session, project=project, user=user, now=minute(at))
            judgments.record(session, token=again.token, user=user, choice=choice, now=minute(at))  # type: ignore[union-attr]
        judgments.reopen_last(session, project=project, user=user, now=minute(9))
    # An edit to "skip" opens the slot again.
    judge(10, "evaluator-2", "left")
    with write_session(ENGINE) as session:
        project, user = projects.get(session, "tone"), one("evaluator-2", session)
        again = judgments.reopen_last(session, project=project, user=user, now=minute(11))
        judgments.record(session, token=again.token, user=user, choice="skip", now=minute(11))  # type: ignore[union-attr]
    # Late ones: the first finds its slot still there, the second finds both slots of the pair taken by others.
    slow = lease(12, "evaluator-3")
    answer(14, "evaluator-3", slow, "left")
    slow = lease(15, "evaluator-3")
    for at, name in ((17, "engineer"), (18, "admin")):
        fill(at, name, slow.comparison_id)
    answer(20, "evaluator-3", slow, "right")
    # The guidelines change between showing and judgment.
    shown = lease(21, "evaluator-1")
    with write_session(ENGINE) as session:
        projects.set_guidelines(
            session,
            project=projects.get(session, "tone"),
            text="# Tone\n\nFriendlier wins. *Length* doesn't count.",
            by=one("admin", session),
        )
    answer(21.5, "evaluator-1", shown, "right", strength=2)
    given_back = lease(22, "evaluator-2")
    with write_session(ENGINE) as session:
        comparisons.release(session, token=given_back.token, user=one("evaluator-2", session))
    lease(23, "evaluator-1")  # runs until 2099
    GIVEN["running_lease"] = lease_at(FAR, "evaluator-1").token
    GIVEN["lost_lease"] = lease(24, "evaluator-2").token  # ran out, and nobody took it over


def lease(at: float, username: str) -> comparisons.Lease:
    return lease_at(minute(at), username)


def lease_at(now: datetime, username: str) -> comparisons.Lease:
    with write_session(ENGINE) as session:
        held = comparisons.lease_next(
            session, project=projects.get(session, "tone"), user=one(username, session), now=now
        )
        assert held is not None
        return held


def answer(at: float, username: str, held: comparisons.Lease, choice: Any, **more: Any) -> None:
    with write_session(ENGINE) as session:
        judgments.record(session, token=held.token, user=one(username, session), choice=choice, now=minute(at), **more)


def judge(at: float, username: str, choice: Any, **more: Any) -> None:
    answer(at + 0.3, username, lease(at, username), choice, **more)


def fill(at: float, username: str, comparison_id: int) -> None:
    """This person skips pairs until they get that one, and judges it."""
    while (held := lease(at, username)).comparison_id != comparison_id:
        answer(at, username, held, "skip")
    answer(at, username, held, "left")


def bring(slug: str, lines: list[object], filename: str, *, by: str = "engineer", damaged: bool = False) -> int:
    """An import of these lines, each JSON or already text."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    if damaged:
        text = gzip.compress(text * 200, mtime=0)[:-20]
    with write_session(ENGINE) as session:
        project, user = projects.get(session, slug), one(by, session)
    row = imports.load(
        ENGINE, project_id=project.id, user_id=user.id, stream=io.BytesIO(text), filename=filename, settings=SETTINGS
    )
    return row.id


def judged(question: str, chosen: str, rejected: str) -> dict[str, object]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def brought_project() -> None:
    """Pairs by import, judged ones and ones that wait: into an open slot, one that is leased by whoever imports (by
    others and by themselves), and none because somebody was before."""
    with write_session(ENGINE) as session:
        projects.create(session, slug="brought", name="Brought along", by=one("engineer", session), lease_seconds=60)
    pairs = [
        judged(f"How do I renew book {n}?", f"Online, under “Loans”: book {n}.", f"Ask us about {n}.")
        for n in range(1, 17)
    ]
    waiting = [
        {
            "prompt": f"Where is shelf {n}?",
            "responses": [f"Shelf {n} is upstairs.", f"Up the stairs and left: shelf {n}."],
            "id": f"shelf-{n}",
            "priority": n,
        }
        for n in range(1, 7)
    ]
    rejected = ["not JSON", {"prompt": "No answers?"}, {"prompt": "Same?", "responses": ["Yes.", "Yes."]}]
    bring("brought", [*pairs, *waiting, *rejected, pairs[0]], "pairs.jsonl")
    swapped = judged("How do I renew book 2?", "Ask us about 2.", "Online, under “Loans”: book 2.")
    bring("brought", [swapped], "other-way-round.jsonl")
    bring("brought", [judged("How do I renew a card?", "At the desk.", "No.")], "broken.jsonl.gz", damaged=True)
    with write_session(ENGINE) as session:
        project = projects.get(session, "brought")
        held = {}
        for name in ("engineer", "evaluator-1"):
            held[name] = comparisons.lease_next(session, project=project, user=one(name, session), now=minute(30))
        assert held["engineer"] and held["evaluator-1"]
        other = comparisons.lease_next(session, project=project, user=one("evaluator-2", session), now=minute(31))
        judgments.record(session, token=other.token, user=one("evaluator-2", session), choice="left", now=minute(31))  # type: ignore[union-attr]
        numbers = {
            name: int(session.get_one(Comparison, showing.comparison_id).external_id.split("-")[1])  # type: ignore[union-attr]
            for name, showing in (held | {"evaluator-2": other}).items()
        }
    again = [
        judged(f"Where is shelf {n}?", f"Up the stairs and left: shelf {n}.", f"Shelf {n} is upstairs.")
        for n in (*numbers.values(), 1)
    ]
    bring("brought", again, "judged-elsewhere.jsonl")
    with write_session(ENGINE) as session:  # its process died: nobody finished it
        session.add(
            Import(
                project_id=projects.get(session, "brought").id,
                user_id=one("engineer", session).id,
                filename="died.jsonl",
                lines=500,
                added=0,
                duplicates=500,
                started_at=minute(40),
                updated_at=minute(41),
            )
        )


def datasets() -> list[int]:
    storage, made = get_storage(SETTINGS), []
    for slug, rule in (
        ("brought", None),
        ("tone", {"soft_labels": True, "include_flagged": True, "weights": "strength"}),
    ):
        with write_session(ENGINE) as session:
            project = projects.get(session, slug)
            made.append(
                snapshots.freeze(
                    session, project=project, by=one("engineer", session), storage=storage, rule=rule, now=minute(60)
                ).id
            )
    return made


def runs(snapshot_id: int) -> None:
    """Jobs in every state: the worker's side is played by the tests' own, through the same services."""

    def create(**more: Any) -> int:
        with write_session(ENGINE) as session:
            job = jobs.create(
                session,
                snapshot=session.get_one(Snapshot, snapshot_id),
                base_model="tiny",
                config=more.pop("config", {"max_steps": 6, "lora_r": 8}),
                by=one("engineer", session),
                **more,
            )
            return job.id

    def act(what: Any, job_id: int) -> None:
        with write_session(ENGINE) as session:
            what(session, job=jobs.get(session, job_id), by=one("engineer", session))

    worker = PretendWorker(ENGINE, SETTINGS)
    create(note="the first run", idempotency_key="first")
    worker.claim()
    worker.start(6)
    worker.steps(1, 6, 6)
    worker.evaluate(6)
    worker.say(("done", 6, {"train_loss": 0.4, "eval_rewards/accuracies": 0.75}))
    worker.publish(
        {
            "adapter_model.safetensors": b"weights of the first run",
            "adapter_config.json": b"{}",
            "prefloop.json": b"{}",
            "README.md": b"# Brought along, run 1\n",
        },
        step=6,
    )
    create(config={"loss_type": "ipo", "learning_rate": 1e-3})
    worker.claim()
    worker.start(6)
    worker.steps(1, 2, 6)
    worker.fail("nan_loss", "The loss is not a number at step 3.", kept="state-2", lines=("loss nan",))
    act(jobs.cancel, create())  # before it started
    create()
    worker.claim()
    worker.steps(1, 3, 6)
    act(jobs.cancel, worker.job_id)
    worker.end_cancelled("state-3")
    create()
    worker.claim()
    worker.fail("out_of_memory", "Not enough memory.")
    act(jobs.retry, worker.job_id)
    worker.claim()  # the same job again, then its worker goes in good order
    with write_session(ENGINE) as session:
        job_leases.give_back(session, job_id=worker.job_id, token=worker.token, reason="The worker stopped.")
    silent = PretendWorker(ENGINE, SETTINGS, name="gpu-1")
    silent.claim()  # that one: its lease ran out, and nobody has swept yet
    silent.start(6)
    with write_session(ENGINE) as session:
        job_leases.heartbeat(session, job_id=silent.job_id, token=silent.token, lease_seconds=1, now=minute(90))
    create(note="runs")
    worker.claim()
    worker.start(6)
    worker.steps(1, 4, 6)
    worker.sample("before", 0, "Look under “Loans”.")
    with write_session(ENGINE) as session:
        far = (FAR - START).total_seconds()
        job_leases.heartbeat(session, job_id=worker.job_id, token=worker.token, lease_seconds=far, now=START)
    GIVEN["running_job"], GIVEN["running_job_token"] = str(worker.job_id), worker.token
    create(note="waits", idempotency_key="second")
    act(jobs.cancel, silent.job_id)  # asked for, while its worker is silent


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, StrEnum) else value


def main() -> None:
    migrate.upgrade(ENGINE)
    assert migrate.revisions(ENGINE)[0] == "0001"
    people()
    demo_project()
    tone_project()
    brought_project()
    brought, _ = datasets()
    runs(brought)
    lines: list[object] = [{"given": GIVEN}]
    artifacts = FOLDER / "artifacts"
    lines += [
        {"file": {"key": str(path.relative_to(artifacts)), "text": path.read_text(encoding="utf-8")}}
        for path in sorted(artifacts.rglob("*"))
        if path.is_file()
    ]
    with ENGINE.connect() as connection:
        for table in Base.metadata.sorted_tables:
            for row in connection.execute(table.select().order_by(*table.primary_key.columns)).mappings():
                lines.append({table.name: {name: plain(value) for name, value in row.items()}})
    sys.stdout.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
