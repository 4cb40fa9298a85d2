"""Shares with the uncertainty that their counts leave."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """`count` of `total`, with the 95 % Wilson interval `low` to `high` (Wilson 1927) and the two-sided exact
    binomial `p_value` of a share so far from one half. Of nothing: all None."""

    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def differs_from_half(self) -> bool:
        """Too far from one half for chance alone, at the 1 % level."""
        return self.p_value is not None and self.p_value < 0.01


def share(count: int, total: int) -> Share:
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total}")
    if total == 0:
        return Share(0, 0, None, None, None, None)
    # Here, not above: statsmodels takes a second to import, and most processes never need it.
    from statsmodels.stats.proportion import binom_test, proportion_confint

    low, high = proportion_confint(count, total, alpha=0.05, method="wilson")
    return Share(count, total, count / total, float(low), float(high), float(binom_test(count, total, 0.5)))
