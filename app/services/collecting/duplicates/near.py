"""Prompts that ask the same in almost the same words: which ones do, and how they are looked up among millions. Pure.

Two prompts are near duplicates where their words are the same, or where the sets of their shingles, runs of five words
each, have a Jaccard index of 0.8 or more (Broder 1997). Words are compared without case, white space and Unicode's ways to
write a character. System messages don't count beside others: many data sets have the same one before every question.

To compare each prompt with each other would take years. A prompt is filed under its own words and under its smallest
shingles by hash, a sketch of it as MinHash makes one from a single permutation, and is looked up by some more. Who has the
same words is always seen. Of two prompts at an index of 0.8, 1 in 400 doesn't see the other, and far fewer above it. Who is
seen is compared exactly.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rensa import RMinHash

from app.services.collecting.messages import Message

WORDS = 5
LONGEST = 10_000  # words of a prompt that shingles are made of, so that a prompt of megabytes costs no more
FIFTHS = 4  # of five: the Jaccard index from which on prompts are near duplicates, in whole numbers
FEWEST = 4  # shingles; a set of fewer has such an index with its like alone
FILED = 3  # shingles that a prompt is filed under
LOOKED_UP = 8  # shingles that it is looked up by
ALIKE = 3  # shingles that two sketches of near duplicates have in common at least
CROWD = 8  # prompts under one shingle; beyond it others are filed under their next ones
SIGN = 1 << 63  # databases have no unsigned numbers
COMPARED = 16  # prompts that one is compared with, those with most in common first
# A character of a script that is written without spaces is a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
Key = int | str  # the id of a stored prompt, the content hash of a new one
Filed = Mapping[int, Sequence[tuple[Key, int]]]  # (prompt, its fingerprint) by what it is filed under


class Wording(NamedTuple):
    """A prompt's words as 64-bit signed hashes: of all of them in order, and of its smallest shingles in order. `packed` are the hashes
    of each shingle, eight bytes one: few prompts are compared exactly, and all come from one process to another. `marks` are a byte of
    each shingle in the sketch, `fingerprint` these in a number: few others are compared for having some in common."""

    whole: int
    sketch: tuple[int, ...]
    packed: bytes
    marks: frozenset[int]
    fingerprint: int

    @property
    def shingles(self) -> frozenset[int]:
        return frozenset(memoryview(self.packed).cast("Q"))

    def is_like(self, fingerprint: int) -> bool:
        """Whether the prompt with this fingerprint may be a near duplicate."""
        alike = self.marks.intersection(fingerprint.to_bytes(LOOKED_UP, signed=True))
        return len(alike) >= min(ALIKE, len(self.marks))

    def is_near(self, other: "Wording") -> bool:
        """Whether the other prompt is a near duplicate."""
        mine, theirs = self.shingles, other.shingles
        common = len(mine & theirs)
        return 5 * common >= FIFTHS * (len(mine) + len(theirs) - common)


@dataclass(frozen=True, slots=True)
class Found:
    """The near duplicates of a prompt among those before it, and what it is filed under, with its fingerprint."""

    near: list[Key]
    filed: list[int]
    fingerprint: int


def words(messages: Sequence[Message]) -> list[str]:
    """A prompt's words in a form in which they can be compared."""
    said = [message["content"] for message in messages if message["role"] != "system"]
    text = "\n".join(said or [message["content"] for message in messages])
    if text.isascii():
        return text.lower().split()
    # Folding may undo the form, and the form the folding (Unicode 15, D145).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).casefold()
    return WORD.findall(unicodedata.normalize("NFKC", folded))


def wordings(prompts: Iterable[Sequence[Message]]) -> Iterator[Wording]:
    """The wording of each prompt. One of fewer words than a shingle has is a single shingle."""
    texts = []
    for messages in prompts:
        said = words(messages)
        whole = " ".join(said)
        runs = [" ".join(run) for run in zip(*(said[at:LONGEST] for at in range(WORDS)), strict=False)]
        texts.append([f"\n{whole}", *(runs or [whole])])
    for whole, *runs in RMinHash.hash_token_sets(texts):
        shingles = frozenset(runs)
        smallest = sorted(shingles)[:LOOKED_UP]
        marks = frozenset(shingle & 255 or 1 for shingle in smallest)
        yield Wording(
            whole - SIGN,
            tuple([shingle - SIGN for shingle in smallest]),
            array("Q", shingles).tobytes(),
            marks,
            int.from_bytes(bytes(marks).ljust(LOOKED_UP, b"\0"), signed=True),
        )


def find(
    new: Mapping[str, Wording],
    stored: Filed,
    wordings_of: Callable[[Sequence[Key]], Mapping[Key, Wording]],
) -> dict[str, Found]:
    """What is near each of these prompts, which are added one after the other.

    stored: the prompts that are filed under anything by which the new ones are looked up. wordings_of: the wordings of those
    among them that are still there. It is asked once.
    """
    filed = {key: list(prompts) for key, prompts in stored.items()}
    before = {prompt: _candidates(wording, filed) for prompt, wording in new.items()}
    asked = dict.fromkeys(key for candidates in before.values() for key in candidates)
    known = dict(wordings_of(list(asked))) if asked else {}
    seen, added = {}, set[int]()
    for prompt, wording in new.items():
        is_as_before = added.isdisjoint((wording.whole, *wording.sketch))
        candidates = before[prompt] if is_as_before else _candidates(wording, filed)
        near = [key for key in candidates if key in known and wording.is_near(known[key])]
        places: list[int] = []
        if all(known[key].whole != wording.whole for key in near):  # else whoever finds this one finds that one
            free = [key for key in wording.sketch if len(filed.get(key, ())) < CROWD]
            places = [wording.whole, *free[: FILED if len(wording.packed) >= 8 * FEWEST else 1]]
        known[prompt] = wording
        fingerprint = wording.fingerprint
        seen[prompt] = Found(near, places, fingerprint)
        for key in places:
            filed.setdefault(key, []).append((prompt, fingerprint))
        added.update(places)
    return seen


def _candidates(wording: Wording, filed: Filed) -> list[Key]:
    """The prompts that one is compared with: who may have the same words, and who has most in common."""
    same = filed.get(wording.whole, ())
    others = [prompts for key in wording.sketch if (prompts := filed.get(key))]
    if not same and not others:
        return []
    common = Counter(prompt for prompts in others for prompt, fingerprint in prompts if wording.is_like(fingerprint))
    likely = [prompt for prompt, _ in same] + [prompt for prompt, _ in common.most_common(COMPARED)]
    return list(dict.fromkeys(likely))
