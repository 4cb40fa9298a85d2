"""A checkpoint's verdicts as Markdown, for its model card: the same sentences as on the page, and no names of people."""

from collections.abc import Sequence

from app.models import EvaluationState
from app.services.loop.verdict import evidence, words
from app.services.loop.verdict.shape import Kept

FILE = "EVALUATIONS.md"


def text(told: Sequence[Kept]) -> str:
    """What blind evaluations that have ended came to, newest first; empty where there are none."""
    ended = [one for one in told if not evidence.is_open(one.evaluation)]
    if not ended:
        return ""
    head = "## Judged blind\n\nPeople chose between its answers and another's without knowing which was which.\n"
    return "\n".join([head, *(_section(one) for one in ended)])


def _section(told: Kept) -> str:
    row, verdict = told.evaluation, told.verdict
    said = [f"### Against {words.against(row)}", "", words.summary(row, verdict), ""]
    if verdict is None or not verdict.prompts or row.state is EvaluationState.VOID:
        return "\n".join(said)
    ending = words.ended(row, verdict)
    if ending and row.state is not EvaluationState.STOPPED:  # that would name who stopped it
        said += [ending, ""]
    said += [f"- {line}" for line in words.lines(verdict)]
    said += [
        f"- {verdict.won:,} won, {verdict.lost:,} lost, {verdict.tied:,} tied; {words.many(verdict.judgments, 'judgment')}.",
        f"- The interval holds with {words.percent(verdict.confidence)} at all looks together.",
        f"- Plan, fixed before the first judgment: SHA-256 `{row.plan_sha256}`.",
        "",
    ]
    return "\n".join(said)
