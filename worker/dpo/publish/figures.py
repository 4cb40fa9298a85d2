"""What a model says to fixed prompts, in numbers that two copies of it can be compared by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from worker.dpo.data import chat, refusals

ANSWER_TOKENS = 24
CODE = "Mend this function:\n\n```python\ndef mean(xs):\n\treturn sum(xs) / len(xs)  # fails for []\n```\n"
# (name, conversation): what the copies of a model are compared on.
CONVERSATIONS: tuple[tuple[str, list[dict[str, str]]], ...] = (
    ("one question", [{"role": "user", "content": "What should I know before I send a parcel abroad?"}]),
    (
        "a system turn",
        [
            {"role": "system", "content": "You answer customers of a bookshop: friendly, in at most two sentences."},
            {"role": "user", "content": "Where's my order #2024-118?"},
        ],
    ),
    (
        "several turns",
        [
            {"role": "user", "content": "Name a colour."},
            {"role": "assistant", "content": "Blue, like the sea at noon."},
            {"role": "user", "content": "And one that doesn't go with it?"},
        ],
    ),
    ("code", [{"role": "user", "content": CODE}]),
    (
        "other scripts",
        [{"role": "user", "content": "用中文回答：为什么天空是蓝色的？ Почему? لماذا؟ なぜ？ 🌍👩‍🚀 naïve Ünïcödé"}],
    ),
    ("numbers and spaces", [{"role": "user", "content": "1234567.89 + 42 =  ?\n\n\n   a\tb   c"}]),
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text and as token ids, up to where the model's answer begins."""

    name: str
    messages: list[dict[str, str]]
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt's greedy answer of the trained model."""

    prompt: Rendered
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a copy of the model makes of one answer.

    logps: of the answer's tokens, in nats. best: the token that the copy itself would write in each place. gaps: how far
    the answer's token lies below `best`, in nats.
    """

    logps: list[float]
    best: list[int]
    gaps: list[float]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two copies' scores of the same answers lie apart, a token at a time, in nats."""

    mean: float
    max: float
    agreement: float
    tokens: int

    def as_dict(self) -> dict[str, float | int]:
        return {
            "logp_difference_mean": self.mean,
            "logp_difference_max": self.max,
            "greedy_agreement": self.agreement,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `says`: a sentence with the figures in it, for people."""

    name: str
    reader: str
    passed: bool
    says: str
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "reader": self.reader,
            "passed": self.passed,
            "says": self.says,
            "figures": self.figures,
        }


def render(tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
    """The fixed conversations through a tokenizer's chat template, without those that it refuses (such as a system turn).

    Raises refusals.CannotEncode where it refuses the plainest of them.
    """
    rendered = []
    for name, messages in CONVERSATIONS:
        try:
            ids = chat.encode_prompt(tokenizer, messages)
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except refusals.CannotEncode:
            if name == CONVERSATIONS[0][0]:
                raise
            continue
        rendered.append(Rendered(name, messages, text, ids))
    return rendered


@torch.no_grad()
def greedy_answer(model: Any, prompt: Rendered, ends: Sequence[int], tokens: int = ANSWER_TOKENS) -> Answer:
    """The model's most likely answer, up to `tokens` long, its end token included."""
    ids: list[int] = []
    cache, inputs = None, torch.tensor([prompt.ids])
    while len(ids) < tokens and not (ids and ids[-1] in ends):
        # The next token follows from the whole text or, where the model keeps a cache, from the last token and that.
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        ids.append(int(output.logits[0, -1].argmax()))
        inputs = torch.tensor([ids[-1:]] if cache is not None else [prompt.ids + ids])
    return Answer(prompt, ids)


@torch.no_grad()
def score(model: Any, answer: Answer) -> Scores:
    """A transformers model's scores of an answer, from one forward over prompt and answer."""
    ids = answer.prompt.ids + answer.ids
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, len(answer.prompt.ids) - 1 : -1]
    logps = torch.log_softmax(logits.float(), -1)
    target = torch.tensor(answer.ids)
    own = logps.gather(1, target[:, None]).squeeze(1)
    top = logps.max(-1)
    return Scores(own.tolist(), top.indices.tolist(), (top.values - own).tolist())


def score_all(model: Any, answers: Sequence[Answer], check: Callable[[], None] = lambda: None) -> list[Scores]:
    """`score` of every answer; `check` is called before each and may end it."""
    scores = []
    for answer in answers:
        check()
        scores.append(score(model, answer))
    return scores


def difference(answers: Sequence[Answer], trained: Sequence[Scores], copy: Sequence[Scores]) -> Difference:
    """How far a copy's scores lie from the trained model's.

    agreement: the share of places where the copy would write the same token.
    """
    gaps = [
        abs(a - b)
        for one, other in zip(trained, copy, strict=True)
        for a, b in zip(one.logps, other.logps, strict=True)
    ]
    same = [
        mine == token
        for answer, scores in zip(answers, copy, strict=True)
        for mine, token in zip(scores.best, answer.ids, strict=True)
    ]
    return Difference(sum(gaps) / len(gaps), max(gaps), sum(same) / len(same), len(gaps))


def loses_greedy(answers: Sequence[Answer], copy: Sequence[Scores], tolerance: float) -> int:
    """In how many places the copy would write another token, ties within `tolerance` nats aside."""
    return sum(
        mine != token and gap > tolerance
        for answer, scores in zip(answers, copy, strict=True)
        for mine, token, gap in zip(scores.best, answer.ids, scores.gaps, strict=True)
    )
