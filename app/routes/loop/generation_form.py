"""The form of new answers: what people typed, as an order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import Invalid
from app.models import Arm, Pairing
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import AnswerSource, Sampling
from app.services.loop.generations import Order

SAMPLING = ("temperature", "top_p", "max_new_tokens", "seed")
FROM = {
    From.PROJECT: "All prompts of the project",
    From.TRAIN: "Those of the train split",
    From.EVAL: "Those of the eval split",
    From.IMPORT: "Those of an import",
    From.GIVEN: "Prompts that I write here",
}
ARMS = {
    Arm.RANDOM: ("Random", "By chance. At least 20 %, which tells what the others are worth."),
    Arm.MARGIN: (
        "Small margin",
        "Of which the newest checkpoint is least sure. It scores the answers, which takes longer.",
    ),
    Arm.DISAGREEMENT: ("Disagreement", "On whose prompt people disagreed before."),
    Arm.DIVERSITY: ("Diversity", "Unlike what was asked before."),
}
PAIRINGS = {
    Pairing.ACROSS: "Each two sources against each other",
    Pairing.ROUND_ROBIN: "Each answer against the next",
    Pairing.NONE: "No pairs, answers only",
}


@dataclass(frozen=True, slots=True)
class Form:
    """Text as it was typed."""

    sources: list[str] = field(default_factory=list)
    samples: str = "1"
    pairing: str = Pairing.ACROSS.value
    prompts_from: str = From.PROJECT.value
    import_id: str = ""
    limit: str = "200"
    given: str = ""
    shares: dict[str, str] = field(default_factory=dict)  # in percent, by arm
    keep: str = ""
    sampling: dict[str, str] = field(
        default_factory=lambda: {key: str(value) for key, value in Sampling().stored().items()}
    )
    key: str = ""

    def order(self) -> Order:
        """Raises Invalid with the field."""
        sampling = Sampling.of(self.sampling)
        given = [line.strip() for line in self.given.splitlines() if line.strip()]
        is_given = self.prompts_from == From.GIVEN
        if is_given and not given:
            raise Invalid("No prompt was written.", "Write one a line.", field="given")
        for name, value, known in (("pairing", self.pairing, set(Pairing)), ("prompts", self.prompts_from, set(FROM))):
            if value not in known:
                raise Invalid(f"{value[:40]!r} isn't one of the choices.", "Choose one from the list.", field=name)
        of_import = whole(self.import_id, "import_id") if self.prompts_from == From.IMPORT else None
        return Order(
            sources=[AnswerSource.parse(text) for text in self.sources],
            sampling=sampling,
            samples=whole(self.samples, "samples"),
            pairing=Pairing(self.pairing),
            rule=Rule(
                From.PROJECT if is_given else From(self.prompts_from),
                of_import,
                whole(self.limit, "limit"),
                sampling.seed,
            ),
            given=given if is_given else (),
            arms=arms_of(self.shares, self.keep),
        )


def read(fields: Mapping[str, Any], sources: list[str]) -> Form:
    """The form from what a browser sent."""
    told = {name: str(value) for name, value in fields.items() if isinstance(value, str)}
    names = ("samples", "pairing", "prompts_from", "import_id", "limit", "given", "keep")
    return Form(
        sources=sources,
        sampling={name: told[name] for name in SAMPLING if name in told},
        shares=shares_of(told),
        key=told.get("key", "")[:64],
        **{name: told[name] for name in names if name in told},
    )


def shares_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The shares of a form as they were typed, by arm."""
    return {arm.value: fields[f"arm_{arm.value}"] for arm in Arm if f"arm_{arm.value}" in fields}


def arms_of(typed: Mapping[str, str], keep: str) -> Arms:
    """Raises Invalid. Nothing typed is random alone; so many asked as is said, or half of them where arms are to choose."""
    shares = {name: _percent(text, name) for name, text in typed.items() if text.strip()}
    kept = _percent(keep, "keep") if keep.strip() else None
    return Arms.of(shares if any(shares.values()) else {}, kept)


def _percent(text: str, name: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise Invalid(
            f"“{text[:40]}” isn't a share in percent.", "Write 0 to 100.", field="keep" if name == "keep" else "arms"
        )
    return percent / 100


def whole(text: str, name: str) -> int:
    """Raises Invalid."""
    if not (text.strip().isascii() and text.strip().isdecimal() and len(text.strip()) < 10):
        raise Invalid(f"“{text[:40]}” isn't a whole number.", "Write digits.", field=name)
    return int(text)
