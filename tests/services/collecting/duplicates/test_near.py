"""Which prompts are near duplicates, and that they are seen among many."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from app.services.collecting.duplicates import near
from app.services.collecting.duplicates.near import COMPARED, Key, Wording, find, wordings
from app.services.collecting.messages import Message

SAID = " ".join(f"word{number}" for number in range(30))


def prompt(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def wording(text: str) -> Wording:
    (one,) = wordings([prompt(text)])
    return one


def are_near(one: str, other: str) -> bool:
    """As `find` says of two prompts that come one after the other."""
    new = dict(zip("ab", wordings([prompt(one), prompt(other)]), strict=True))
    return find(new, {}, lambda keys: {})["b"].near == ["a"]


def test_white_space_case_and_unicode_form_make_no_difference() -> None:
    for one, other in [
        ("Why is the sky blue?", " why  is\nthe SKY blue? \n"),
        ("Wie heißt die Straße?", "WIE HEISST DIE STRASSE?"),
        ("un caf\u00e9", "un cafe\u0301"),
        ("\uff21\uff22 ﬁne", "ab fine"),
        ("空は なぜ青いですか", "空はなぜ青いですか"),
        ("Yes", "yes "),
    ]:
        assert are_near(one, other), (one, other)


def test_other_words_make_another_prompt() -> None:
    for one, other in [
        ("Why is the sky blue?", "Why is the sea blue?"),
        ("Yes", "No"),
        (SAID, SAID.replace("word3 ", "other ").replace("word20 ", "other ")),
        ("空はなぜ青いですか", "海はなぜ青いですか"),
    ]:
        assert not are_near(one, other), (one, other)


def test_a_changed_word_among_many_is_a_near_duplicate_and_two_more_are_not() -> None:
    words = [f"word{number}" for number in range(60)]
    # Of 56 shingles a changed word in the middle changes five: 51 of 61 are common. Three words leave 41 of 71.
    assert are_near(" ".join(words), " ".join([*words[:30], "other", *words[31:]]))
    assert not are_near(
        " ".join(words), " ".join("other" if at in (15, 30, 45) else word for at, word in enumerate(words))
    )


def test_of_an_endless_prompt_its_beginning_counts() -> None:
    words = " ".join(f"word{number}" for number in range(near.LONGEST))
    assert are_near(words + " and so on" * 9_000, words + " in other words" * 9_000)
    assert max(len(one.shingles) for one in wordings([prompt("x " + "a b c d e f g " * 300_000)])) < near.LONGEST


def test_a_system_message_does_not_make_questions_alike_nor_different() -> None:
    system = [{"role": "system", "content": SAID}]
    alike = dict(
        zip("abc", wordings([[*system, *prompt("Why?")], [*system, *prompt("How?")], prompt("why?")]), strict=True)
    )
    seen = find(alike, {}, lambda keys: {})
    assert (seen["b"].near, seen["c"].near) == ([], ["a"])


def jaccard(one: str, other: str) -> float:
    """By the definition, of words as they stand."""
    sets = []
    for text in (one, other):
        words = text.split()
        sets.append({tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=12).map(" ".join), max_size=12, unique=True))
def test_small_prompts_are_found_exactly_where_the_definition_says(texts: list[str]) -> None:
    seen = find(dict(zip(texts, wordings(map(prompt, texts)), strict=True)), {}, lambda keys: {})
    for at, text in enumerate(texts):
        near = {other for other in texts[:at] if jaccard(text, other) >= 0.8}
        assert set(seen[text].near) == near or len(near) > COMPARED


def changed(draw: random.Random, words: list[str]) -> list[str]:
    """A prompt of other words at one place, or with some added."""
    if draw.random() < 0.5:
        at = draw.randrange(len(words))
        return [*words[:at], "other", *words[at + 1 :]]
    return [*words, *("more" for _ in range(draw.randrange(1, 12)))]


def test_nearly_all_near_duplicates_are_seen_among_thousands() -> None:
    draw = random.Random(0)
    originals = [[f"w{draw.randrange(2000)}" for _ in range(draw.randrange(40, 90))] for _ in range(2000)]
    others = [changed(draw, words) for words in originals]
    texts = [" ".join(words) for words in (*originals, *others)]
    new = dict(zip(map(str, range(len(texts))), wordings(map(prompt, texts)), strict=True))
    seen = find(new, {}, lambda keys: {})
    near = [number for number in range(2000) if jaccard(texts[number], texts[2000 + number]) >= 0.8]
    seen = [number for number in near if str(number) in seen[str(2000 + number)].near]
    assert len(near) > 1500 and len(seen) >= 0.998 * len(near)


def test_prompts_that_share_half_of_their_words_hide_no_near_duplicate() -> None:
    draw = random.Random(0)
    template = [f"template{number}" for number in range(30)]
    originals = [[*template, *(f"w{draw.randrange(10_000)}" for _ in range(30))] for _ in range(1000)]
    texts = [" ".join(words) for words in (*originals, *([*words, "please"] for words in originals))]
    new = dict(zip(map(str, range(len(texts))), wordings(map(prompt, texts)), strict=True))
    seen = find(new, {}, lambda keys: {})
    assert sum(seen[str(1000 + number)].near == [str(number)] for number in range(1000)) >= 998


def test_the_stored_ones_that_are_compared_are_asked_for_once_and_few() -> None:
    draw = random.Random(0)
    template = [f"template{number}" for number in range(30)]
    texts = [" ".join([*template, *(f"w{draw.randrange(100)}" for _ in range(15))]) for _ in range(600)]
    stored = list(wordings(map(prompt, texts[:500])))
    filed: dict[int, list[tuple[Key, int]]] = {}
    for number, seen in find(dict(zip(map(str, range(500)), stored, strict=True)), {}, lambda keys: {}).items():
        for key in seen.filed:
            filed.setdefault(key, []).append((int(number), seen.fingerprint))
    asked: list[Sequence[Key]] = []

    def wordings_of(keys: Sequence[Key]) -> dict[Key, Wording]:
        asked.append(keys)
        return {key: stored[int(key)] for key in keys}

    find(dict(zip(texts[500:], wordings(map(prompt, texts[500:])), strict=True)), filed, wordings_of)
    assert len(asked) == 1 and 0 < len(asked[0]) <= COMPARED * 100
    assert max(map(len, filed.values())) <= near.CROWD


def test_one_that_is_gone_is_passed_over() -> None:
    before = wording("Why is the sky blue?")
    seen = find({"new": before}, {before.whole: [(7, before.fingerprint)]}, lambda keys: {})
    assert (seen["new"].near, seen["new"].filed[0]) == ([], before.whole)


def test_the_hashes_by_which_prompts_are_filed_stay_what_they_are() -> None:
    """Databases hold them: another version of the package, or of Unicode's rules, must not change them unnoticed."""
    one = wording("Why is the Sky blue, and  the sea?")
    assert (one.whole, one.fingerprint) == (-7852719781380099944, 5876477440976486400)
    assert one.sketch == (-5287875443894118063, -3273880732342755215, 3510643844458085401, 8441772247039259533)
