"""What a round is to do, fixed when it starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from app.errors import Invalid
from app.models import Pairing, Split
from app.services.loop.evaluating.sides import BASE, PARENT
from app.services.loop.evaluating.wanted import BothBad, Skips, Wanted
from app.services.loop.generating import wanted
from app.services.loop.generating.arms import Arms
from app.services.loop.generating.prompts import From, Rule
from app.services.loop.generating.wanted import AnswerSource, Sampling
from app.services.training import presets, run_settings
from app.stats.loop.decision import Goal

MOST_JUDGMENTS = 1_000_000
OPPONENT = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A round's plan.

    sources: who gives new answers, as AnswerSource.parse reads them; none where what is there already is to be judged.
    samples, sampling, pairing, prompts_of, limit: of that generation. arms, keep: shares of its prompts by arm, and the share of its pairs
    that is asked, as Arms.of reads them. judgments: how many new ones are waited for; None waits until
    every pair is judged. base_model, preset, config: of the run. opponent: `parent`, `base` or a checkpoint's id; empty ends the
    round without an evaluation. evaluation: fields of Wanted that aren't the default. from_checkpoint: the checkpoint that the run
    starts from; None for its base model. new_pairs_only: whether it then trains on what that checkpoint hasn't seen.
    """

    base_model: str
    sources: tuple[str, ...] = ()
    samples: int = 2
    sampling: dict[str, Any] = field(default_factory=dict)
    pairing: Pairing = Pairing.ROUND_ROBIN
    prompts_of: From = From.TRAIN
    limit: int = 200
    arms: dict[str, float] = field(default_factory=dict)
    keep: float | None = None
    judgments: int | None = None
    preset: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    opponent: str = "parent"
    evaluation: dict[str, Any] = field(default_factory=dict)
    from_checkpoint: int | None = None
    new_pairs_only: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "RoundPlan":
        """From a request or a row. Raises Invalid."""
        known = {one.name for one in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise Invalid(f"A round has no “{unknown[0][:40]}”.", f"There are: {', '.join(sorted(known))}.")
        if not str(given.get("base_model") or "").strip():
            raise Invalid("No base model was named.", "Name the one that the run starts from.", field="base_model")
        values = dict(given)
        for name, kind in (("pairing", Pairing), ("prompts_of", From)):
            if name in values:
                values[name] = _one_of(name, kind, values[name])
        values["sources"] = tuple(values.get("sources") or ())
        return cls(**values).checked()

    def checked(self) -> "RoundPlan":
        """Itself. Raises Invalid for what can't be carried out: before anything starts, not after people have judged."""
        if self.sources:
            sources = self.answer_sources()
            wanted.check(
                sources=sources,
                prompts=1,
                samples=self.samples,
                sampling=self.drawing(),
                pairing=self.pairing,
                arms=self.choosing(),
            )
        elif self.choosing().chooses:
            raise Invalid(
                "Arms choose among pairs of new answers, and nobody was named who gives them.",
                "Name who gives new answers, or leave the arms out.",
                field="sources",
            )
        if self.prompts_of in (From.GIVEN, From.IMPORT, From.EVALUATION, From.EVAL):
            raise Invalid(
                f"A round can't take its prompts from “{self.prompts_of.value}”.",
                "Choose project or train.",
                field="prompts_of",
            )
        if not 1 <= self.limit <= wanted.MOST_PROMPTS:
            raise Invalid(
                f"{self.limit:,} prompts were wanted.", f"Choose 1 to {wanted.MOST_PROMPTS:,}.", field="limit"
            )
        if self.judgments is not None and not 1 <= self.judgments <= MOST_JUDGMENTS:
            raise Invalid(
                f"{self.judgments:,} judgments were wanted.",
                f"Choose 1 to {MOST_JUDGMENTS:,}, or leave it out to wait for all.",
                field="judgments",
            )
        if self.new_pairs_only and self.from_checkpoint is None:
            raise Invalid(
                "Only new pairs were asked for, and no checkpoint that they are new to.",
                "Name the checkpoint to start from, or train on the whole dataset.",
                field="new_pairs_only",
            )
        run_settings.validate(self.run_config())
        if self.opponent:
            self.evaluation_wanted()
            if self.opponent not in (PARENT, BASE) and not OPPONENT.fullmatch(self.opponent):
                raise Invalid(
                    f"“{self.opponent[:40]}” is nothing to compare with.",
                    "Choose parent, base, or the number of a checkpoint.",
                    field="opponent",
                )
        return self

    def stored(self) -> dict[str, Any]:
        """As a row keeps it."""
        return asdict(self) | {"sources": list(self.sources)}

    def answer_sources(self) -> Sequence[AnswerSource]:
        return [AnswerSource.parse(text) for text in self.sources]

    def drawing(self) -> Sampling:
        return Sampling.of(self.sampling)

    def choosing(self) -> Arms:
        """Which of the generation's pairs are asked. Raises Invalid."""
        return Arms.of(self.arms, self.keep)

    def rule(self, seed: int) -> Rule:
        return Rule(of=self.prompts_of, limit=self.limit, seed=seed)

    def run_config(self) -> dict[str, Any]:
        return presets.with_preset(self.preset or presets.PRESETS[0].name, self.config)

    def evaluation_wanted(self) -> Wanted:
        """The plan of the evaluation. Raises Invalid."""
        known = {one.name for one in fields(Wanted)}
        if unknown := sorted(self.evaluation.keys() - known):
            raise Invalid(f"An evaluation has no “{unknown[0][:40]}”.", f"There are: {', '.join(sorted(known))}.")
        values = dict(self.evaluation)
        for name, kind in (("goal", Goal), ("both_bad", BothBad), ("skips", Skips), ("prompts", Split)):
            if name in values:
                values[name] = _one_of(name, kind, values[name])
        for name, number in (("maximum", int), ("votes", int), ("share", int), ("margin", float)):
            if name in values and (isinstance(values[name], bool) or not isinstance(values[name], int | number)):
                raise Invalid(f"“{name}” isn't a number.", "Write digits.", field=name)
        return Wanted(**values).checked()


def _one_of(name: str, kind: Any, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise Invalid(
            f"“{name}” is “{str(value)[:40]}”.", f"Choose one of {', '.join(one.value for one in kind)}.", field=name
        ) from None
