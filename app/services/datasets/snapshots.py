"""Snapshots: what a project's judgments amount to now, and freezing that into files that never change."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased, joinedload

from app.errors import NotFound, SnapshotEmpty
from app.models import (
    Choice,
    Comparison,
    Judgment,
    JudgmentSource,
    Project,
    Prompt,
    Response,
    Side,
    Snapshot,
    Split,
    User,
)
from app.models.base import now as utc_now
from app.services.accounts import audit
from app.services.datasets import report
from app.services.datasets.report import Collected, Pair
from app.services.datasets.rules import Rule, Vote, decide
from app.storage import Storage

FILES = {"eval.jsonl": Split.EVAL, "train.jsonl": Split.TRAIN}
PAGE = 500


@dataclass(frozen=True)
class Preview:
    """What a snapshot would hold now. `counts`, `statistics` and `rule` are what the snapshot would store."""

    rule: dict[str, Any]
    counts: dict[str, Any]
    statistics: dict[str, Any]
    warnings: list[tuple[str, str]]
    sentence: str

    @property
    def pairs(self) -> int:
        return int(self.counts["pairs"])

    @property
    def train_pairs(self) -> int:
        return int(self.counts["train"])

    @property
    def eval_pairs(self) -> int:
        return int(self.counts["eval"])

    @property
    def left_out(self) -> dict[str, int]:
        return dict(self.counts["left_out"])


def preview(session: Session, *, project: Project, rule: Mapping[str, Any] | None = None) -> Preview:
    """Raises Invalid where the rule is. Reads votes and lengths, no texts."""
    applied = Rule.of(rule)
    return _describe(_collect(session, project, applied), applied)


def _describe(found: Collected, rule: Rule) -> Preview:
    counts, statistics = report.counts(found), report.statistics(found)
    return Preview(
        rule.as_dict(),
        counts,
        statistics,
        report.warnings(counts, statistics),
        report.sentence(counts),
    )


def freeze(
    session: Session,
    *,
    project: Project,
    by: User | None,
    storage: Storage,
    rule: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Snapshot:
    """A new snapshot, or the one of this project that has the same content already.

    Raises SnapshotEmpty where nothing is left to train on, and Invalid where the rule is.
    """
    applied = Rule.of(rule)
    # One at a time in a project: numbers have no gaps, and a double click finds the first click's snapshot.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    found = _collect(session, project, applied)
    described = _describe(found, applied)
    if not described.train_pairs:
        raise _empty(project, described)
    with tempfile.TemporaryDirectory(prefix="prefloop-snapshot-") as folder:
        files = _write(session, found.pairs, Path(folder))
        digest = hashlib.sha256("".join(f"{file['sha256']}  {file['name']}\n" for file in files).encode()).hexdigest()
        same = session.scalar(
            select(Snapshot)
            .where(Snapshot.project_id == project.id, Snapshot.sha256 == digest)
            .order_by(Snapshot.number)
            .limit(1)
        )
        if same is not None:
            return same
        for file in files:
            # Named by content: an upload whose transaction failed is overwritten with the same bytes by the next try.
            file["key"] = f"snapshots/{project.id}/{digest}/{file['name']}"
            storage.put_file(file["key"], Path(folder) / file["name"])
    last = session.scalar(select(func.max(Snapshot.number)).where(Snapshot.project_id == project.id)) or 0
    snapshot = Snapshot(
        project_id=project.id,
        number=last + 1,
        sha256=digest,
        rule=described.rule,
        counts=described.counts,
        statistics=described.statistics | {"warnings": [list(warning) for warning in described.warnings]},
        files=files,
        created_by_id=by.id if by else None,
        created_at=now or utc_now(),
    )
    session.add(snapshot)
    session.flush()
    audit.record(
        session,
        by=by,
        action="snapshot.freeze",
        target=f"snapshot {snapshot.id}",
        project=project.slug,
        number=snapshot.number,
        sha256=digest,
        pairs=described.pairs,
    )
    return snapshot


def _empty(project: Project, described: Preview) -> SnapshotEmpty:
    if not described.counts["comparisons"]:
        return SnapshotEmpty(f"“{project.name}” has no comparisons yet.", "Import some.", **described.counts)
    if described.eval_pairs:
        return SnapshotEmpty(
            f"All {described.eval_pairs} judged pairs of “{project.name}” belong to evaluation; none is left to "
            "train on.",
            "Collect more judgments.",
            **described.counts,
        )
    return SnapshotEmpty(
        f"“{project.name}” has nothing to train on: {report.left_out_text(described.left_out)}.",
        "Collect more judgments, or make the rule less strict.",
        **described.counts,
    )


def _collect(session: Session, project: Project, rule: Rule) -> Collected:
    """Decides every judged comparison of a project, in the order of their ids, from one streamed query; counts the rest."""
    kept, gold_kept = session.execute(
        select(func.count(), func.count(Comparison.gold_choice)).where(Comparison.project_id == project.id)
    ).one()
    found = Collected(comparisons=kept, left_out=Counter(gold=gold_kept))
    seen = 0
    for comparison, rows in groupby(_votes(session, project), key=lambda row: row[:12]):
        (comparison_id, prompt_id, split, gold, *answers) = comparison
        votes = [row[12:] for row in rows]
        found.judgments += len(votes)
        _count_people(found, comparison_id, votes)
        verdict = decide(
            [
                Vote(user_id, choice, strength, late, bool(flags))
                for user_id, choice, strength, late, flags, _, _ in votes
            ],
            rule,
        )
        if gold is not None:
            continue
        seen += 1
        if verdict.chosen is None:
            found.left_out[verdict.left_out] += 1
            continue
        chosen, rejected = (answers[:4], answers[4:]) if verdict.chosen is Choice.FIRST else (answers[4:], answers[:4])
        found.pairs.append(
            Pair(
                comparison_id,
                prompt_id,
                split,
                verdict,
                (chosen[0], rejected[0]),
                (chosen[1], rejected[1]),
                chosen[2],
                (chosen[3], rejected[3]),
            )
        )
    found.left_out["not_judged"] += kept - gold_kept - seen
    people = {user_id for _, user_id, _ in found.votes}
    found.names = dict(session.execute(select(User.id, User.display_name).where(User.id.in_(people))).tuples().all())
    return found


def _votes(session: Session, project: Project) -> Iterator[Any]:
    first, second = aliased(Response), aliased(Response)
    query = (
        select(
            Comparison.id,
            Comparison.prompt_id,
            Prompt.split,
            Comparison.gold_choice,
            first.characters,
            first.words,
            first.content_hash,
            first.source_name,
            second.characters,
            second.words,
            second.content_hash,
            second.source_name,
            Judgment.user_id,
            Judgment.choice,
            Judgment.strength,
            Judgment.late,
            Judgment.flags,
            Judgment.first_side,
            Judgment.source,
        )
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .join(Judgment, (Judgment.comparison_id == Comparison.id) & ~Judgment.superseded)
        .where(Comparison.project_id == project.id)
        .order_by(Comparison.id, Judgment.id)
    )
    yield from session.execute(query.execution_options(yield_per=2000))


def _count_people(found: Collected, comparison_id: int, votes: Sequence[Any]) -> None:
    for user_id, choice, _, _, _, first_side, source in votes:
        if source is JudgmentSource.IMPORT:
            found.imported += 1
            continue
        if choice is not Choice.SKIP:
            found.votes.append((comparison_id, user_id, choice.value))
        if choice in (Choice.FIRST, Choice.SECOND) and first_side is not None:
            found.sided += 1
            found.left_picked += (choice is Choice.FIRST) == (first_side is Side.LEFT)


def _write(session: Session, pairs: Sequence[Pair], folder: Path) -> list[dict[str, Any]]:
    """Writes both files a page of pairs at a time: {name, size, sha256, pairs} of each, by name."""
    files: dict[Split, dict[str, Any]] = {
        split: {"name": name, "size": 0, "sha256": "", "pairs": 0} for name, split in FILES.items()
    }
    digests = {split: hashlib.sha256() for split in files}
    with ExitStack() as stack:
        handles = {split: stack.enter_context((folder / file["name"]).open("wb")) for split, file in files.items()}
        for start in range(0, len(pairs), PAGE):
            for pair, line in _lines(session, pairs[start : start + PAGE]):
                handles[pair.split].write(line)
                digests[pair.split].update(line)
                files[pair.split]["size"] += len(line)
                files[pair.split]["pairs"] += 1
    for split, file in files.items():
        file["sha256"] = digests[split].hexdigest()
    return list(files.values())


def _lines(session: Session, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, bytes]]:
    first, second = aliased(Response), aliased(Response)
    query = (
        select(Comparison.id, Comparison.external_id, Prompt.messages, first.text, second.text)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(Comparison.id.in_([pair.comparison_id for pair in pairs]))
    )
    rows = {row[0]: row[1:] for row in session.execute(query)}
    for pair in pairs:
        external_id, messages, *texts = rows[pair.comparison_id]
        chosen, rejected = texts if pair.verdict.chosen is Choice.FIRST else reversed(texts)
        yield (
            pair,
            orjson.dumps(
                {
                    "prompt": [{"role": message["role"], "content": message["content"]} for message in messages],
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "weight": pair.verdict.weight,
                    "p_chosen": pair.verdict.p_chosen,
                    "votes": pair.verdict.votes,
                    "votes_chosen": pair.verdict.votes_chosen,
                    "comparison_id": pair.comparison_id,
                    "prompt_id": pair.prompt_id,
                    "external_id": external_id or "",
                    "chosen_source": pair.sources[0],
                    "rejected_source": pair.sources[1],
                },
                option=orjson.OPT_APPEND_NEWLINE,
            ),
        )


def get(session: Session, snapshot_id: int) -> Snapshot:
    """One snapshot with its project loaded. Raises NotFound."""
    snapshot = session.scalar(select(Snapshot).where(Snapshot.id == snapshot_id).options(joinedload(Snapshot.project)))
    if snapshot is None:
        raise NotFound(f"There is no snapshot {snapshot_id}.", "Look at the project's data page.")
    return snapshot


def listing(session: Session, *, project: Project) -> list[Snapshot]:
    """A project's snapshots, the newest first."""
    return list(
        session.scalars(select(Snapshot).where(Snapshot.project_id == project.id).order_by(Snapshot.number.desc()))
    )


def file(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """One of a snapshot's files: {name, key, size, sha256, pairs}. Raises NotFound."""
    for entry in snapshot.files:
        if entry["name"] == name:
            return dict(entry)
    raise NotFound(f"Snapshot {snapshot.number} has no file “{name[:64]}”.", f"It has {' and '.join(FILES)}.")
