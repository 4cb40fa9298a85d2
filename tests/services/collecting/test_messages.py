"""What a prompt and an answer may be, and the hashes by which the same content is known again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.collecting.messages import Unfit, answers_of, pair_hash, prompt_hash, prompt_of, text_hash

USER = {"role": "user", "content": "Hi"}


def test_a_string_is_one_users_message() -> None:
    assert prompt_of("Where is my order?") == [{"role": "user", "content": "Where is my order?"}]


def test_text_parts_are_joined_and_other_keys_left_away() -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "it?"}]
    assert prompt_of([{"role": "user", "content": parts, "name": "kim"}]) == [
        {"role": "user", "content": "Where is it?"}
    ]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("  \n", "empty_prompt"),
        ([], "empty_prompt"),
        (7, "not_text"),
        ("a\0b", "nul_character"),
        (["Hi"], "bad_message"),
        ([{"role": "user"}], "bad_message"),
        ([{"role": "narrator", "content": "Hi"}], "bad_roles"),
        ([USER, {"role": "assistant", "content": "Hello"}], "bad_roles"),
        ([USER, {"role": "system", "content": "Be brief"}, USER], "bad_roles"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "not_text"),
        ([USER | {"tool_calls": [{}]}], "not_text"),
    ],
    ids=str,
)
def test_an_unfit_prompt_is_refused_with_a_reason(prompt: object, reason: str) -> None:
    with pytest.raises(Unfit) as refusal:
        prompt_of(prompt)
    assert refusal.value.reason == reason


def test_a_prompt_may_end_with_a_tools_message() -> None:
    assert prompt_of([USER, {"role": "tool", "content": "42"}])[-1] == {"role": "tool", "content": "42"}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("Yes", " ", "empty_answer"),
        ("Yes", " Yes\n", "identical_answers"),
        ("Yes", [USER], "bad_roles"),
        ("Yes", [{"role": "assistant", "content": "No"}, {"role": "assistant", "content": "!"}], "bad_roles"),
    ],
    ids=str,
)
def test_unfit_answers_are_refused_with_a_reason(first: object, second: object, reason: str) -> None:
    with pytest.raises(Unfit) as refusal:
        answers_of(first, second, ("One", "Two"))
    assert refusal.value.reason == reason


def test_an_answer_may_be_one_assistant_message() -> None:
    message = {"role": "assistant", "content": "No"}
    assert answers_of("Yes", message, ("One", "Two")) == answers_of("Yes", [message], ("One", "Two")) == ("Yes", "No")


@given(st.text(), st.text(), st.text())
def test_a_pair_is_the_same_whichever_answer_comes_first(prompt: str, first: str, second: str) -> None:
    answers = text_hash(first), text_hash(second)
    assert pair_hash(prompt, answers) == pair_hash(prompt, answers[::-1])


def test_a_prompts_hash_is_of_roles_contents_and_order() -> None:
    assistant = {"role": "assistant", "content": "Hi"}
    hashes = {prompt_hash(messages) for messages in ([USER], [assistant], [USER, assistant], [assistant, USER])}
    assert len(hashes) == 4
    # Stored with every prompt and the ground of its split, so that it may never change.
    assert prompt_hash([USER]) == "8b1450277179b15b70831cee0e0ec563f04eb6c717d27070114931cba4b59d4e"
