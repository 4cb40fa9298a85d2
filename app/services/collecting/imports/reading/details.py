"""What Prefloop's own form keeps of a vote beside the choice, as a judgment stores it. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.models import Side
from app.services.collecting.exclusions import LONGEST_REASON, LeftOut
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.imports.records.refusals import BadLine, shown

TIMES = ("submitted_at", "shown_at")
TRUTHS = ("late", "superseded")
LONGEST_FLAG, MOST_FLAGS = 64, 50


def details_of(given: Mapping[str, Any], reader: Reader) -> dict[str, Any]:
    """The details of a vote, checked; what isn't kept is counted by its name. Raises BadLine."""
    kept: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key in TIMES:
            kept[key] = _time(value, key)
        elif key in TRUTHS:
            kept[key] = _truth(value, key)
        elif key == "flags":
            kept[key] = _flags(value)
        elif key == "excluded":
            kept[key] = left_out(value, "judgments[].excluded")
        elif key == "first_side":
            if value not in list(Side):
                raise _wrong(key, value, f"one of {', '.join(Side)}")
            kept[key] = Side(value)
        elif key == "guideline_version":
            if type(value) is not int or not 0 <= value < 2**31:
                raise _wrong(key, value, "a whole number from 0")
            kept[key] = value
        else:
            reader.leave_out(f"judgments[].{key}")
    return kept


def left_out(value: Any, column: str) -> LeftOut:
    """That something was left out where a file was made. Raises BadLine."""
    if not isinstance(value, dict) or value.keys() - {"at", "reason", "of"}:
        raise BadLine("bad_field", f"`{column}` is {shown(value)}, not an object with at and reason.")
    reason, of = value.get("reason") or "", value.get("of")
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON or "\0" in reason or of not in (None, "person"):
        raise BadLine(
            "bad_field", f"`{column}` has {shown(value)}, not a reason of up to {LONGEST_REASON:,} characters."
        )
    return LeftOut(_time(value.get("at"), f"{column}.at"), reason, of_person=of == "person")


def _wrong(key: str, value: Any, wanted: str) -> BadLine:
    column = key if "." in key else f"judgments[].{key}"
    return BadLine("bad_field", f"`{column}` is {shown(value)}, not {wanted}.")


def _time(value: Any, key: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        return (time.replace(tzinfo=UTC) if time.tzinfo is None else time).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(key, value, "a time such as 2026-01-31T12:00:00+00:00") from None


def _truth(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _flags(value: Any) -> list[str]:
    is_list = isinstance(value, list) and len(value) <= MOST_FLAGS
    if not is_list or not all(
        isinstance(flag, str) and len(flag) <= LONGEST_FLAG and "\0" not in flag for flag in value
    ):
        raise _wrong("flags", value, f"a list of up to {MOST_FLAGS} words")
    return value
