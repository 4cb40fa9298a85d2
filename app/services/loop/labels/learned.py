"""What the runs of a study say: how much a person's votes brought the model towards their own eval votes, and everybody's.

Runs with and without somebody's votes are compared on the same eval prompts. Done by the sweeper once all runs of a study have
succeeded, so that no page reads files.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import NotFound
from app.models import CheckpointFile, JobState, PersonRun, PersonStudy, Snapshot
from app.models.base import now
from app.services.datasets import files, snapshots
from app.services.loop import failing
from app.services.loop.labels import findings, studies
from app.services.training import checkpoints, runs
from app.stats.loop.paired import paired_by_prompt
from app.stats.loop.win_rate import Vote, of_votes
from app.storage import Storage

AT_ONCE = 5  # studies that one sweep compares
Margins = Mapping[int, float]
Values = dict[int, float]


@dataclass
class Eval:
    """The eval pairs of a snapshot. `prompts`: of each line its prompt; `votes`: line, person, and whether they chose what the line
    says was chosen."""

    prompts: dict[int, int] = field(default_factory=dict)
    votes: list[tuple[int, int, bool]] = field(default_factory=list)


def settle_all(engine: Engine, storage: Storage) -> list[int]:
    """Compares the studies of which every run has succeeded; returns their ids."""
    with read_session(engine) as session:
        waiting = select(PersonStudy.id).where(PersonStudy.compared_at.is_(None)).order_by(PersonStudy.id.desc())
        numbers = list(session.scalars(waiting.limit(200)))
        told = studies.progress(session, study_ids=numbers)
    ready = [number for number, of in told.items() if of and all(state is JobState.SUCCEEDED for _, state in of)]
    for number in ready[:AT_ONCE]:
        _settle(engine, storage, number)
    return ready[:AT_ONCE]


def _settle(engine: Engine, storage: Storage, study_id: int) -> None:
    try:
        result = {"problem": "", "people": _compare(engine, storage, study_id)}
    except failing.AWAY:
        raise
    except Exception as problem:  # what is wrong with one keeps no other from its own
        why = failing.told(problem, what="Its comparison", next_step="The server's log says where; ask again.")
        result = {"problem": why, "people": []}
    with write_session(engine) as session:
        session.execute(
            update(PersonStudy)
            .where(PersonStudy.id == study_id, PersonStudy.compared_at.is_(None))
            .values(result=result, compared_at=now())
        )


def _compare(engine: Engine, storage: Storage, study_id: int) -> list[dict[str, Any]]:
    with read_session(engine) as session:
        study = session.get_one(PersonStudy, study_id)
        run = runs.get(session, study.of_job_id)
        rows = [row for row, _ in studies.progress(session, study_ids=[study_id])[study_id]]
        margins = {row.job_id: _margins(session, storage, row.job_id) for row in rows}
        told = _eval(session, storage, run.snapshot)
    return [_person(person, study, rows, margins, told) for person in study.people]


def _margins(session: Session, storage: Storage, job_id: int) -> Margins:
    """Each eval line's margin by a run's weights. Raises NotFound where it left none."""
    made = checkpoints.of_run(session, run=runs.get(session, job_id))
    kept: CheckpointFile | Any = next(
        (file for one in made[-1:] for file in one.files if file.name == studies.MARGINS), None
    )
    if kept is None:
        raise NotFound(f"Run {job_id} left no margins of its eval pairs.", "Ask for other seeds.")
    told = json.loads(storage.read_bytes(kept.key))
    return dict(zip(told["lines"], told["margins"], strict=True))


def _eval(session: Session, storage: Storage, snapshot: Snapshot) -> Eval:
    told = Eval()
    with storage.open(snapshots.file(snapshot, "eval.jsonl").key) as lines:
        following = enumerate(map(orjson.loads, lines), 1)
        while page := list(islice(following, files.PAGE)):
            at = {row["comparison_id"]: line for line, row in page}
            told.prompts |= {line: row["prompt_id"] for line, row in page}
            rows = [row for _, row in page]
            sides = findings.sides_of(session, rows)
            told.votes += [
                (at[row["comparison_id"]], person, for_chosen)
                for row, person, for_chosen in findings.cast_on(session, snapshot, rows, sides)
            ]
    return told


def _person(
    person: int, study: PersonStudy, rows: list[PersonRun], margins: Mapping[int, Margins], told: Eval
) -> dict[str, Any]:
    of = {(row.user_id, row.seed): margins[row.job_id] for row in rows}
    own = [(line, for_chosen) for line, who, for_chosen in told.votes if who == person]
    others = [(line, for_chosen) for line, who, for_chosen in told.votes if who != person]
    labels = [(line, True) for line in told.prompts]
    with_all = of[None, study.seeds[0]]
    agreement = of_votes(Vote(told.prompts[line], person, value) for line, value in _agreeing(own, with_all))
    confidence = 1 - 0.05 / len(study.people)
    return {
        "user_id": person,
        "pairs": next(row.pairs for row in rows if row.user_id == person),
        "agreement": asdict(agreement),
        **{
            name: _difference(votes, person, study.seeds, of, told, confidence)
            for name, votes in (("own", own), ("others", others), ("labels", labels))
        },
    }


def _difference(
    votes: list[tuple[int, bool]],
    person: int,
    seeds: list[int],
    of: Mapping[tuple[int | None, int], Margins],
    told: Eval,
    confidence: float,
) -> dict[str, Any] | None:
    """Agreement with these votes by the runs with the person's votes less that by those without; None for fewer than two prompts."""
    by_seed = []
    for seed in seeds:
        with_them, without_them = (_by_prompt(votes, of[who, seed], told) for who in (None, person))
        by_seed.append(
            {prompt: with_them[prompt] - without_them[prompt] for prompt in with_them.keys() & without_them.keys()}
        )
    prompts = sorted(set.intersection(*(set(one) for one in by_seed)))
    if len(prompts) < 2:
        return None
    paired = paired_by_prompt([[one[prompt] for prompt in prompts] for one in by_seed], confidence=confidence)
    return asdict(paired.difference)


def _by_prompt(votes: list[tuple[int, bool]], margins: Margins, told: Eval) -> Values:
    values: dict[int, list[float]] = defaultdict(list)
    for line, value in _agreeing(votes, margins):
        values[told.prompts[line]].append(value)
    return {prompt: sum(of) / len(of) for prompt, of in values.items()}


def _agreeing(votes: list[tuple[int, bool]], margins: Margins) -> Iterator[tuple[int, float]]:
    """Of each vote whether the model would have chosen the same."""
    for line, for_chosen in votes:
        if (margin := margins.get(line)) is not None:
            yield line, findings.agrees(margin if for_chosen else -margin)


def sentence(one: Mapping[str, Any], name: str, seeds: int, parent_id: int | None = None) -> str:
    """What the figures of one person say, claiming no more. parent_id: the checkpoint that all of the runs started from."""
    own = one["own"]
    if own is None:
        return f"{name}: too few votes of their own on eval prompts to tell."
    points = f"{100 * own['value']:+.0f} points ({100 * own['low']:+.0f} to {100 * own['high']:+.0f})"
    of = f"{name}: their votes in {one['pairs']:,} training pairs changed how often the model chooses as they do by {points}"
    if own["low"] > 0:
        words = "their preferences were learned"
    elif own["high"] < 0:
        words = "it chooses less as they do than without them"
    else:
        words = "no sign that theirs were learned from them"
    more = "" if seeds > 2 else "; one seed or two, so this is about these trainings"
    if parent_id is not None:
        more += f"; what checkpoint {parent_id}, from which these runs start, had learned before isn't in it"
    return f"{of}: {words}{more}."
