"""Groups of near-duplicate prompts: a question is trained on or evaluated with, in all the ways in which it was written.

A new prompt gets the split of its group's oldest. One that is near to two groups makes one of them. Prompts that are stored
keep their split, so a group may then stand on both sides; training leaves its pairs out (`services.datasets`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.bulk import among, insert_rows, next_ids
from app.models import Project, Prompt, PromptGroup, PromptKey, Split
from app.services.collecting.duplicates import near
from app.services.collecting.duplicates.near import Found, Key, Wording, wordings
from app.services.collecting.messages import Message


@dataclass(slots=True)
class Group:
    """Prompts that are near duplicates of each other, or one alone. `members` are those that matter here; `number` is the
    stored group's, and `merged` those of stored groups that became part of it."""

    split: Split
    oldest: int
    members: list[Key]
    number: int | None = None
    merged: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Looked:
    """What was seen of new prompts, in their order, and the groups of the stored ones among it."""

    wordings: Mapping[str, Wording]
    seen: Mapping[str, Found]
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new prompt belongs."""

    split: Split
    group_id: int | None


def look(
    session: Session,
    *,
    project: Project,
    new: Mapping[str, Sequence[Message]],
    known: Mapping[str, Wording] | None = None,
) -> Looked:
    """The near duplicates of prompts that aren't stored yet, by their content hash. `known`: wordings from an earlier look."""
    worded = known or {}
    if not new.keys() <= worded.keys():
        worded = dict(zip(new, wordings(new.values()), strict=True))
    filed = _filed(session, project, {key for prompt in new for key in (worded[prompt].whole, *worded[prompt].sketch)})
    seen = near.find({prompt: worded[prompt] for prompt in new}, filed, lambda prompts: _wordings(session, prompts))
    stored = {key for one in seen.values() for key in one.near if isinstance(key, int)}
    return Looked(worded, seen, _groups(session, stored) if stored else [])


def _filed(session: Session, project: Project, keys: set[int]) -> dict[int, list[tuple[Key, int]]]:
    rows = session.execute(
        select(PromptKey.key, PromptKey.prompt_id, PromptKey.fingerprint)
        .where(PromptKey.project_id == project.id, among(session, PromptKey.key, sorted(keys)))
        .order_by(PromptKey.prompt_id)
    )
    filed: dict[int, list[tuple[Key, int]]] = {}
    for key, prompt_id, fingerprint in rows:
        filed.setdefault(key, []).append((prompt_id, fingerprint))
    return filed


def _wordings(session: Session, prompts: Sequence[Key]) -> dict[Key, Wording]:
    rows = session.execute(select(Prompt.id, Prompt.messages).where(among(session, Prompt.id, prompts))).all()
    return dict(zip((row.id for row in rows), wordings(row.messages for row in rows), strict=True))


def _groups(session: Session, prompts: set[int]) -> list[Group]:
    """The groups in which stored prompts are."""
    rows = session.execute(
        select(Prompt.id, Prompt.split, Prompt.group_id).where(among(session, Prompt.id, prompts))
    ).all()
    groups = [Group(split, number, [number]) for number, split, group_id in rows if group_id is None]
    members: dict[int, list[Key]] = {}
    for number, _, group_id in rows:
        if group_id is not None:
            members.setdefault(group_id, []).append(number)
    stored = session.execute(
        select(PromptGroup.id, PromptGroup.split, func.min(Prompt.id))
        .join(Prompt, Prompt.group_id == PromptGroup.id)
        .where(among(session, PromptGroup.id, members))
        .group_by(PromptGroup.id, PromptGroup.split)
    )
    groups += [Group(split, oldest, members[number], number) for number, split, oldest in stored]
    return groups


def place(
    session: Session, *, project: Project, looked: Looked, ids: Mapping[str, int], alone: Mapping[str, Split]
) -> dict[str, Place]:
    """Decides where new prompts belong and stores their groups; the prompts themselves are to be inserted next.

    ids: those that the new prompts will have. alone: the split of each, were nothing near it.
    """
    grouped, splits = _join(looked, ids, alone)
    several = [group for group in {id(group): group for group in grouped.values()}.values() if len(group.members) > 1]
    new = [group for group in several if group.number is None]
    for group, number in zip(new, next_ids(session, PromptGroup, len(new)), strict=True):
        group.number = number
    insert_rows(
        session, PromptGroup, ("id", "split"), [(one.number, one.split.value) for one in new], project_id=project.id
    )
    for group in several:
        _store(session, group)
    insert_rows(
        session,
        PromptKey,
        ("key", "prompt_id", "fingerprint"),
        sorted((key, ids[prompt], seen.fingerprint) for prompt, seen in looked.seen.items() for key in seen.filed),
        project_id=project.id,
    )
    return {prompt: Place(splits[prompt], grouped[prompt].number) for prompt in looked.seen}


def _join(
    looked: Looked, ids: Mapping[str, int], alone: Mapping[str, Split]
) -> tuple[dict[Key, Group], dict[str, Split]]:
    """The group of every prompt in question after the new ones have joined, and the split that each of these got, as if they
    had come one by one: what becomes of a file doesn't hang on its batches."""
    grouped = {member: group for group in looked.groups for member in group.members}
    splits = {}
    for prompt, seen in looked.seen.items():
        near = {id(grouped[key]): grouped[key] for key in seen.near if key in grouped}
        oldest, *others = sorted(near.values(), key=lambda group: group.oldest) or [
            Group(alone[prompt], ids[prompt], [])
        ]
        for other in others:
            _merge(oldest, other)
            grouped |= dict.fromkeys(other.members, oldest)
        oldest.members.append(prompt)
        grouped[prompt], splits[prompt] = oldest, oldest.split
    return grouped, splits


def _merge(into: Group, other: Group) -> None:
    into.members += other.members
    into.merged += other.merged
    if other.number is not None:
        if into.number is None:
            into.number = other.number
        else:
            into.merged.append(other.number)


def _store(session: Session, group: Group) -> None:
    """Gives stored prompts their group; new ones are inserted with it."""
    unmatched = {"synchronize_session": False}
    stored = [key for key in group.members if isinstance(key, int)]
    if stored:
        theirs = update(Prompt).where(among(session, Prompt.id, stored), Prompt.group_id.is_(None))
        session.execute(theirs.values(group_id=group.number), execution_options=unmatched)
        split = update(PromptGroup).where(PromptGroup.id == group.number, PromptGroup.split != group.split)
        session.execute(split.values(split=group.split), execution_options=unmatched)
    if group.merged:
        moved = update(Prompt).where(among(session, Prompt.group_id, group.merged))
        session.execute(moved.values(group_id=group.number), execution_options=unmatched)
        session.execute(
            delete(PromptGroup).where(among(session, PromptGroup.id, group.merged)), execution_options=unmatched
        )


def of_prompts(session: Session, *, ids: Collection[int]) -> dict[int, str]:
    """By what prompts that ask the same are one: the group's name, or the prompt's own where it has none."""
    rows = session.execute(select(Prompt.id, Prompt.group_id).where(among(session, Prompt.id, ids))).tuples()
    return {number: f"prompt {number}" if group is None else f"group {group}" for number, group in rows}
