"""Lines of every form to pairs, and nothing of a line lost without a word."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.brought import BROUGHT, Brought
from worker.dpo.data.records.forms import MOST_ANSWERS, MOST_PLANS, Reader
from worker.dpo.data.records.refusals import REASONS, BadLine
from worker.dpo.data.records.roles import ALIASES, PROMPTS, Role, check_given

BUSY = settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow to draw
USER = {"role": "user", "content": "Q"}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("brought", BROUGHT, ids=lambda brought: brought.name)
def test_a_line_is_read_as_what_it_is(brought: Brought) -> None:
    reader = Reader()
    readings = reader.read(brought.row)
    assert [
        (
            reading.prompt,
            reading.first[0]["content"],
            reading.second[0]["content"],
            tuple(vote.choice for vote in reading.votes),
            reading.votes[0].strength if reading.votes else None,
        )
        for reading in readings
    ] == brought.pairs
    assert readings[0].sources == brought.sources
    left_out = {column for column, roles in reader.columns().items() if roles.keys() == {"left_out"}}
    assert left_out == set(brought.left_out)


@pytest.mark.parametrize(
    ("row", "reason", "named"),
    [
        ({"frage": "Q?", "chosen": "The answer is 4.", "rejected": "The answer is 3."}, "no_common_prompt", "`frage`"),
        ({"turns": ["Q"], "chosen": "The answer is 4.", "rejected": "The answer is 3."}, "no_common_prompt", "`turns`"),
        ({"prompt": "Q", "question": "Another Q", "chosen": "A", "rejected": "B"}, "two_prompts", "`question`"),
        ({"system": "S", "prompt": [{"role": "system", "content": "T"}, USER], "chosen": "A", "rejected": "B"}, "two_prompts", "`system`"),
        ({"prompt": "Q", "response_a": "A", "response_b": "B", "winner": "the left one"}, "bad_field", "`winner`"),
        ({"prompt": "Q", "response_a": "A", "response_b": "B", "label": 0}, "bad_field", "`label`"),
        ({"prompt": "Q", "response_a": "A", "response_b": "B", "winner": "a", "strength": 9}, "bad_field", "`strength`"),
        ({"prompt": "Q", "responses": ["A", "B"], "ratings": [1]}, "bad_field", "`ratings`"),
        ({"prompt": "Q", "responses": ["A", "B"], "ratings": ["good", "bad"]}, "bad_field", "`ratings`"),
        ({"prompt": "Q", "responses": ["A", "B"], "sources": ["m"]}, "bad_field", "`sources`"),
        ({"prompt": "Q", "responses": [{"rank": 1}, {"rank": 2}]}, "not_text", "`responses`"),
        ({"prompt": "Q", "responses": ["A"] * (MOST_ANSWERS + 1)}, "too_many_answers", "`responses`"),
        ({"prompt": "Q", "completion": "A", "label": True}, "unknown_form", "`completion`"),
        ({"frage": "Q", "antwort": "A"}, "unknown_form", "`frage`"),
        ({"chosen": "<|im_start|>user\nQ<|im_end|>\nloose text <|im_start|>", "rejected": "B"}, "rendered_text", "template"),
        ({"prompt": "<|start|>user<|message|>Q<|end|>", "chosen": "A", "rejected": "B"}, "rendered_text", "template"),
        ({"prompt": "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT]", "chosen": "A", "rejected": "B"}, "rendered_text", "template"),
        ({"prompt": "[INST] Q", "chosen": "A", "rejected": "B"}, "rendered_text", "template"),
        ({"prompt": "[{'role': 'user', 'content'", "chosen": "A", "rejected": "B"}, "not_text", "`prompt`"),
        ({"winner_model_a": 1, "winner_model_b": 1, "prompt": "Q", "response_a": "A", "response_b": "B"}, "bad_field", "`winner_model_a`"),
        ({"prompt": "Q", "chosen": [USER, *says("A"), USER, *says("C")], "rejected": [USER, *says("B"), USER, *says("D")]}, "differs_before_last_turn", "`chosen`"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_whole_is_refused_with_the_columns_name(
    row: dict[str, Any], reason: str, named: str
) -> None:
    reader = Reader()
    with pytest.raises(BadLine) as refused:
        reader.read(row)
    assert refused.value.reason == reason and named in refused.value.message
    assert not reader.columns()


def test_an_arenas_vote_is_on_conversations_that_go_on() -> None:
    row = {"model_a": "m1", "model_b": "m2", "prompt": '["q1", "q2"]', "response_a": '["a1", "a2"]', "response_b": '["b1", "b2"]', "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}  # fmt: skip
    (reading,) = Reader().read(row)
    user, following = [{"role": "user", "content": "q1"}], {"role": "user", "content": "q2"}
    assert (reading.prompt, reading.first, reading.second) == (
        user,
        [*says("a1"), following, *says("a2")],
        [*says("b1"), following, *says("b2")],
    )
    assert ([vote.choice for vote in reading.votes], reading.sources) == (["first"], ("m1", "m2"))
    alike = row | {"response_b": '["a1", "b2"]'}
    assert len(Reader().read(alike)[0].prompt) == 3


def test_a_person_says_what_columns_become() -> None:
    row = {"frage": "Q?", "gut": "A", "schlecht": "B", "quelle": "x"}
    reader = Reader(check_given({"frage": "prompt", "gut": "chosen", "schlecht": "rejected"}))
    (reading,) = reader.read(row)
    assert (reading.prompt[0]["content"], reading.first, reading.second) == ("Q?", says("A"), says("B"))
    assert reader.columns()["quelle"] == {"left_out": 1}
    turned = Reader(check_given({"chosen": "rejected", "rejected": "chosen", "note": "left_out"}))
    (reading,) = turned.read({"prompt": "Q", "chosen": "A", "rejected": "B", "note": "x"})
    assert reading.first == says("B")
    with pytest.raises(BadLine, match="left_out"):
        check_given({"a": "answer"})


def test_two_texts_keep_the_spaces_that_training_needs() -> None:
    plain = Reader().read({"chosen": "The sky is blue.", "rejected": "The sky is bright."})[0].plain
    assert plain == ("The sky is", " blue.", " bright.")
    assert Reader().read({"prompt": "Q", "chosen": "A", "rejected": "B"})[0].plain == ("Q", "A", "B")
    assert Reader().read({"question": "Q", "chosen": "A", "rejected": "B"})[0].plain is None


def test_a_short_prompt_is_not_taken_off_answers_that_begin_like_it() -> None:
    (reading,) = Reader().read({"prompt": "Hi", "chosen": "Hi there!", "rejected": "Hi, what?"})
    assert reading.first == says("Hi there!")


def test_ever_new_columns_fill_no_memory() -> None:
    reader = Reader()
    for number in range(3 * MOST_PLANS):
        reader.read({"prompt": "Q", "chosen": "A", "rejected": "B", f"column {number}": 1})
    assert len(reader._plans) <= MOST_PLANS and "columns_uncounted" in reader.notes


def test_optional_columns_in_every_mixture_are_all_counted() -> None:
    reader = Reader()
    for number in range(2**11):
        extra = {f"c{place}": 1 if number >> place & 1 else None for place in range(11)}
        reader.read({"prompt": "Q", "chosen": "A", "rejected": "B"} | extra)
    assert reader.columns()["c3"] == {"left_out": 1024, "empty": 1024} and not reader.notes
    assert reader.columns()["prompt"] == {"prompt": 2048}


@pytest.mark.parametrize(
    "text",
    [
        "### Human:" + " " * 200_000,
        "[INST]" * 60_000,
        "[INST][/INST]" + "[/INST]" * 30_000 + "[INST]" * 30_000,
        "<s>" + " " * 200_000 + "<|im_start|",
        "<|im_start|>user\n" + " " * 200_000 + "x",
        "Below is an instruction that describes" + "\n" * 200_000,
        "USER:" + " " * 200_000,
        "Human:" + "\n" * 200_000 + "\n\nAssistant:x",
        "</s>" * 60_000,
    ],
    ids=range(9),
)
def test_a_text_made_to_be_slow_is_read_in_a_moment(text: str) -> None:
    """Each would take minutes where a pattern tries every place of a run anew; the test's time limit would end it."""
    for row in (
        {"prompt": text, "chosen": "A" + text, "rejected": text},
        {"chosen": text + "a", "rejected": text + "b"},
    ):
        with suppress(BadLine):
            Reader().read(row)


def test_a_line_with_thousands_of_columns_or_votes_is_refused() -> None:
    base = {"prompt": "Q", "responses": ["A", "B"]}
    for row in (base | {f"c{number}": 1 for number in range(1000)}, base | {"judgments": [{"choice": "tie"}] * 1001}):
        with pytest.raises(BadLine) as refused:
            Reader().read(row)
        assert refused.value.reason == "bad_field"
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    with pytest.raises(BadLine):
        Reader().read({"prompt": "Q", "responses": ["A", "B"], "judgments": nested})


NAMES = [
    *sorted({name for names in ALIASES.values() for name in names} | set(PROMPTS)),
    "response_a", "response_b", "response_1", "response_2", "response_3", "model_a", "model_b", "score_a", "score_b", "source",
    "category", "frage", "language", "turn", "human_ref_A", "human_ref_B", "preference.responses", "preference.responses.users",
]  # fmt: skip
VOTES = (
    "winner",
    "overall_preference",
    "preference",
    "choice",
    "vote",
    "labels",
    "label",
    "strength",
    "rank",
    "scores",
)


def value_of(name: str, number: int, kind: int) -> Any:
    """A value of this column that can be told from all others."""
    mark = f"mark{number}mark"
    if name in VOTES or name.startswith(("winner_", "score_")):
        return ["a", 1, -1, 0, None, "first", [1, 2]][kind % 7]
    options: list[Any] = [
        mark,
        mark,
        [{"role": "user", "content": mark}],
        [mark, f"{mark}2"],
        {"role": "assistant", "content": mark},
    ]
    options += [None, "", number, [{"text": mark, "model": f"{mark}m"}, {"text": f"{mark}2", "note": "x"}], {"messages": [{"role": "user", "content": mark}]}]  # fmt: skip
    return options[kind % len(options)]


ROWS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 99)), min_size=1, max_size=9, unique_by=lambda one: one[0]
)
CORES: list[dict[str, Any]] = [
    {},
    {"prompt": "mark1000mark", "chosen": "mark1001mark", "rejected": "mark1002mark"},
    {"prompt": "mark1000mark", "responses": ["mark1001mark", "mark1002mark"]},
    {"question": "mark1000mark", "response_a": "mark1001mark", "response_b": "mark1002mark", "winner": "a"},
]


@BUSY
@given(ROWS, st.sampled_from(CORES))
def test_nothing_of_a_line_is_dropped_without_being_named(columns: list[tuple[str, int]], core: dict[str, Any]) -> None:
    row = {name: value_of(name, number, kind) for number, (name, kind) in enumerate(columns)} | core
    reader = Reader()
    try:
        readings = reader.read(row)
    except BadLine:
        return
    told = reader.columns()
    kept = repr(readings)
    for column, value in row.items():
        named = {
            role
            for name, roles in told.items()
            if name == column or name.startswith((f"{column}.", f"{column}["))
            for role in roles
        }
        assert named, f"{column} is neither used nor named: {row}"
        if not named & {"left_out", "empty"}:
            for text in texts_of(value):
                assert text in kept, f"{column} counts as {named}, but {text} is gone: {row} became {kept}"


def texts_of(value: Any) -> list[str]:
    """The marks within a value, as they are in its JSON."""
    return [part for part in json.dumps(value).replace("[", '"').split('"') if part.startswith("mark")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=6) | st.sampled_from(["a", "[INST] x", "### Human: a", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "rank", "messages", "choice", "result", "user_id"]), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@BUSY
@given(
    st.dictionaries(st.sampled_from([*NAMES, "input", "data", "fields", "annotations", "judgments"]), JSON, max_size=6)
)
def test_any_row_is_pairs_or_refused_with_a_known_reason(row: dict[str, Any]) -> None:
    refused = None
    try:
        for reading in Reader().read(row):
            assert reading.first and reading.second
            assert all(isinstance(message["content"], str) for message in [*reading.prompt, *reading.first])
            assert all(vote.choice in ("first", "second", "tie", "both_bad", "skip") for vote in reading.votes)
    except BadLine as bad:
        refused = bad
    assert refused is None or (refused.reason in REASONS and refused.message[-1] == "." and len(refused.message) < 600)


def test_every_role_can_be_said_in_words() -> None:
    from worker.dpo.data.records.roles import WORDS

    assert set(WORDS) == set(Role)


def test_the_sources_of_one_chosen_answer_and_several_rejected_ones_are_one_each() -> None:
    row = {"prompt": "Q?", "chosen": "yes", "rejected": ["no", "never"], "models": ["a", "b", "c"]}
    readings = Reader().read(row)
    assert [reading.sources for reading in readings] == [("a", "b"), ("a", "c")]
    for models in ("a", ["a", "b"]):
        with pytest.raises(BadLine, match=r"`models` is .*, not a list of 3"):
            Reader().read(row | {"models": models})


def test_a_role_of_any_kind_is_no_error_of_ours() -> None:
    for role in ([], {}, None, 3, [["assistant"]]):
        with pytest.raises(BadLine):
            Reader().read({"history": [{"role": role}], "chosen": "yes", "rejected": []})
        with pytest.raises(BadLine):
            Reader().read({"non_preferred": [], "history": [{"role": role}]})
