"""What a label check comes to: its lists, how far they can be trusted, and how well each person's votes are foreseen.

Read from the files of `python -m worker.dpo margins`, in the background: it costs what the snapshot is large.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, aliased

from app.bulk import among
from app.db import read_session
from app.models import Choice, Comparison, Judgment, LabelCheck, Response, Snapshot
from app.services.datasets import files, votes
from app.services.loop.labels.plan import Plan
from app.stats.loop.estimate import Estimate, tally
from app.stats.loop.flips import LISTED, MOST_LISTED, Planting, list_quality, strongest
from app.stats.loop.people import shrunken
from app.stats.loop.win_rate import Vote, prompt_values, win_rate

DATA, MARGINS = "pairs.jsonl", "margins.jsonl"
FIGURES = ("margin", "ches", "ches_normalised", "on_policy_gap")
COLUMNS = ("comparison_id", "contradicts", "lowers", "first_chosen", "votes", "votes_chosen", *FIGURES)
MOST_PEOPLE = 200  # those with the most votes


@dataclass(frozen=True, slots=True)
class Findings:
    """`result`: what is kept of a check, as JSON. `pairs`: rows of its lists (COLUMNS). `files`: every pair's figures, to be stored."""

    result: dict[str, Any]
    pairs: list[tuple[Any, ...]]
    files: list[Path]


def find(engine: Engine, *, check: LabelCheck, data: Path, out: Path, into: Path) -> Findings:
    """data: the pairs that were asked about, as lines of the snapshot. out: what the engine left. into: a folder for the files.

    Slow: call it outside of any transaction. `check` has its run and the run's snapshot loaded.
    """
    ids, prompts = _ids(data)
    names = [MARGINS, *(f"planted-{number}.jsonl" for number in range(1, Plan.of(check.plan).rounds))]
    into.mkdir(parents=True, exist_ok=True)
    stored = [into / name for name in names]
    for name, path in zip(names, stored, strict=True):
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in _rows(out / name, ids)))
    rows = list(_rows(out / MARGINS, ids))
    told = {row["comparison_id"]: row for row in rows if "margin" in row}
    margins = {number: row["margin"] for number, row in told.items()}
    contradict, lower = strongest(margins), _lowering(told)
    foreseen = {number: agrees(margin) for number, margin in margins.items()}
    everybody = prompt_values(Vote(prompts[number], None, value) for number, value in foreseen.items())
    places = [{number: place for place, number in enumerate(of, 1)} for of in (contradict, lower)]
    people, more, sides = _people(engine, check, data, margins, frozenset(places[0] | places[1]))
    result = {
        "pairs": len(rows),
        "left_out": dict(Counter(row["left_out"] for row in rows if "left_out" in row).most_common()),
        "contradict": len(contradict),
        "lower": len(lower),
        "agreement": _estimate(win_rate(tally(everybody.values()))),
        "precision": _precision(stored[1:], Plan.of(check.plan)),
        "people": people,
        "more_people": more,
    }
    pairs = [
        (number, *(of.get(number) for of in places), *sides[number], *(told[number][name] for name in FIGURES))
        for number in dict.fromkeys((*contradict, *lower))
    ]
    return Findings(result, pairs, stored)


def _ids(data: Path) -> tuple[list[int], dict[int, int]]:
    """The comparison of each line, and the prompt of each comparison."""
    ids, prompts = [], {}
    with data.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            ids.append(row["comparison_id"])
            prompts[row["comparison_id"]] = row["prompt_id"]
    return ids, prompts


def _rows(path: Path, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What the engine found of each pair, by its comparison."""
    with path.open("rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            yield {"comparison_id": ids[row.pop("line") - 1]} | {
                name: value for name, value in row.items() if name != "pair"
            }


def _lowering(told: dict[int, dict[str, Any]]) -> list[int]:
    """The twentieth of the pairs with the highest length-normalised CHES, the highest first."""
    most = min(MOST_LISTED, math.ceil(LISTED * len(told)))
    return sorted(told, key=lambda number: -told[number]["ches_normalised"])[:most]


def agrees(margin: float) -> float:
    """Whether a model would have chosen the same; half where it can't tell."""
    return 0.5 if margin == 0 else float(margin > 0)


def _precision(planted: Sequence[Path], plan: Plan) -> list[dict[str, Any]]:
    """For each share of planted flips what the same list of them is worth."""
    of_share: dict[float, list[Planting]] = defaultdict(list)
    for number, path in enumerate(planted):
        with path.open("rb") as lines:
            rows = {row["comparison_id"]: row for row in map(orjson.loads, lines) if "margin" in row}
        flipped = frozenset(name for name, row in rows.items() if row["flipped"])
        listed = frozenset(strongest({name: row["margin"] for name, row in rows.items()}))
        of_share[plan.shares[number % len(plan.shares)]].append(Planting(frozenset(rows), flipped, listed))
    told = []
    for share in plan.shares:
        quality = list_quality(of_share[share])
        told.append(
            {
                "share": share,
                "base_rate": quality.base_rate,
                "precision": _estimate(quality.precision),
                "recall": _estimate(quality.recall),
                "reliable": quality.reliable,
            }
        )
    return told


def _people(
    engine: Engine, check: LabelCheck, data: Path, margins: dict[int, float], listed: frozenset[int]
) -> tuple[list[dict[str, Any]], int, dict[int, tuple[bool, int, int]]]:
    """How often a model that wasn't trained on the pair foresees each person's votes, most votes first; how many more people
    there are; and of the pairs listed whether the first answer was chosen, votes, and votes for the chosen one."""
    cast: list[Vote] = []
    sides: dict[int, tuple[bool, int, int]] = {}
    with read_session(engine) as session, data.open("rb") as lines:
        following = map(orjson.loads, lines)
        while page := list(islice(following, files.PAGE)):
            chosen_first = sides_of(session, page)
            sides |= {
                row["comparison_id"]: (chosen_first[row["comparison_id"]], row["votes"], row["votes_chosen"])
                for row in page
                if row["comparison_id"] in listed
            }
            for row, user_id, for_chosen in cast_on(session, check.run.snapshot, page, chosen_first):
                if (margin := margins.get(row["comparison_id"])) is not None:
                    value = agrees(margin if for_chosen else -margin)
                    cast.append(Vote(row["prompt_id"], user_id, value))
    people = [
        {"user_id": one.person, "raw": one.raw, "agreement": _estimate(one.win_rate)}
        for one in shrunken(cast)[:MOST_PEOPLE]
    ]
    return people, len({vote.person for vote in cast}) - len(people), sides


def sides_of(session: Session, rows: Sequence[dict[str, Any]]) -> dict[int, bool]:
    """Whether the chosen answer of each line is its comparison's first one."""
    by_id = {row["comparison_id"]: row for row in rows}
    first = aliased(Response)
    answers = (
        select(Comparison.id, first.text, first.turns)
        .join(first, first.id == Comparison.first_response_id)
        .where(among(session, Comparison.id, list(by_id)))
    )
    return {
        number: files.messages_of(text, turns) == by_id[number]["chosen"]
        for number, text, turns in session.execute(answers)
    }


def cast_on(
    session: Session, snapshot: Snapshot, rows: Sequence[dict[str, Any]], chosen_first: dict[int, bool]
) -> Iterator[tuple[dict[str, Any], int, bool]]:
    """(line, person, whether they chose what the line says was chosen) for each vote of a snapshot's time for one of both answers.

    rows: lines of one of the snapshot's files. chosen_first: of `sides_of`.
    """
    by_id = {row["comparison_id"]: row for row in rows}
    cast = (
        select(Judgment.comparison_id, Judgment.user_id, Judgment.choice)
        .where(
            among(session, Judgment.comparison_id, list(by_id)),
            Judgment.choice.in_((Choice.FIRST, Choice.SECOND)),
            votes.in_force_at(snapshot.created_at),
        )
        .order_by(Judgment.comparison_id, Judgment.id)
    )
    for number, user_id, choice in session.execute(cast).tuples():
        yield by_id[number], user_id, (choice is Choice.FIRST) is chosen_first[number]


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return asdict(estimate)
