"""What is said of a file: its columns in one sentence, and what became of each. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.models import Difference, ImportReport
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.roles import WORDS, Role, normal

MOST_COLUMNS = 200
MOST_DIFFERENCES = 100
NOTES = {
    "columns_uncounted": "columns are too many to be told one by one",
    "equal_answers": "pairs of equal answers were left out of lines with several",
}
# Known to training alone: a project doesn't keep them.
NOT_KEPT = (Role.TOOLS,)
OF_COUNTED_VOTES = (Role.WEIGHT, Role.P_CHOSEN, Role.VOTES_CHOSEN)
IMPLICIT = "TRL's implicit prompt"
# Sets of columns by which a data set is known, the most particular first.
KNOWN = (
    ({"judgments", "responses", "prompt"}, "Prefloop's own form"),
    ({"messages", "preferred_output", "non_preferred_output"}, "OpenAI's preference form"),
    ({"context", "response1", "response2", "overall_preference"}, "HelpSteer3"),
    ({"history", "human_ref_a", "human_ref_b"}, "SHP"),
    ({"instruction", "completions"}, "UltraFeedback"),
    ({"prompt", "answers"}, "Nectar"),
    ({"conversation_a", "conversation_b"}, "an arena's conversations"),
    ({"model_a", "model_b", "response_a", "response_b"}, "an arena's votes"),
    ({"conversations", "chosen", "rejected"}, "ShareGPT"),
    ({"instruction", "generations"}, "distilabel"),
    ({"question", "chosen", "rejected"}, "orca"),
    ({"instruction", "chosen", "rejected"}, "Alpaca"),
    ({"prompt", "chosen", "rejected"}, "TRL's explicit prompt"),
    ({"chosen", "rejected"}, IMPLICIT),
    ({"prompt", "responses"}, "prompts with answers"),
)


def report(reader: Reader) -> ImportReport:
    """What became of a file's columns so far."""
    columns = columns_of(reader)
    notes = dict(reader.notes)
    if len(columns) > MOST_COLUMNS:
        notes["columns_uncounted"] = len(columns)
        columns = dict(list(columns.items())[:MOST_COLUMNS])
    return ImportReport(sentence(columns), columns, notes, [])


def and_differences(
    report: ImportReport, *, earlier: ImportReport, differences: Sequence[Difference] = ()
) -> ImportReport:
    """A report with what the file's lines say otherwise than the pairs that were there: those that were told before, and new ones."""
    told = [*earlier.differences, *differences][:MOST_DIFFERENCES]
    count = earlier.notes.get("differences", 0) + len(differences)
    return replace(report, notes=report.notes | ({"differences": count} if count else {}), differences=told)


def columns_of(reader: Reader) -> dict[str, dict[str, int]]:
    """What became of each column in a project: the number of lines by role."""
    columns = reader.columns()
    counted = any(Role.VOTES.value in roles for roles in columns.values())
    not_kept = {role.value for role in (NOT_KEPT if counted else (*NOT_KEPT, *OF_COUNTED_VOTES))}
    kept: dict[str, dict[str, int]] = {}
    for column, roles in columns.items():
        for role, lines in roles.items():
            became = Role.LEFT_OUT.value if role in not_kept else role
            into = kept.setdefault(column, {})
            into[became] = into.get(became, 0) + lines
    return kept


def sentence(columns: Mapping[str, Mapping[str, int]]) -> str:
    """What a file's columns were read as, in one sentence; empty where nothing was."""
    if not columns:
        return ""
    by_role: dict[str, list[str]] = {}
    for column, roles in columns.items():
        by_role.setdefault(max(roles, key=lambda role: roles[role]), []).append(f"`{column}`")
    names = {normal(column) for column, roles in columns.items() if roles.keys() != {Role.EMPTY.value}}
    known = next((name for needed, name in KNOWN if needed <= names), "")
    if known == IMPLICIT and Role.PROMPT.value in by_role:
        known = ""
    parts = [
        f"{_listed(members)} → {WORDS[Role(role)]}"
        for role, members in by_role.items()
        if role not in (Role.LEFT_OUT.value, Role.EMPTY.value)
    ]
    text = f"Read as {known}: " if known else "Read as "
    text += "; ".join(parts)
    if left := by_role.get(Role.LEFT_OUT.value):
        text += f"; left out: {_listed(left)}"
    return text + "."


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown) + more
