"""From a pair's messages to token ids, through the tokenizer's chat template.

The ids agree with TRL's wherever the prompt's ids are a prefix of the whole conversation's. Where they are not, TRL
moves the boundary to the left; here

- tokens that would merge across the boundary stay apart, as they are when the model answers the prompt
  (`boundary_split`);
- a template that writes something else before a finished answer than in its generation prompt gets TRL's boundary,
  the longest common prefix (`generation_prompt_differs`);
- a template that rewrites the prompt itself once an answer follows is refused (`NonPrefixTemplate`).

A completion ends with one end-of-turn token: the template's, or the tokenizer's EOS where the template has none.
"""

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer

from worker.dpo.data import controls, moment
from worker.dpo.data.pairs import PLAIN_TEXT, Pair, TokenPair
from worker.dpo.data.refusals import (
    CannotEncode,
    ControlToken,
    EmptyCompletion,
    EmptyPrompt,
    NoEndToken,
    NonPrefixTemplate,
    TemplateRefused,
)

FROM_TOKENIZER = "tokenizer"
FALLBACK = "chatml (fallback)"
PLAIN = "none (plain text)"
# A Jinja comment, so that a checkpoint's template still says where it comes from.
FALLBACK_MARK = "{# ChatML fallback: the base model has no chat template #}"


def ensure_template(tokenizer: Tokenizer) -> str:
    """Give a tokenizer without a chat template the ChatML fallback; returns "tokenizer" or "chatml (fallback)".

    The fallback ends each turn with `<|im_end|>` where that is one token of the vocabulary, else with the tokenizer's
    EOS token, so that the vocabulary stays as it is and generation stops at a token that the model knows. A tokenizer
    that puts BOS before plain text gets BOS once at the start. The template is saved with
    the tokenizer, and so comes with every checkpoint. Raises NoEndToken.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        # Named templates, of which transformers takes `default`, and `tool_use` where there are tools.
        if "default" in template:
            return FALLBACK if FALLBACK_MARK in template["default"] else FROM_TOKENIZER
        tokenizer.chat_template = template | {"default": _fallback_template(tokenizer)}
        return FALLBACK
    if not template:
        tokenizer.chat_template = _fallback_template(tokenizer)
        return FALLBACK
    return FALLBACK if FALLBACK_MARK in template else FROM_TOKENIZER


def _fallback_template(tokenizer: Tokenizer) -> str:
    end = "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else tokenizer.eos_token
    if end is None:
        raise NoEndToken("The tokenizer has no EOS token and no chat template: set eos_token in its files.")
    ids = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""
    return (
        f"{FALLBACK_MARK}{bos}{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
        f"{{{{ message['content'] }}}}{end}\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def is_plain(messages: Sequence[dict]) -> bool:
    """Whether these messages stand for a plain string, which no template wraps."""
    return bool(messages) and messages[0]["role"] == PLAIN_TEXT


def encode_with_notes(tokenizer: Tokenizer, pair: Pair) -> tuple[TokenPair, tuple[str, ...]]:
    """Token ids of a pair, and stable codes for what is unusual about it.

    Codes: `boundary_split`, `generation_prompt_differs`, `eos_added`, `control_tokens_kept`. Raises CannotEncode's kinds.
    """
    sides = (pair.chosen, pair.rejected)
    if is_plain(pair.prompt):
        texts = [m[0]["content"] for m in sides]
        prompt, answers, notes = _encode_text(tokenizer, pair.prompt[0]["content"], texts)
        if controls.mark_in(tokenizer, pair.prompt) or any(controls.mark_in(tokenizer, m, may_end=True) for m in sides):
            # Whoever gives texts without a template may have put its marks there.
            notes.add("control_tokens_kept")
    else:
        _require_text(tokenizer, pair.prompt, sides, pair.tools)
        prompt, answers, notes = _encode_messages(tokenizer, pair.prompt, sides, pair.tools)
    if not prompt:
        raise EmptyPrompt("The prompt has no tokens.")
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if not _has_text(tokenizer, answer):
            raise EmptyCompletion(f"The chat template writes nothing of the {name} answer.")
    ended = [_ended_once(tokenizer, ids) for ids in answers]
    if any(added for _, added in ended):
        notes.add("eos_added")
    (chosen, _), (rejected, _) = ended
    ids = TokenPair(pair.line, tuple(prompt), tuple(chosen), tuple(rejected), pair.weight, pair.p_chosen)
    return ids, tuple(sorted(notes))


def encode_prompt(tokenizer: Tokenizer, messages: list[dict], tools: list | None = None) -> list[int]:
    """The ids that the model answers: the prompt with the template's generation prompt, or the plain text."""
    if is_plain(messages):
        return _prompt_ids(tokenizer, messages[0]["content"])
    _require_text(tokenizer, messages, (), tools)
    return _render(tokenizer, messages, tools, prompt=True)


def _require_text(tokenizer: Tokenizer, prompt: list[dict], sides: Sequence[list[dict]], tools: list | None) -> None:
    """Raise ControlToken for a mark in a text, and EmptyCompletion where the template leaves tool calls out."""
    marks = [controls.mark_in(tokenizer, [*prompt, {"tools": tools}])]
    marks += [controls.mark_in(tokenizer, side, may_end=True) for side in sides]
    if mark := next(filter(None, marks), None):
        raise ControlToken(
            f"A text holds {mark}, which this model reads as a mark of its chat template. Write it in another way."
        )
    for side in sides:
        if any(message.get("tool_calls") for message in side):
            without = [{key: value for key, value in message.items() if key != "tool_calls"} for message in side]
            named = [message | {"content": message.get("content") or ""} for message in without]
            if _render_text(tokenizer, prompt + side, tools) == _render_or_none(tokenizer, prompt + named, tools):
                raise EmptyCompletion(
                    "The chat template doesn't write an answer's tool calls, so they can't be learnt."
                )


def _render_or_none(tokenizer: Tokenizer, messages: list[dict], tools: list | None) -> str | None:
    try:
        return _render_text(tokenizer, messages, tools)
    except TemplateRefused:
        return None


def _has_text(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether an answer's ids are more than marks and white space."""
    specials = controls.special_ids(tokenizer)
    return bool(_decode(tokenizer, [index for index in ids if index not in specials]).strip())


def end_token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's EOS and the template's end of turn."""
    ids = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    if tokenizer.chat_template:
        ids |= _turn_ends(tokenizer)
    if not ids:
        raise NoEndToken("The tokenizer has no EOS token, so an answer could never end: set eos_token in its files.")
    return frozenset(ids)


def _turn_ends(tokenizer: Tokenizer) -> set[int]:
    prompt, answer = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    try:
        _, (ids, _), _ = _encode_messages(tokenizer, prompt, (answer, answer), None)
    except CannotEncode:
        return set()
    ended, added = _ended_once(tokenizer, ids)
    last = next((index for index in reversed(ended) if index in controls.special_ids(tokenizer)), None)
    return set() if added or last is None else {last}


def _encode_messages(
    tokenizer: Tokenizer, prompt: list[dict], answers: Sequence[list[dict]], tools: list | None
) -> tuple[list[int], list[list[int]], set[str]]:
    prompt_ids = _render(tokenizer, prompt, tools, prompt=True)
    wholes = [_render(tokenizer, prompt + answer, tools) for answer in answers]
    if all(_is_prefix(prompt_ids, whole) for whole in wholes):
        return prompt_ids, [whole[len(prompt_ids) :] for whole in wholes], set()
    prompt_text = _render_text(tokenizer, prompt, tools, prompt=True)
    texts = [_render_text(tokenizer, prompt + answer, tools) for answer in answers]
    if all(text.startswith(prompt_text) for text in texts):
        return _split(tokenizer, prompt_ids, wholes, [text[len(prompt_text) :] for text in texts])
    history = _render_text(tokenizer, prompt, tools)
    if all(text.startswith(history) for text in texts):
        return *_at_common_prefix(prompt_ids, wholes), {"generation_prompt_differs"}
    raise NonPrefixTemplate(
        "The chat template writes the prompt differently once an answer follows it, so prompt and answer can't be told apart."
    )


def _encode_text(
    tokenizer: Tokenizer, prompt: str, answers: Sequence[str]
) -> tuple[list[int], list[list[int]], set[str]]:
    """Plain strings, as TRL has them: BOS as the tokenizer sets it, EOS after the answer, no template."""
    eos = tokenizer.eos_token
    if eos is None:
        raise NoEndToken("The tokenizer has no EOS token, so a plain-text answer could never end: set eos_token.")
    answers = [answer if answer.endswith(eos) else answer + eos for answer in answers]
    prompt_ids = _prompt_ids(tokenizer, prompt)
    wholes = [_without_double_bos(tokenizer, tokenizer(prompt + answer)["input_ids"]) for answer in answers]
    if all(_is_prefix(prompt_ids, whole) for whole in wholes):
        return prompt_ids, [whole[len(prompt_ids) :] for whole in wholes], set()
    return _split(tokenizer, prompt_ids, wholes, answers)


def _split(
    tokenizer: Tokenizer, prompt_ids: list[int], wholes: list[list[int]], answers: list[str]
) -> tuple[list[int], list[list[int]], set[str]]:
    """Answers tokenized apart from the prompt, where tokens would merge across the boundary.

    Falls back to the common prefix for tokenizers that can't write a text's end on its own (those that put a space
    before every text).
    """
    alone = [
        whole[len(prompt_ids) :]
        if _is_prefix(prompt_ids, whole)
        else tokenizer(answer, add_special_tokens=False)["input_ids"]
        for whole, answer in zip(wholes, answers, strict=True)
    ]
    rejoined = [_decode(tokenizer, prompt_ids + ids) for ids in alone]
    if rejoined == [_decode(tokenizer, whole) for whole in wholes]:
        return prompt_ids, alone, {"boundary_split"}
    return *_at_common_prefix(prompt_ids, wholes), {"boundary_split"}


def _at_common_prefix(prompt_ids: list[int], wholes: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    length = min(_common_prefix(prompt_ids, whole) for whole in wholes)
    return prompt_ids[:length], [whole[length:] for whole in wholes]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _is_prefix(prefix: list[int], ids: list[int]) -> bool:
    return ids[: len(prefix)] == prefix


def _prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """A plain prompt's ids, without the EOS that some tokenizers put after every text."""
    ids = _without_double_bos(tokenizer, tokenizer(text)["input_ids"])
    eos = tokenizer.eos_token
    if ids and ids[-1] == tokenizer.eos_token_id and not (eos and text.endswith(eos)):
        ids = ids[:-1]
    return ids


def _without_double_bos(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Without the BOS that a tokenizer adds to a text that brings its own."""
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _render(tokenizer: Tokenizer, messages: list[dict], tools: list | None, prompt: bool = False) -> list[int]:
    ids = _apply(tokenizer, messages, tools, prompt, tokenize=True)["input_ids"]
    return _without_double_bos(tokenizer, list(ids))


def _render_text(tokenizer: Tokenizer, messages: list[dict], tools: list | None, prompt: bool = False) -> str:
    return _apply(tokenizer, messages, tools, prompt, tokenize=False)


def _apply(tokenizer: Tokenizer, messages: list[dict], tools: list | None, prompt: bool, tokenize: bool) -> Any:
    try:
        return tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=moment.at_its_time(tokenizer, tokenizer.get_chat_template(None, tools)),
            add_generation_prompt=prompt,
            tokenize=tokenize,
            return_dict=tokenize,
        )
    except (TemplateError, TypeError, KeyError) as error:
        # Templates fail as their authors wrote them: raise_exception, or a field that these messages don't have.
        raise TemplateRefused(f"The chat template refuses these messages: {error}") from error


def _ended_once(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[int], bool]:
    """The ids with exactly one end-of-turn token at their end, and whether it had to be added.

    White space after the end-of-turn token, such as ChatML's line break, is the template's and stays.
    """
    specials, end = controls.special_ids(tokenizer), len(ids)
    while end and ids[end - 1] not in specials and not _decode(tokenizer, [ids[end - 1]]).strip():
        end -= 1
    if not end or ids[end - 1] not in specials:
        if tokenizer.eos_token_id is None:
            raise NoEndToken("The chat template ends no turn and the tokenizer has no EOS token: set eos_token.")
        return [*ids, tokenizer.eos_token_id], True
    start = end - 1
    while start and ids[start - 1] == ids[end - 1]:
        start -= 1
    return ids[: start + 1] + ids[end:], False


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
