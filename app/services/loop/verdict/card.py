"""A checkpoint's verdicts as Markdown, for its model card: the same sentences as on the page, and no names of people."""

import re
from collections.abc import Sequence

from app.models import Checkpoint, EvaluationState
from app.services.loop.verdict import evidence, words
from app.services.loop.verdict.shape import Kept
from app.storage import Storage

CARD, FILE = "README.md", "EVALUATIONS.md"
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
LARGEST_CARD = 200_000


def whole(checkpoint: Checkpoint, storage: Storage, told: Sequence[Kept], *, front_matter: bool = True) -> str:
    """The model card with what blind evaluations came to; `front_matter`: with the YAML that is for hubs. It reads a file: not within a
    write transaction. Empty where the checkpoint has no card, or an absurdly long one, and wasn't judged."""
    stored = next((file for file in checkpoint.files if file.name == CARD and file.size <= LARGEST_CARD), None)
    card = ""
    if stored is not None and storage.exists(stored.key):
        card = storage.read_bytes(stored.key).decode("utf-8", "replace")
    if not front_matter:
        card = FRONT_MATTER.sub("", card)
    return "\n\n".join(part.strip() for part in (card, text(told)) if part.strip())


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
