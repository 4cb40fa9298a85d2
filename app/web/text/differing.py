"""What two answers have in common, word by word, for pages that show both."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

MOST_WORDS = 1_500  # of both together: the comparison's work grows with their product
FEWEST_SHARED = 0.3  # of both together: below it nearly everything would be marked, which says nothing
PIECES = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of an answer. `only`: the other one lacks it there."""

    text: str
    only: bool


def differing(new: str, old: str) -> tuple[list[Run], list[Run]] | None:
    """Both answers as stretches that they share or don't; None where they are too long to compare on a page, or share so
    little that marking it says nothing."""
    ones, others = PIECES.findall(new), PIECES.findall(old)
    if len(ones) + len(others) > 2 * MOST_WORDS:
        return None
    of_new: list[Run] = []
    of_old: list[Run] = []
    matcher = SequenceMatcher(None, ones, others, autojunk=False)
    same = sum(
        not ones[at].isspace() for first, _, size in matcher.get_matching_blocks() for at in range(first, first + size)
    )
    written = sum(not piece.isspace() for piece in [*ones, *others])
    if 2 * same < FEWEST_SHARED * written:
        return None
    for kind, start, stop, other_start, other_stop in matcher.get_opcodes():
        only = kind != "equal"
        if start < stop:
            of_new.append(Run("".join(ones[start:stop]), only))
        if other_start < other_stop:
            of_old.append(Run("".join(others[other_start:other_stop]), only))
    return of_new, of_old
