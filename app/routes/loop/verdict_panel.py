"""What a verdict looks like in one minute: the panel of its page and of the checkpoint's."""

from dataclasses import dataclass
from datetime import datetime

from app.models import Evaluation, EvaluationState, Project
from app.services.loop.verdict import words
from app.services.loop.verdict.shape import Kept, Verdict
from app.stats.loop.decision import Word


@dataclass(frozen=True, slots=True)
class Panel:
    """`result` follows the headline, `lines` stand below it, `note` says what is going on or why it ended."""

    evaluation: Evaluation
    verdict: Verdict | None
    title: str
    url: str
    headline: str
    result: str
    note: str
    lines: list[str]
    when: datetime | None
    when_word: str

    @property
    def is_open(self) -> bool:
        return self.evaluation.state in (EvaluationState.PREPARING, EvaluationState.ASKING)

    @property
    def may_be_taken(self) -> bool:
        """Whether the page offers to make it a candidate as the next thing to do."""
        reached = self.verdict is not None and self.verdict.word in (Word.BETTER, Word.NOT_WORSE)
        return reached and self.evaluation.state in (EvaluationState.DECIDED, EvaluationState.STOPPED)


def panel(told: Kept, project: Project) -> Panel:
    row, verdict = told.evaluation, told.verdict
    has_figures = verdict is not None and verdict.prompts > 0 and row.state is not EvaluationState.VOID
    shown = verdict if has_figures else None
    when, word = (row.ended_at, row.state.value) if row.ended_at else (row.asking_at, "asking since")
    if row.state is EvaluationState.PREPARING:
        when, word = row.created_at, "begun"
    return Panel(
        evaluation=row,
        verdict=shown,
        title=f"Checkpoint {row.checkpoint_id} against {words.against(row)}",
        url=f"/projects/{project.slug}/evaluations/{row.number}",
        headline=words.headline(row.state, verdict),
        result=words.result(shown) if shown else "",
        note=_note(row, shown),
        lines=words.lines(shown) if shown else [],
        when=when,
        when_word=word,
    )


def _note(row: Evaluation, verdict: Verdict | None) -> str:
    match row.state:
        case EvaluationState.PREPARING:
            return "Both sides are answering its prompts. People are asked when all answers are there."
        case EvaluationState.VOID:
            return row.reason or "Nothing of it counts any more."
        case EvaluationState.ASKING:
            return (
                words.to_go(verdict)
                if verdict
                else "Its pairs wait in the queue between others. Nothing that counts is in yet."
            )
    return words.ended(row, verdict)
