"""Which answers to one prompt are put against each other. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.models import Finish, Pairing
from app.services.loop.generating.likeness import Mark, Wording, names_a_model


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that arrived, by its place among those to its prompt."""

    source: int
    sample: int
    text: str
    finish: Finish


@dataclass(frozen=True, slots=True)
class Dealt:
    """`pairs`: places in the answers that were given. `marks`: of each answer. `same`, `near`: pairs that the rule wanted and
    that weren't made, since both answers are the same, or nearly."""

    pairs: list[tuple[int, int]]
    marks: list[list[str]]
    same: int
    near: int


def deal(given: Sequence[Given], rule: Pairing, *, names: Iterable[str] = ()) -> Dealt:
    """The pairs of one prompt's answers by the rule; identical and nearly identical answers are never paired.

    Across: each two sources, sample against sample. Round robin: each answer against the next, in turns of the sources.
    names: what the sources are called.
    """
    names = tuple(names)
    wordings = [Wording(one.text) for one in given]
    usable = [at for at, one in enumerate(given) if one.finish is not Finish.FAILED and wordings[at].text]
    pairs, same, near = [], 0, 0
    for first, second in _wanted([(at, given[at]) for at in usable], rule):
        if wordings[first].is_same(wordings[second]):
            same += 1
        elif wordings[first].is_near(wordings[second]):
            near += 1
        else:
            pairs.append((first, second))
    return Dealt(pairs, [_marks(at, given, wordings, usable, names) for at in range(len(given))], same, near)


def _wanted(answers: Sequence[tuple[int, Given]], rule: Pairing) -> list[tuple[int, int]]:
    if rule is Pairing.NONE:
        return []
    if rule is Pairing.ACROSS:
        return [
            (first, second)
            for first, one in answers
            for second, other in answers
            if one.source < other.source and one.sample == other.sample
        ]
    turns = [at for at, _ in sorted(answers, key=lambda answer: (answer[1].sample, answer[1].source))]
    return list(pairwise(turns if len(turns) < 3 else [*turns, turns[0]]))  # two answers are one pair, not two


def _marks(
    at: int, given: Sequence[Given], wordings: Sequence[Wording], usable: Sequence[int], names: Sequence[str]
) -> list[str]:
    one = given[at]
    if one.finish is Finish.FAILED:
        return []
    if at not in usable:
        return [Mark.EMPTY.value]
    marks = []
    earlier = [wordings[other] for other in usable if other < at]
    if any(wordings[at].is_same(other) for other in earlier):
        marks.append(Mark.IDENTICAL.value)
    elif any(wordings[at].is_near(other) for other in earlier):
        marks.append(Mark.NEAR_IDENTICAL.value)
    if names_a_model(one.text, names):
        marks.append(Mark.NAMES_A_MODEL.value)
    if one.finish is Finish.LENGTH:
        marks.append(Mark.AT_LIMIT.value)
    return marks
