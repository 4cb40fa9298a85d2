"""The number type that `dtype=auto` stands for: what the device multiplies fast, of types whose results are known to be as good.

What starts runs judges a choice by a copy of this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.dpo.ground.config import TrainConfig

DEFAULT, FAST = "float32", "bfloat16"
# How much faster products in bfloat16 must be to be worth their coarser numbers.
WORTH = 1.3
# From here on an explicit choice is warned of: so many times the time that the products of auto's choice take.
SLOW = 1.5
# Accuracy on held-out pairs after training in bfloat16, less that in float32 from the same start in the same order: the 95 %
# interval over the seeds (`bench.quality_vs_trl`, docs/engine.md), and how far off it may lie.
ACCURACY_INTERVAL, TOLERATED = (-0.0026, 0.0076), 0.02


@dataclass(frozen=True)
class NumberType:
    """What a run computes in. why: what decided, for people. rates: GFLOP/s by type. warning: of a slow explicit choice."""

    dtype: str
    why: str
    rates: Mapping[str, float]
    warning: str | None = None

    def facts(self) -> dict[str, Any]:
        """For a run's record."""
        return {"dtype": self.dtype, "why": self.why, "product_gflops": dict(self.rates)}


def choose(config: TrainConfig, rates: Mapping[str, float], *, kept: str | None = None) -> NumberType:
    """The type for a run with `config` on a device with these product rates. kept: what an earlier sitting of the run chose."""
    if config.dtype == "auto" and kept in (DEFAULT, FAST):
        return NumberType(kept, f"{kept}, as this run began with.", rates)
    fastest = best(config, rates)
    if config.dtype == "auto":
        return fastest
    return NumberType(config.dtype, f"{config.dtype}, as it was asked for.", rates, _warning(config, rates, fastest))


def best(config: TrainConfig, rates: Mapping[str, float]) -> NumberType:
    """What `auto` takes for `config` on a device with these product rates, in GFLOP/s by type."""
    factor = rates[FAST] / rates[DEFAULT] if rates.get(DEFAULT) and FAST in rates else 0.0
    low, high = ACCURACY_INTERVAL
    measured = f"products in bfloat16 are {factor:.1f} times as fast here as in float32"
    if config.mixed_precision != "no":
        return NumberType(DEFAULT, "float32: autocast works on float32 weights.", rates)
    if not config.is_lora:
        return NumberType(DEFAULT, "float32: bfloat16 has been compared for adapters only.", rates)
    if not factor:
        return NumberType(DEFAULT, "float32: the products of this device weren't measured.", rates)
    if factor < WORTH:
        return NumberType(DEFAULT, f"float32: {measured}, and {WORTH} times would be worth it.", rates)
    if not -TOLERATED <= low <= high <= TOLERATED:
        return NumberType(
            DEFAULT,
            f"float32, although {measured}: it isn't shown that bfloat16 trains as well (docs/engine.md).",
            rates,
        )
    return NumberType(FAST, f"bfloat16: {measured}, and it trains as well (docs/engine.md).", rates)


def _warning(config: TrainConfig, rates: Mapping[str, float], advised: NumberType) -> str | None:
    asked, other = rates.get(config.dtype), rates.get(advised.dtype)
    if not asked or not other or other / asked <= SLOW:
        return None
    return (
        f"Products in {config.dtype} take {other / asked:.1f} times as long on this machine as in {advised.dtype}. "
        f"Set dtype={advised.dtype}, or leave it at auto."
    )
