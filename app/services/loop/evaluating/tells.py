"""What may give a side away to who judges: noted with the pair, so that the verdict can be read without such pairs. Pure."""

import re
from collections.abc import Iterable

from app.services.loop.generating import likeness
from app.services.loop.generating.likeness import Mark

FORMATTING = {
    "headings": re.compile(r"^#{1,6} ", re.MULTILINE),
    "lists": re.compile(r"^\s*(?:[-*+]|\d+[.)]) ", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    "code": re.compile(r"```|`[^`\n]+`"),
    "tables": re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE),
    "formulas": re.compile(r"\$\$|\\\(|\\\["),
}


def of_pair(new: str, old: str, *, cut: tuple[bool, bool], names: Iterable[str] = ()) -> dict[str, list[str]]:
    """What stands out on each side: {new: [names_a_model, at_limit, only_lists …], old: […]}; empty where nothing does.

    cut: whether each answer stopped at the length limit. names: those of the sources.
    """
    known = list(names)
    told = {}
    for side, text, other, is_cut in (("new", new, old, cut[0]), ("old", old, new, cut[1])):
        kinds = [
            *([Mark.NAMES_A_MODEL.value] if likeness.names_a_model(text, known) else []),
            *([Mark.AT_LIMIT.value] if is_cut else []),
            *(f"only_{kind}" for kind, sign in FORMATTING.items() if sign.search(text) and not sign.search(other)),
        ]
        told[side] = kinds
    return told if any(told.values()) else {}
