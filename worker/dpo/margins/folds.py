"""Which pairs a model is trained on and which it is asked about, and labels that are turned around to see what comes of it. Pure."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from random import Random

from worker.dpo.ground.errors import BadData


def folds_of(groups: Sequence[str], *, folds: int, seed: int) -> list[int]:
    """The fold of each pair, from 0, so that pairs of one group share it and folds have about as many pairs.

    Groups come in an order that seed and name decide, and each goes to the fold that has the fewest pairs by then. Raises
    BadData for fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise BadData(f"The data have {len(sizes)} groups of prompts, too few for {folds} folds: choose fewer --folds.")
    ordered = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    filled = [0] * folds
    place: dict[str, int] = {}
    for group in ordered:
        place[group] = min(range(folds), key=lambda fold: filled[fold])
        filled[place[group]] += sizes[group]
    return [place[group] for group in groups]


def flips(count: int, *, share: float, seed: int, planting: int) -> frozenset[int]:
    """The pairs of `count` whose labels a planting turns around: a share of them, a draw of its own for each number."""
    chance = Random(f"{seed} {planting}")  # noqa: S311
    return frozenset(chance.sample(range(count), round(share * count)))
