"""What the arms go by: where people disagreed, and what was asked before. Margins are in `margins`."""

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.bulk import among
from app.models import Choice, Comparison, Judgment, Project, Prompt, Response
from app.services.collecting import exclusions
from app.services.collecting.duplicates import near
from app.services.collecting.messages import Message

ASKED = 200  # pairs that were asked before with which new ones are compared


def disagreement(session: Session, *, project: Project, prompts: Collection[int]) -> dict[int, float]:
    """How far people disagreed on prompts, those alone on which they did.

    Of all two votes of different people on one pair of the prompt, or of a near duplicate of it, the share that chose differently, drawn
    towards one half as by one vote of each sort: (d + 1) / (n + 2). Skips, gold questions, evaluations and what is left out don't count.
    """
    own = select(Prompt.id, Prompt.group_id).where(among(session, Prompt.id, prompts))
    groups = dict(session.execute(own).tuples().all())
    numbers = {group for group in groups.values() if group is not None}
    same = select(Prompt.id, Prompt.group_id).where(among(session, Prompt.group_id, numbers))
    of_group = dict(session.execute(same).tuples().all()) if numbers else {}
    differing: Counter[tuple[str, int]] = Counter()
    either: Counter[tuple[str, int]] = Counter()
    for prompt_id, choices in _votes(session, project, groups.keys() | of_group.keys()):
        group = of_group.get(prompt_id)
        key = ("prompt", prompt_id) if group is None else ("group", group)
        said = Counter(choices)
        two = len(choices) * (len(choices) - 1) // 2
        either[key] += two
        differing[key] += two - sum(count * (count - 1) // 2 for count in said.values())
    told = {}
    for prompt_id, group in groups.items():
        key = ("prompt", prompt_id) if group is None else ("group", group)
        if differing[key]:
            told[prompt_id] = (differing[key] + 1) / (either[key] + 2)
    return told


def _votes(session: Session, project: Project, prompts: Collection[int]) -> list[tuple[int, list[Choice]]]:
    """(prompt, what people chose) of each of the prompts' pairs that two or more people judged."""
    excluded = exclusions.in_force(session, project_id=project.id)
    rows = session.execute(
        select(
            Comparison.id, Comparison.import_id, Comparison.prompt_id, Judgment.id, Judgment.user_id, Judgment.choice
        )
        .join(Judgment, (Judgment.comparison_id == Comparison.id) & ~Judgment.superseded)
        .where(
            among(session, Comparison.prompt_id, prompts),
            Comparison.evaluation_id.is_(None),
            Comparison.gold_choice.is_(None),
            Judgment.choice != Choice.SKIP,
        )
    ).tuples()
    of_pair: dict[int, tuple[int, list[Choice]]] = {}
    for comparison_id, import_id, prompt_id, judgment_id, user_id, choice in rows:
        if not excluded.has_pair(comparison_id, import_id) and not excluded.has_vote(judgment_id, user_id):
            of_pair.setdefault(comparison_id, (prompt_id, []))[1].append(choice)
    return [one for one in of_pair.values() if len(one[1]) > 1]


def asked(session: Session, *, project: Project) -> list[frozenset[str]]:
    """The words of the newest ordinary pairs of a project."""
    first, second = aliased(Response), aliased(Response)
    rows = session.execute(
        select(Prompt.messages, first.text, second.text)
        .select_from(Comparison)
        .join(Prompt, Prompt.id == Comparison.prompt_id)
        .join(first, first.id == Comparison.first_response_id)
        .join(second, second.id == Comparison.second_response_id)
        .where(Comparison.project_id == project.id, Comparison.evaluation_id.is_(None))
        .order_by(Comparison.id.desc())
        .limit(ASKED)
    ).tuples()
    return [words(messages, (one, other)) for messages, one, other in rows]


def words(messages: Sequence[Message], texts: Sequence[str]) -> frozenset[str]:
    """The words of a prompt and two answers to it, in the form in which near duplicates are compared."""
    said = near.words(messages)
    for text in texts:
        said += near.words([{"role": "assistant", "content": text}])
    return frozenset(said)
