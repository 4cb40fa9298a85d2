"""A snapshot again, without what was excluded since: its own lines, byte for byte, but for those that an exclusion is about.

A pair of which a vote was excluded is decided anew, by the snapshot's own rule, from the votes that were there when it was frozen.
Everything else stays as it was, whatever was judged since.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session, aliased

from app.bulk import among
from app.db import read_session
from app.errors import Conflict, SnapshotEmpty
from app.models import Arm, Choice, Comparison, Judgment, Prompt, Response, Snapshot, Split, Warned
from app.services.collecting import exclusions
from app.services.collecting.exclusions import Excluded
from app.services.collecting.messages import text_hash
from app.services.datasets import files, report, snapshots, votes
from app.services.datasets.collected import Collected, Pair
from app.services.datasets.files import SPLITS
from app.services.datasets.rules import Decision, Rule, Vote, decide
from app.services.datasets.snapshots import Preview
from app.storage import Storage

Lines = Mapping[int, bytes | None]
ONE_PERSON = "that one person's votes had decided, to see what they taught"


@dataclass
class Without:
    """What became of a snapshot's pairs: how many were left out and decided anew, and what is left, summed up."""

    left_out: int = 0
    anew: int = 0
    splits: dict[int, Split] = field(default_factory=dict)
    collected: Collected = field(default_factory=Collected)


def freeze(
    engine: Engine,
    *,
    snapshot: Snapshot,
    by_id: int | None,
    storage: Storage,
    address: str = "",
    person_id: int | None = None,
) -> tuple[Snapshot, Without]:
    """The snapshot without what is excluded now, and what became of its pairs. `snapshot` has its project loaded.

    person_id: without the votes of this person in its training pairs instead; whoever compares both keeps the same eval pairs.
    Raises Conflict where nothing of it is excluded, SnapshotEmpty where nothing is left to train on.
    """
    about = tuple(Split) if person_id is None else (Split.TRAIN,)
    ids = _ids(storage, snapshot)
    with tempfile.TemporaryDirectory(prefix="prefloop-snapshot-") as folder:
        with read_session(engine) as session:
            if person_id is None:
                excluded = exclusions.in_force(session, project_id=snapshot.project_id)
            else:
                excluded = Excluded(people=frozenset({person_id}))
            changed = _changed(session, snapshot, excluded, ids)
            told = Without()
            written = files.write_lines(_kept(storage, snapshot, changed, told, about), Path(folder))
            _count_arms(session, told)
        if not told.left_out and not told.anew and person_id is not None:
            raise Conflict(
                f"No training pair of snapshot {snapshot.number} would be another one without this person's votes.",
                "Choose somebody else.",
            )
        if not told.left_out and not told.anew:
            raise Conflict(
                f"Nothing that snapshot {snapshot.number} holds is excluded.",
                "Leave out a pair of it first, on the pair's page.",
            )
        if not told.collected.pairs - told.collected.evaluated:
            raise SnapshotEmpty(
                f"Snapshot {snapshot.number} has nothing left to train on.", "Put some of its pairs back."
            )
        described = _described(
            snapshot, told, excluded, "that were excluded since" if person_id is None else ONE_PERSON
        )
        made = snapshots.store(
            engine, snapshot.project, described, written, storage=storage, by_id=by_id, address=address
        )
    return made, told


def _ids(storage: Storage, snapshot: Snapshot) -> list[int]:
    return [int(line["comparison_id"]) for _, line, _ in lines_of(storage, snapshot)]


def lines_of(storage: Storage, snapshot: Snapshot) -> Iterator[tuple[Split, dict[str, Any], bytes]]:
    for file in snapshot.files:
        with storage.open(file.key) as lines:
            for line in lines:
                yield SPLITS[file.name], orjson.loads(line), line


def _changed(session: Session, snapshot: Snapshot, excluded: Excluded, ids: list[int]) -> Lines:
    """The lines of a snapshot that an exclusion is about, by comparison: None for those that go."""
    left_out = excluded.pairs.intersection(ids)
    if excluded.imports:
        of_imports = select(Comparison.id).where(
            Comparison.import_id.in_(excluded.imports), among(session, Comparison.id, ids)
        )
        left_out |= set(session.scalars(of_imports))
    about = or_(Judgment.id.in_(excluded.judgments), Judgment.user_id.in_(excluded.people))
    voted = select(Judgment.comparison_id).where(
        Judgment.project_id == snapshot.project_id, Judgment.submitted_at <= snapshot.created_at, about
    )
    touched = sorted(set(session.scalars(voted)).intersection(ids) - left_out)
    anew: dict[int, bytes | None] = dict.fromkeys(touched)
    pairs = list(_decided(session, snapshot, excluded, touched))
    for at in range(0, len(pairs), files.PAGE):
        anew |= {pair.comparison_id: line for pair, line in files.lines_of(session, pairs[at : at + files.PAGE])}
    return anew | dict.fromkeys(left_out)


def _decided(session: Session, snapshot: Snapshot, excluded: Excluded, ids: list[int]) -> Iterable[Pair]:
    """Pairs decided by the snapshot's rule from the votes that were in force then and aren't excluded."""
    rule = Rule.of(snapshot.rule)
    first, second = aliased(Response), aliased(Response)
    rows = session.execute(
        select(Judgment, Prompt.id, Prompt.split, first, second)
        .join(Comparison, Comparison.id == Judgment.comparison_id)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(among(session, Judgment.comparison_id, ids), votes.in_force_at(snapshot.created_at))
        .order_by(Judgment.comparison_id, Judgment.id)
    ).tuples()
    for comparison_id, of_one in groupby(rows, key=lambda row: row[0].comparison_id):
        voted = list(of_one)
        _, prompt_id, split, *answers = voted[0]
        counted = [
            Vote(vote.user_id, vote.choice, vote.strength, vote.late, bool(vote.flags))
            for vote, *_ in voted
            if not excluded.has_vote(vote.id, vote.user_id)
        ]
        decision = decide(counted, rule)
        if decision.chosen is not None:
            chosen, rejected = answers if decision.chosen is Choice.FIRST else reversed(answers)
            yield Pair(
                comparison_id,
                prompt_id,
                split,
                decision,
                characters=(chosen.characters, rejected.characters),
                words=(chosen.words, rejected.words),
                chosen_hash=chosen.content_hash,
                sources=(chosen.source_name, rejected.source_name),
            )


def _kept(
    storage: Storage, snapshot: Snapshot, changed: Lines, told: Without, about: Collection[Split]
) -> Iterator[tuple[Split, int, bytes]]:
    for split, row, line in lines_of(storage, snapshot):
        number = int(row["comparison_id"])
        if number in changed and split in about:
            new = changed[number]
            if new is None:
                told.left_out += 1
                continue
            told.anew += new != line
            line, row = new, orjson.loads(new)
        told.collected.add(pair_of(split, row))
        told.splits[number] = split
        yield split, number, line


def _count_arms(session: Session, told: Without) -> None:
    """A line doesn't say by which arm its pair was asked."""
    asked = select(Comparison.id, Comparison.arm).where(among(session, Comparison.id, told.splits))
    for number, arm in session.execute(asked).tuples():
        told.collected.count_arm(told.splits[number], arm)


def pair_of(split: Split, row: Mapping[str, Any], arm: Arm | None = None) -> Pair:
    """A line as what is counted of it."""
    chosen, rejected = ("\n\n".join(message["content"] for message in row[side]) for side in ("chosen", "rejected"))
    decision = Decision(
        chosen=Choice.FIRST,
        weight=row["weight"],
        p_chosen=row["p_chosen"],
        votes=row["votes"],
        votes_chosen=row["votes_chosen"],
    )
    return Pair(
        row["comparison_id"],
        row["prompt_id"],
        split,
        decision,
        characters=(len(chosen), len(rejected)),
        words=(len(chosen.split()), len(rejected.split())),
        chosen_hash=text_hash(chosen),
        sources=(row["chosen_source"], row["rejected_source"]),
        arm=arm,
    )


def _described(snapshot: Snapshot, told: Without, excluded: Excluded, which: str) -> Preview:
    """Counts of what is left. People and agreement are the earlier snapshot's, and a warning says so."""
    made, before = told.collected, snapshot.statistics
    gone = snapshot.counts.pairs - made.pairs
    counts = replace(
        snapshot.counts,
        pairs=made.pairs,
        train=made.pairs - made.evaluated,
        eval=made.evaluated,
        left_out=snapshot.counts.left_out | {"excluded": snapshot.counts.left_out.get("excluded", 0) + gone},
    )
    statistics = replace(
        report.statistics(made),
        evaluators=[one for one in before.evaluators if one.user_id not in excluded.people],
        agreement=before.agreement,
        left_picked=before.left_picked,
        imported=before.imported,
    )
    note = Warned(
        "made_without",
        f"This is snapshot {snapshot.number} without {told.left_out:,} pairs {which}. What is said of people "
        f"and agreement is of snapshot {snapshot.number}.",
    )
    warnings = (note, *report.warnings(counts, statistics))
    return Preview(Rule.of(snapshot.rule), counts, replace(statistics, warnings=warnings))
