"""The prompts of an evaluation: drawn by chance among those that nobody trained on and that somebody is left for."""

import random
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Select, exists, literal_column, select
from sqlalchemy.orm import Session, aliased

from app.bulk import among
from app.models import Comparison, Judgment, Membership, Project, Prompt, Split, User
from app.services.loop.evaluating.wanted import Wanted

LOOKED_AT = 3  # times as many prompts as are wanted: some are known to everybody
OTHER, PAIR = aliased(Prompt), aliased(Comparison)


@dataclass(frozen=True)
class Chosen:
    """Prompts in the drawn order: (id, content hash). `left_out`: how many that were looked at can't serve, by reason:
    `alike` (a near duplicate of another one), `trained` (a near duplicate is trained on), `known` (too few people are left who
    don't know it). `people`: who may judge."""

    prompts: list[tuple[int, str]]
    left_out: Counter[str] = field(default_factory=Counter)
    people: int = 0


def choose(session: Session, *, project: Project, wanted: Wanted, seed: int | None = None) -> Chosen:
    """Draws prompts. It reads some times as many as are wanted, however many the project has."""
    seed = secrets.randbelow(2**31 - 1) if seed is None else seed
    draw = random.Random(seed)  # noqa: S311 - a plan, which can be drawn again
    rows = _candidates(session, project, wanted.prompts, wanted.maximum * LOOKED_AT, draw)
    left_out: Counter[str] = Counter()
    trained = trained_groups(session, {group for _, _, group in rows if group is not None})
    people = judges(session, project=project)
    knowers = known_by(session, [number for number, _, _ in rows], people=people)
    chosen: list[tuple[int, str]] = []
    groups: set[int] = set()
    draw.shuffle(rows)
    for number, content_hash, group in rows:
        if len(chosen) == wanted.maximum:
            break
        if group in trained:
            left_out["trained"] += 1
        elif group is not None and group in groups:
            left_out["alike"] += 1
        elif len(people) - len(knowers.get(number, ())) < wanted.votes:
            left_out["known"] += 1
        else:
            chosen.append((number, content_hash))
            groups.update([group] if group is not None else [])
    return Chosen(chosen, left_out, len(people))


def _candidates(
    session: Session, project: Project, split: Split, limit: int, draw: random.Random
) -> list[tuple[int, str, int | None]]:
    """Prompts of a split from a drawn place of an order by chance (their content hashes) on."""
    start = f"{draw.randrange(2**32):08x}"
    query: Select[int, str, int | None] = (
        select(Prompt.id, Prompt.content_hash, Prompt.group_id)
        .where(Prompt.project_id == project.id, Prompt.split == literal_column(f"'{split.value}'"))
        .order_by(Prompt.content_hash)
    )
    rows = list(session.execute(query.where(Prompt.content_hash >= start).limit(limit)).tuples())
    if len(rows) < limit:
        rows += session.execute(query.where(Prompt.content_hash < start).limit(limit - len(rows))).tuples()
    return sorted(rows)


def trained_groups(session: Session, groups: Collection[int]) -> set[int]:
    """Those of the groups of near duplicates in which a prompt is trained on."""
    if not groups:
        return set()
    query = select(Prompt.group_id).where(among(session, Prompt.group_id, groups), Prompt.split == Split.TRAIN)
    return {group for group in session.scalars(query.distinct()) if group is not None}


def judges(session: Session, *, project: Project) -> set[int]:
    """Who may judge in a project: its members, and everybody where it is open."""
    query = select(User.id).where(User.active)
    if not project.open_to_everybody:
        query = query.where(exists().where(Membership.user_id == User.id, Membership.project_id == project.id))
    return set(session.scalars(query))


def known_by(session: Session, prompt_ids: Sequence[int], *, people: Collection[int]) -> dict[int, set[int]]:
    """Who of the people knows each prompt: has judged a pair of it or of a near duplicate. `collecting.blind.looks` asks the
    same of one prompt and one person."""
    known: dict[int, set[int]] = {}
    if not prompt_ids or not people:
        return known
    own = (
        select(Prompt.id, Judgment.user_id)
        .join(PAIR, PAIR.prompt_id == Prompt.id)
        .join(Judgment, Judgment.comparison_id == PAIR.id)
        .where(among(session, Prompt.id, prompt_ids))
    )
    near = (
        select(Prompt.id, Judgment.user_id)
        .join(OTHER, OTHER.group_id == Prompt.group_id)
        .join(PAIR, PAIR.prompt_id == OTHER.id)
        .join(Judgment, Judgment.comparison_id == PAIR.id)
        .where(among(session, Prompt.id, prompt_ids), OTHER.id != Prompt.id)
    )
    for query in (own, near):
        for prompt_id, user_id in session.execute(query.distinct()).tuples():
            if user_id in people:
                known.setdefault(prompt_id, set()).add(user_id)
    return known
