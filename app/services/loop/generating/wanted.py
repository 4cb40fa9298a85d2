"""What is wanted of a generation: which sources are asked, and how they draw their words."""

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from app.errors import Invalid
from app.models import Pairing
from app.services.loop.generating.arms import Arms

MOST_SAMPLES = 16
MOST_SOURCES = 8
MOST_PROMPTS = 10_000
MOST_ANSWERS = 100_000
LARGEST_SEED = 2**31 - 1


class AnswerKind(StrEnum):
    """What gives answers: a base model of this machine, a checkpoint of this installation, a server with OpenAI's API."""

    BASE = "base"
    CHECKPOINT = "checkpoint"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """A source. `name`: the base model's or the endpoint's; `id`: the checkpoint's or the endpoint's; `model`: what an
    endpoint calls the model. Prices per million tokens are those of the moment at which the generation was started."""

    kind: AnswerKind
    name: str = ""
    id: int | None = None
    model: str = ""
    price_prompt: float | None = None
    price_completion: float | None = None
    currency: str = ""

    @classmethod
    def base(cls, name: str) -> "AnswerSource":
        return cls(AnswerKind.BASE, name.strip())

    @classmethod
    def checkpoint(cls, checkpoint_id: int) -> "AnswerSource":
        return cls(AnswerKind.CHECKPOINT, id=checkpoint_id)

    @classmethod
    def endpoint(cls, name: str) -> "AnswerSource":
        return cls(AnswerKind.ENDPOINT, name.strip())

    @classmethod
    def parse(cls, text: str) -> "AnswerSource":
        """`base:NAME`, `checkpoint:ID` or `endpoint:NAME`; a bare name is a base model. Raises Invalid."""
        kind, colon, rest = text.strip().partition(":")
        if not colon:
            kind, rest = AnswerKind.BASE, kind
        rest = rest.strip()
        if kind == AnswerKind.CHECKPOINT and rest.isascii() and rest.isdecimal() and len(rest) < 10:
            return cls.checkpoint(int(rest))
        if kind in (AnswerKind.BASE, AnswerKind.ENDPOINT) and rest:
            return cls(AnswerKind(kind), rest)
        raise Invalid(
            f"“{text[:80]}” names no source of answers.",
            "Write base:NAME, checkpoint:ID or endpoint:NAME.",
            field="sources",
        )

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "AnswerSource":
        """As a plan holds it."""
        return cls(**{**stored, "kind": AnswerKind(stored["kind"])})

    def stored(self) -> dict[str, Any]:
        """As a plan holds it: what is said, and nothing that is empty."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}

    @property
    def key(self) -> str:
        """What `parse` reads."""
        return f"{self.kind}:{self.id if self.kind is AnswerKind.CHECKPOINT else self.name}"

    @property
    def title(self) -> str:
        """What people call it."""
        match self.kind:
            case AnswerKind.CHECKPOINT:
                return self.name or f"checkpoint {self.id}"
            case AnswerKind.ENDPOINT:
                return f"{self.name} ({self.model})" if self.model else self.name
        return self.name


def drawn_seed(key: str | None = None) -> int:
    """A seed for who names none: answers like the last ones would be no news. One key always gives the same."""
    if key is None:
        return secrets.randbelow(LARGEST_SEED)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How words are drawn. `temperature` 0 takes the most likely; the seed is the whole job's, each answer gets its own of it."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 256
    seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Sampling":
        """From a request or a plan; what isn't said is the default. Raises Invalid."""
        known = {one.name for one in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise Invalid(
                f"There is no sampling setting “{unknown[0][:40]}”.", f"There are: {', '.join(sorted(known))}."
            )
        return cls(**{name: _number(name, value) for name, value in given.items() if value not in ("", None)}).checked()

    def checked(self) -> "Sampling":
        """Itself. Raises Invalid for what can't be drawn with."""
        bounds: tuple[tuple[str, float, float], ...] = (
            ("temperature", 0, 2),
            ("top_p", 0.01, 1),
            ("max_new_tokens", 1, 4096),
            ("seed", 0, LARGEST_SEED),
        )
        for name, least, most in bounds:
            if not least <= getattr(self, name) <= most:
                raise Invalid(f"“{name}” is {getattr(self, name)}.", f"Choose {least} to {most}.", field=name)
        return self

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def _number(name: str, value: Any) -> Any:
    whole = name in ("max_new_tokens", "seed")
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise Invalid(f"“{name}” isn't {kind}.", "Write digits, or leave it empty for the default.", field=name)
    return int(number) if whole else number


def check(
    *,
    sources: Sequence[AnswerSource],
    prompts: int,
    samples: int,
    sampling: Sampling,
    pairing: Pairing,
    arms: Arms | None = None,
) -> None:
    """Raises Invalid for what no generation can be made of."""
    if arms is not None and arms.chooses and pairing is Pairing.NONE:
        raise Invalid("Answers without pairs leave nothing to choose.", "Choose how they are paired.", field="pairing")
    if not 1 <= len(sources) <= MOST_SOURCES:
        raise Invalid(f"{len(sources)} sources were named.", f"Choose 1 to {MOST_SOURCES}.", field="sources")
    if len({source.key for source in sources}) < len(sources):
        raise Invalid("A source is named twice.", "Ask it for more answers a prompt instead.", field="sources")
    if not 1 <= samples <= MOST_SAMPLES:
        raise Invalid(f"{samples} answers a prompt were wanted.", f"Choose 1 to {MOST_SAMPLES}.", field="samples")
    if samples > 1 and sampling.temperature == 0:
        raise Invalid(
            "At temperature 0 each answer of a source to a prompt is the same.",
            "Raise the temperature, or ask for one answer.",
            field="temperature",
        )
    if pairing is Pairing.ACROSS and len(sources) < 2:
        raise Invalid(
            "One source has no other to be paired with.", "Choose round robin, or a second source.", field="pairing"
        )
    if pairing is Pairing.ROUND_ROBIN and samples * len(sources) < 2:
        raise Invalid("One answer a prompt makes no pair.", "Ask for two or more answers.", field="samples")
    if not prompts:
        raise Invalid("There is no prompt to answer.", "Import prompts, or give some.", field="prompts")
    if prompts > MOST_PROMPTS:
        raise Invalid(
            f"{prompts:,} prompts are too many for one job.", f"Choose up to {MOST_PROMPTS:,}.", field="limit"
        )
    if prompts * samples * len(sources) > MOST_ANSWERS:
        raise Invalid(
            f"{prompts * samples * len(sources):,} answers are too many for one job.",
            f"Choose fewer prompts, sources or answers: up to {MOST_ANSWERS:,} in all.",
            field="limit",
        )
