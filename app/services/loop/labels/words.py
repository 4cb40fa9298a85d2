"""What a label check's figures say, in words for pages, commands and scripts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.stats.loop.flips import RELIABLE


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the list of contradictions can be trusted if `share` of the labels are wrong."""

    share: float
    reliable: bool
    sentence: str


def trust(result: Mapping[str, Any]) -> list[Trust]:
    """One for each share that was planted, the smallest first."""
    return [Trust(one["share"], one["reliable"], _sentence(one)) for one in result["precision"]]


def _sentence(one: Mapping[str, Any]) -> str:
    given = f"If {_percent(one['share'])} of the labels are wrong"
    precision, base = one["precision"], 100 * one["base_rate"]
    if precision["value"] is None:
        return f"{given}: not reliable here. With flips planted in this same data, no pair was so flagged."
    of = f"of 100 pairs so flagged about {100 * precision['value']:.0f} are really flipped "
    of += f"({100 * precision['low']:.0f}–{100 * precision['high']:.0f})"
    if one["reliable"]:
        return f"{given}, {of}, from flips planted in this same data."
    return (
        f"{given}: not reliable here. From flips planted in this same data, {of}, and it can't be told that this is "
        f"{RELIABLE:.0f} times the {base:.0f} of any 100 pairs."
    )


def agreement(result: Mapping[str, Any]) -> str:
    """How well the labels are foreseen at all."""
    told = result["agreement"]
    if told["value"] is None:
        return "No pair could be asked about."
    return (
        f"Models that weren't trained on a pair choose as its label does in {_percent(told['value'])} "
        f"({100 * told['low']:.0f}–{_percent(told['high'])}) of {told['count']:,} prompts."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
