"""What a generation will take, judged by what earlier ones took: measured, at most, or not said at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.models import GenerationPlan
from app.services.loop.generating.wanted import AnswerKind, AnswerSource, Sampling

SIGNS_A_TOKEN = 3.0  # few tokenizers need more tokens for a text than a third of its signs


@dataclass(frozen=True, slots=True)
class Money:
    """`expected` is None where no earlier answers say how long they get; `most`, if each answer is as long as it may be."""

    currency: str
    expected: float | None
    most: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Answers in all, seconds of the sources that were measured here, and the price of those that have one.

    `unmeasured`: sources of which nobody knows how long they take; `unpriced`: endpoints without a price.
    `choice`: what is said of the arms that choose which pairs are asked.
    """

    answers: int
    seconds: float | None
    money: tuple[Money, ...]
    unmeasured: tuple[str, ...]
    unpriced: tuple[str, ...]
    choice: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """For people."""
        told = [f"{self.answers:,} answer{'' if self.answers == 1 else 's'} will be asked for."]
        if self.seconds is not None:
            told.append(f"About {duration(self.seconds)}, as earlier ones took.")
        if self.unmeasured:
            told.append(f"Not measured here yet, so nobody knows how long it takes: {', '.join(self.unmeasured)}.")
        for one in self.money:
            expected = f"About {_amount(one.expected)} {one.currency}, at" if one.expected is not None else "At"
            told.append(f"{expected} most {_amount(one.most)} {one.currency}, by the prices that an admin entered.")
        if self.unpriced:
            told.append(f"No price was entered for {', '.join(self.unpriced)}.")
        return [*told, *self.choice]


def estimate(
    *,
    sources: Sequence[AnswerSource],
    prompts: int,
    prompt_signs: float,
    samples: int,
    sampling: Sampling,
    earlier: Sequence[GenerationPlan],
    choice: Sequence[str] = (),
) -> Cost:
    """prompt_signs: those of a prompt on average. earlier: plans of jobs that ended well, the newest first. Pure."""
    each = prompts * samples
    seconds: list[float] = []
    unmeasured, unpriced = [], []
    money: dict[str, tuple[float | None, float]] = {}
    for source in sources:
        speed = _speed(source, earlier)
        length = min(speed["tokens"] / speed["made"], sampling.max_new_tokens) if speed else None
        if speed and length is not None:
            seconds.append(each * length * speed["seconds"] / max(1.0, speed["tokens"]))
        else:
            unmeasured.append(source.title)
        if source.kind is not AnswerKind.ENDPOINT:
            continue
        if source.price_prompt is None and source.price_completion is None:
            unpriced.append(source.title)
            continue
        read = each * prompt_signs / SIGNS_A_TOKEN * (source.price_prompt or 0) / 1e6
        token = each * (source.price_completion or 0) / 1e6
        expected, most = money.get(source.currency, (0.0, 0.0))
        known = expected is not None and length is not None
        money[source.currency] = (
            (expected or 0) + read + token * (length or 0) if known else None,
            most + read + token * sampling.max_new_tokens,
        )
    told = tuple(Money(currency, *amounts) for currency, amounts in money.items())
    return Cost(
        each * len(sources), sum(seconds) if seconds else None, told, tuple(unmeasured), tuple(unpriced), tuple(choice)
    )


def paid(plan: GenerationPlan) -> dict[str, float]:
    """What the answers that arrived cost, by currency, from the tokens that servers counted and the prices of its start."""
    spent: dict[str, float] = {}
    for number, source in enumerate(map(AnswerSource.of, plan.sources)):
        used: Mapping[str, Any] = plan.counts.get("by_source", {}).get(str(number), {})
        if source.price_prompt is not None or source.price_completion is not None:
            price = used.get("prompt_tokens", 0) * (source.price_prompt or 0)
            price += used.get("tokens", 0) * (source.price_completion or 0)
            spent[source.currency] = spent.get(source.currency, 0.0) + price / 1e6
    return spent


def _speed(source: AnswerSource, earlier: Sequence[GenerationPlan]) -> Mapping[str, Any] | None:
    """What the newest generation that asked this source made of it."""
    for plan in earlier:
        for number, stored in enumerate(plan.sources):
            if AnswerSource.of(stored).key == source.key:
                speed: Mapping[str, Any] = plan.counts.get("speed", {}).get(str(number), {})
                if speed.get("made") and speed.get("tokens") and speed.get("seconds"):
                    return speed
    return None


def _amount(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Roughly, for people: 40 s, 12 min, 3.5 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
