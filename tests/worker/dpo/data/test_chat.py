"""Token ids of pairs: the same as TRL's where TRL's are right, and what a model sees when it answers."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.worker.dpo.tiny import CHATML, tiny_tokenizer, toy_pairs
from tests.worker.dpo.tokenizers_for_tests import (
    EMPTY_THOUGHT,
    LLAMA,
    NO_END,
    WITH_TOOLS,
    trained_tokenizer,
    trl_ids,
)
from worker.dpo.data import chat, refusals
from worker.dpo.data.forms import parse_pair
from worker.dpo.data.pairs import TokenPair
from worker.dpo.data.reading import read_pairs


def message(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


def encoded(tokenizer, row: dict) -> TokenPair:
    return chat.encode_with_notes(tokenizer, parse_pair(row, line=1))[0]


def same_as_trl(tokenizer, rows: list[dict]) -> None:
    for row, (prompt, chosen, rejected) in zip(rows, trl_ids(tokenizer, rows), strict=True):
        ours = encoded(tokenizer, row)
        assert list(ours.prompt_ids) == prompt, row
        assert list(ours.chosen_ids) == chosen, row
        assert list(ours.rejected_ids) == rejected, row


CONVERSATIONS = [
    *toy_pairs(7),
    {
        "prompt": [
            message("system", "Be brief."),
            message("user", "The parcel is late."),
            message("assistant", "Thank you!"),
            message("user", "And now?"),
        ],
        "chosen": [message("assistant", "Yes, of course.\n\n- one\n- two")],
        "rejected": [message("assistant", "No.")],
    },
    {
        "prompt": [message("user", "ünïcödé 漢字 🎈")],
        "chosen": [message("assistant", "  two  spaces ")],
        "rejected": [message("assistant", "\n\nLines")],
    },
]


@pytest.mark.parametrize("template", [CHATML, LLAMA, WITH_TOOLS])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_conversations_get_trl_s_ids(template, adds_bos):
    tokenizer = trained_tokenizer(template=template, adds_bos=adds_bos)
    # The last one begins with line breaks, which merge with the template's: a test of its own below.
    same_as_trl(tokenizer, CONVERSATIONS[:-1])


def test_conversations_of_single_byte_tokens_get_trl_s_ids():
    same_as_trl(tiny_tokenizer(), CONVERSATIONS)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_plain_strings_get_trl_s_ids(adds_bos):
    tokenizer = trained_tokenizer(adds_bos=adds_bos)
    rows = [
        {"prompt": "The parcel is late.", "chosen": " Thank you for asking.", "rejected": " No."},
        {"prompt": "Q: Hello there\nA:", "chosen": " Yes, of course.</s>", "rejected": " Yes"},
    ]
    same_as_trl(tokenizer, rows)


def test_implicit_prompts_get_trl_s_ids():
    tokenizer = trained_tokenizer()
    rows = [
        {
            "chosen": [*pair["prompt"], *pair["chosen"]],
            "rejected": [*pair["prompt"], *pair["rejected"]],
        }
        for pair in toy_pairs(5)
    ]
    same_as_trl(tokenizer, rows)
    same_as_trl(tiny_tokenizer(), [{"chosen": "The sky is blue.", "rejected": "The sky is green."}])


def test_tools_and_tool_turns_get_trl_s_ids():
    tokenizer = trained_tokenizer(template=WITH_TOOLS)
    tools = [{"type": "function", "function": {"name": "find_parcel", "description": "", "parameters": {}}}]
    call = [{"type": "function", "function": {"name": "find_parcel", "arguments": {}}}]
    row = {
        "prompt": [message("user", "Where is it?")],
        "chosen": [
            message("assistant", "", tool_calls=call),
            message("tool", "In transit."),
            message("assistant", "On its way."),
        ],
        "rejected": [message("assistant", "No idea.")],
        "tools": json.dumps(tools),
    }
    ours = encoded(tokenizer, row)
    assert "find_parcel" in tokenizer.decode(ours.prompt_ids)
    assert "call find_parcel" in tokenizer.decode(ours.chosen_ids)
    same_as_trl(tokenizer, [row])


def test_real_pairs_get_trl_s_ids(hh_file):
    tokenizer = trained_tokenizer()
    pairs = [pair for _, pair in zip(range(60), read_pairs(hh_file, on_problem=lambda problem: None), strict=False)]
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    assert len(rows) == 60
    same_as_trl(tokenizer, rows)


def test_the_prompt_is_what_the_model_answers_later():
    tokenizer = trained_tokenizer()
    for row in CONVERSATIONS:
        assert list(encoded(tokenizer, row).prompt_ids) == chat.encode_prompt(tokenizer, row["prompt"])
    plain = {"prompt": "A: ", "chosen": "there", "rejected": "hope"}
    assert list(encoded(tokenizer, plain).prompt_ids) == tokenizer("A: ")["input_ids"]


def test_a_generation_prompt_that_differs_from_a_finished_turn_takes_trl_s_boundary():
    tokenizer = trained_tokenizer(template=EMPTY_THOUGHT)
    row = toy_pairs(1)[0]
    ids, notes = chat.encode_with_notes(tokenizer, parse_pair(row, line=1))
    assert notes == ("generation_prompt_differs",)
    assert [list(side) for side in (ids.prompt_ids, ids.chosen_ids, ids.rejected_ids)] == list(
        trl_ids(tokenizer, [row])[0]
    )


def test_a_template_that_refuses_the_roles_says_so():
    tokenizer = trained_tokenizer(template="{{ raise_exception('System role not supported') }}")
    with pytest.raises(refusals.TemplateRefused, match="System role not supported"):
        encoded(tokenizer, toy_pairs(1)[0])


def test_a_model_without_a_template_gets_chatml_with_its_own_end_token():
    tokenizer = tiny_tokenizer(chat_template=None, eos="<|endoftext|>")
    assert chat.ensure_template(tokenizer) == "chatml (fallback)"
    # <|im_end|> is in this vocabulary, so turns end with it.
    assert tokenizer.decode(encoded(tokenizer, toy_pairs(1)[0]).chosen_ids).endswith("<|im_end|>\n")
    assert chat.end_token_ids(tokenizer) == {
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }
    assert chat.ensure_template(tokenizer) == "chatml (fallback)", "a saved fallback still says what it is"


def test_the_fallback_uses_eos_and_bos_where_im_end_is_not_a_token():
    tokenizer = trained_tokenizer(template=None, adds_bos=True)
    tokenizer.get_vocab = lambda: {}
    chat.ensure_template(tokenizer)
    ids = encoded(tokenizer, toy_pairs(1)[0])
    assert ids.prompt_ids[0] == tokenizer.bos_token_id and ids.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids.chosen_ids).endswith("</s>\n")


def test_a_tokenizer_that_can_end_nothing_is_refused():
    without_template = trained_tokenizer(template=None, eos=None)
    without_template.get_vocab = lambda: {}
    with pytest.raises(refusals.NoEndToken, match="no chat template"):
        chat.ensure_template(without_template)
    with pytest.raises(refusals.NoEndToken, match="ends no turn"):
        encoded(trained_tokenizer(template=NO_END, eos=None), toy_pairs(1)[0])
    with pytest.raises(refusals.NoEndToken, match="plain-text"):
        encoded(trained_tokenizer(eos=None), {"prompt": "a", "chosen": "b", "rejected": "c"})


def test_a_plain_prompt_without_a_token_is_refused():
    row = {"prompt": "", "chosen": "a", "rejected": "b"}
    with pytest.raises(refusals.EmptyPrompt):
        encoded(trained_tokenizer(), row)
    with_bos = trained_tokenizer(adds_bos=True)
    assert encoded(with_bos, row).prompt_ids == (with_bos.bos_token_id,)


TOKENIZER = trained_tokenizer()
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>|"), min_size=1, max_size=40)
answer = text.filter(str.strip)


@settings(deadline=None)
@given(prompt=text, beginning=text, chosen=answer, rejected=answer)
def test_any_text_keeps_prompt_and_answers_whole(prompt, beginning, chosen, rejected):
    # A shared beginning gives both answers the same leading tokens.
    row = {
        "prompt": [message("user", prompt)],
        "chosen": [message("assistant", beginning + chosen)],
        "rejected": [message("assistant", beginning + rejected + "!")],
    }
    if row["chosen"] == row["rejected"]:
        return
    ids = encoded(TOKENIZER, row)
    start = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.decode(ids.prompt_ids) == start
    for side, name in ((ids.chosen_ids, "chosen"), (ids.rejected_ids, "rejected")):
        assert TOKENIZER.decode(ids.prompt_ids + side) == start + row[name][0]["content"] + "<|im_end|>\n"
        assert side.count(TOKENIZER.convert_tokens_to_ids("<|im_end|>")) == 1


@settings(deadline=None)
@given(prompt=text, chosen=answer, rejected=answer)
@example(prompt="\n", chosen="0", rejected="0")
@example(prompt="\x85 ", chosen="0", rejected="0")
def test_any_plain_text_keeps_prompt_and_answers_whole(prompt, chosen, rejected):
    ids = encoded(TOKENIZER, {"prompt": prompt, "chosen": chosen, "rejected": rejected + "!!"})
    assert list(ids.prompt_ids) == TOKENIZER(prompt)["input_ids"]
    assert TOKENIZER.decode(ids.prompt_ids + ids.chosen_ids) == prompt + chosen + "</s>"
    assert TOKENIZER.decode(ids.prompt_ids + ids.rejected_ids) == prompt + rejected + "!!</s>"
