"""One line to a pair: every form that is understood, and every reason for which a line is refused."""

import json
import string
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import Choice, SourceKind
from app.services.collecting.imports.reading.forms import REASONS, Parsed, parse
from app.services.collecting.imports.records.forms import Reader
from app.services.collecting.messages import Unfit
from app.services.collecting.pairs import NewPair, Source
from tests.brought import BROUGHT, Brought

USER = {"role": "user", "content": "Q"}
REPLY = {"role": "assistant", "content": "R"}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(row: Any) -> Parsed:
    return parse(row if isinstance(row, bytes) else json.dumps(row).encode())[0]


@pytest.mark.parametrize(
    ("row", "judged"),
    [
        ({"prompt": "Q", "responses": ["A", "B"]}, False),
        ({"prompt": [USER], "responses": [says("A"), {"role": "assistant", "content": "B"}]}, False),
        ({"prompt": "Q", "responses": [{"text": "A"}, {"text": "B"}]}, False),
        ({"prompt": "Q", "response_a": "A", "response_b": "B"}, False),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}], "responses": ["A", "B"]}, False),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, True),
        ({"prompt": [USER], "chosen": says("A"), "rejected": says("B")}, True),
        ({"prompt": "Q", "chosen": [USER, *says("A")], "rejected": [USER, *says("B")]}, True),
        ({"chosen": [USER, *says("A")], "rejected": [USER, *says("B")]}, True),
        ({"prompt": None, "chosen": [USER, *says("A")], "rejected": [USER, *says("B")]}, True),
        ({"chosen": "Q A", "rejected": "Q B"}, True),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, True),
        ({"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": " A", "rejected": " B"}, True),
    ],
)
def test_every_form_gives_the_same_pair(row: dict[str, Any], judged: bool) -> None:
    parsed = read(row)
    assert (parsed.pair.prompt, tuple(text.strip() for text in parsed.pair.responses), parsed.judged) == (
        [USER],
        ("A", "B"),
        judged,
    )


def test_all_that_may_stand_beside_a_pair_is_kept() -> None:
    assert read(
        {
            "prompt": "Q",
            "responses": ["A", "B"],
            "sources": ["m", {"kind": "person", "name": "Ann"}],
            "priority": -3,
            "gold": "second",
            "id": 17,
        }
    ).pair == NewPair(
        [USER], ("A", "B"), (Source(SourceKind.MODEL, "m"), Source(SourceKind.PERSON, "Ann")), -3, Choice.SECOND, "17"
    )
    assert read({"prompt": "Q", "response_a": "A", "response_b": "B", "source_a": "m"}).pair.sources[0].name == "m"
    assert read({"prompt": "Q", "responses": [{"text": "A", "source": "m"}, "B"]}).pair.sources == (
        Source(SourceKind.MODEL, "m"),
        Source(),
    )
    assert (
        read({"prompt": "Q", "chosen": "A", "rejected": "B", "external_id": "x", "chosen_source": "m"})
        .pair.sources[0]
        .name
        == "m"
    )


def test_several_turns_and_a_system_message_are_the_prompt() -> None:
    prompt = [{"role": "system", "content": "Be kind."}, USER, REPLY, {"role": "user", "content": "Q2"}]
    assert read({"chosen": [*prompt, *says("A")], "rejected": [*prompt, *says("B")]}).pair.prompt == prompt
    assert (
        read({"prompt": "Q2", "chosen": [*prompt[1:], *says("A")], "rejected": [*prompt[1:], *says("B")]}).pair.prompt
        == prompt[1:]
    )


def test_plain_texts_are_split_between_words() -> None:
    pair = read({"chosen": "The sky is blue.", "rejected": "The sky is bright."}).pair
    assert (pair.prompt[0]["content"], pair.responses) == ("The sky is", ("blue.", "bright."))
    pair = read({"chosen": "Say yes", "rejected": "Say yes please"}).pair
    assert (pair.prompt[0]["content"], pair.responses) == ("Say", ("yes", "yes please"))


def test_a_transcript_keeps_its_turns_and_their_blank_lines() -> None:
    text = "\n\nHuman: One\n\nTwo Human: three\n\nAssistant: Yes.\n\n- a\n- b\n\nHuman: Four?\n\nAssistant:"
    assert read({"chosen": text + " A", "rejected": text + " B"}).pair.prompt == [
        {"role": "user", "content": "One\n\nTwo Human: three"},
        {"role": "assistant", "content": "Yes.\n\n- a\n- b"},
        {"role": "user", "content": "Four?"},
    ]


@pytest.mark.parametrize("brought", BROUGHT, ids=lambda brought: brought.name)
def test_a_line_of_another_program_is_the_pairs_that_it_holds(brought: Brought) -> None:
    parsed = parse(json.dumps(brought.row).encode())
    assert [(one.pair.prompt, *one.pair.responses, tuple(vote.choice for vote in one.votes)) for one in parsed] == [
        pair[:4] for pair in brought.pairs
    ]
    assert [source.name for source in parsed[0].pair.sources] == [name or "" for name in brought.sources]


def test_an_answer_that_goes_on_is_read_as_one_and_kept_as_turns() -> None:
    following = {"role": "user", "content": "More?"}
    row = {
        "prompt": [USER],
        "chosen": [*says("A"), following, *says("C")],
        "rejected": [*says("B"), following, *says("D")],
    }
    pair = read(row).pair
    assert pair.responses == ("A\n\n**User:** More?\n\n**Assistant:** C", "B\n\n**User:** More?\n\n**Assistant:** D")
    assert pair.turns == (row["chosen"], row["rejected"])
    assert read({"prompt": [USER], "chosen": says("A"), "rejected": says("B")}).pair.turns == (None, None)
    with pytest.raises(Unfit) as refused:
        read(row | {"chosen": [*says("A"), following, *says(" ")]})
    assert refused.value.reason == "empty_answer"


@pytest.mark.parametrize(("given", "kept"), [(12.0, "12"), (7, "7"), ("x", "x"), (1.5, "1.5"), (None, None)])
def test_an_id_is_kept_however_a_table_wrote_it(given: Any, kept: str | None) -> None:
    assert read({"prompt": "Q", "responses": ["A", "B"], "id": given, "priority": 5.0}).pair.external_id == kept


def test_votes_without_a_name_are_of_different_people() -> None:
    row = {
        "prompt": "Q",
        "responses": ["A", "B"],
        "judgments": [{"choice": "first"}, {"choice": "second", "name": "Ada"}, {"choice": "tie"}],
    }
    assert [vote.rater for vote in read(row).votes] == ["Vote 1", "Ada", "Vote 3"]
    assert [vote.rater for vote in read(row | {"judgments": [{"choice": "first"}]}).votes] == [""]


def test_what_messages_say_beside_role_and_content_is_named() -> None:
    reader = Reader()
    parse(json.dumps({"prompt": [USER | {"name": "Ann"}], "chosen": "A", "rejected": "B"}).encode(), reader)
    assert reader.columns()["prompt[].name"] == {"left_out": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "bad_json"),
        (b'{"a": NaN}', "unknown_form"),
        (b'{"prompt": "\\ud800"}', "not_utf8"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b"[" * 3000 + b"]" * 3000, "bad_json"),
        ([1], "not_an_object"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ({}, "unknown_form"),
        ({"prompt": "Q", "completion": "A", "label": True}, "unknown_form"),
        ({"prompt": "Q", "chosen": "A"}, "unknown_form"),
        ({"prompt": "Q", "responses": ["A"]}, "not_two_answers"),
        ({"prompt": "Q", "responses": "AB"}, "unknown_form"),
        ({"prompt": "Q", "responses": ["A", " \n"]}, "empty_answer"),
        ({"prompt": "Q", "chosen": "", "rejected": "B"}, "empty_answer"),
        ({"prompt": "Q", "responses": ["A", " A\n"]}, "identical_answers"),
        ({"chosen": "Q A", "rejected": "Q A"}, "identical_answers"),
        ({"chosen": [USER, REPLY], "rejected": [USER, REPLY]}, "identical_answers"),
        ({"prompt": " ", "responses": ["A", "B"]}, "empty_prompt"),
        ({"prompt": [], "responses": ["A", "B"]}, "empty_prompt"),
        ({"prompt": 5, "responses": ["A", "B"]}, "not_text"),
        ({"prompt": "Q", "responses": ["A", 5]}, "not_text"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}], "responses": ["A", "B"]},
            "not_text",
        ),
        (
            {"prompt": [USER], "responses": [[{"role": "assistant", "content": "", "tool_calls": [{}]}], "B"]},
            "not_text",
        ),
        ({"prompt": "Q\0", "responses": ["A", "B"]}, "nul_character"),
        ({"prompt": "Q", "responses": ["A", "B\0"]}, "nul_character"),
        ({"prompt": ["Q"], "responses": ["A", "B"]}, "bad_message"),
        ({"prompt": [{"role": "user"}], "responses": ["A", "B"]}, "bad_message"),
        ({"prompt": [USER, REPLY], "responses": ["A", "B"]}, "bad_roles"),
        ({"prompt": [{"role": "king", "content": "Q"}], "responses": ["A", "B"]}, "bad_roles"),
        ({"prompt": [{"role": ["user"], "content": "Q"}], "responses": ["A", "B"]}, "bad_roles"),
        ({"prompt": [USER, {"role": "system", "content": "S"}, USER], "responses": ["A", "B"]}, "bad_roles"),
        ({"prompt": "Q", "responses": [[USER], "B"]}, "bad_roles"),
        ({"chosen": [USER, USER], "rejected": [USER, REPLY]}, "bad_roles"),
        ({"chosen": "yes", "rejected": "no"}, "no_common_prompt"),
        ({"chosen": says("A"), "rejected": says("B")}, "no_common_prompt"),
        ({"chosen": [USER, REPLY, USER, *says("A")], "rejected": [USER, *says("B")]}, "differs_before_last_turn"),
        ({"prompt": "Other", "chosen": [USER, *says("A")], "rejected": [USER, *says("B")]}, "differs_before_last_turn"),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: A\n\nAssistant: B"},
            "differs_before_last_turn",
        ),
        ({"prompt": "Q", "responses": ["A", "B"], "priority": 1.5}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "priority": True}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "priority": 10**9}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "gold": "left"}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "id": "x" * 256}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "id": "\0"}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "sources": ["m"]}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "sources": [1, 2]}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "sources": [{"kind": "oracle", "name": "m"}, "n"]}, "bad_field"),
        ({"prompt": "Q", "responses": ["A", "B"], "sources": [{"kind": ["model"]}, "n"]}, "bad_field"),
    ],
)
def test_a_line_is_refused_for_its_reason(row: Any, reason: str) -> None:
    with pytest.raises(Unfit) as refused:
        read(row)
    assert refused.value.reason == reason
    assert refused.value.message.endswith(".") and len(refused.value.message) < 500


def pair_or_reason(line: bytes) -> NewPair | str:
    try:
        return parse(line)[0].pair
    except Unfit as unfit:
        return unfit.reason


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "source", "kind", "name"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["prompt", "responses", "response_a", "response_b", "chosen", "rejected", "sources", "priority", "gold", "id"]
)


@given(st.dictionaries(FIELDS, JSON))
def test_any_object_is_a_pair_or_refused_with_a_known_reason(row: dict[str, Any]) -> None:
    try:
        line = orjson.dumps(row)
    except TypeError:  # an integer beyond 64 bits
        line = json.dumps(row).encode()
    read = pair_or_reason(line)
    if isinstance(read, str):
        assert read in REASONS
    else:
        assert read.prompt[-1]["role"] in ("user", "tool")
        assert (
            all(text.strip() and "\0" not in text for text in read.responses) and read.responses[0] != read.responses[1]
        )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pair_or_refused_with_a_known_reason(line: bytes) -> None:
    read = pair_or_reason(line)
    assert isinstance(read, NewPair) or read in REASONS


WORDS = st.text(string.ascii_letters + "äß漢 \n-*", min_size=1, max_size=40).map(str.strip).filter(bool)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=3), WORDS, WORDS, WORDS)
def test_a_conversation_comes_back_from_every_form_that_can_hold_it(
    turns: list[tuple[str, str]], question: str, one: str, other: str
) -> None:
    if one == other:
        return
    prompt = [
        message
        for asked, told in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": told})
    ]
    prompt.append({"role": "user", "content": question})
    written = "".join(
        f"\n\n{'Human' if message['role'] == 'user' else 'Assistant'}: {message['content']}" for message in prompt
    )
    for row in (
        {"prompt": prompt, "chosen": one, "rejected": other},
        {"chosen": [*prompt, *says(one)], "rejected": [*prompt, *says(other)]},
        {"chosen": f"{written}\n\nAssistant: {one}", "rejected": f"{written}\n\nAssistant: {other}"},
    ):
        pair = read(row).pair
        assert (pair.prompt, pair.responses) == (prompt, (one, other))
