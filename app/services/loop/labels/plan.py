"""What a label check is to do: into how many folds, and which flips are planted how often. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.errors import Invalid

FOLDS, MOST_FOLDS, MOST_PLANTINGS = 5, 20, 10
SHARES = (0.1, 0.2, 0.3)  # that the page offers


@dataclass(frozen=True, slots=True)
class Plan:
    """folds: parts of the data, each asked of a model that was trained on the others. shares: of the labels, each planted
    `plantings` times."""

    folds: int = FOLDS
    shares: tuple[float, ...] = SHARES[:1]
    plantings: int = 2

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Plan":
        return cls(int(stored["folds"]), tuple(stored["shares"]), int(stored["plantings"]))

    def stored(self) -> dict[str, Any]:
        return asdict(self) | {"shares": list(self.shares)}

    @property
    def rounds(self) -> int:
        """With the labels as they are, and once for each planting."""
        return 1 + len(self.shares) * self.plantings

    @property
    def runs(self) -> int:
        return self.rounds * self.folds

    @property
    def key(self) -> str:
        """The same for the same plan."""
        shares = " ".join(f"{share:g}" for share in self.shares)
        return f"{self.folds} folds, {self.plantings} x {shares}"

    def checked(self) -> "Plan":
        """The same with its shares in order. Raises Invalid."""
        if not 2 <= self.folds <= MOST_FOLDS:
            raise Invalid(f"{self.folds} folds: choose 2 to {MOST_FOLDS}.", "5 is usual.", field="folds")
        if not 1 <= self.plantings <= MOST_PLANTINGS:
            raise Invalid(
                f"Flips planted {self.plantings} times: choose 1 to {MOST_PLANTINGS}.", "2 is usual.", field="plantings"
            )
        shares = tuple(sorted(set(self.shares)))
        if not 1 <= len(shares) <= len(SHARES) or not all(0.01 <= share <= 0.4 for share in shares):
            raise Invalid(
                "Which share of the labels is planted?",
                f"Give one to {len(SHARES)} shares from 0.01 to 0.4, such as 0.1: without any nobody knows how far the list can "
                "be trusted.",
                field="shares",
            )
        return Plan(self.folds, shares, self.plantings)

    def check_for(self, pairs: int) -> None:
        """Raises Invalid where so few pairs can't be cut into folds."""
        if pairs < 4 * self.folds:
            raise Invalid(
                f"{pairs} pairs are too few for {self.folds} folds.",
                f"It takes {4 * self.folds}; collect more, or choose fewer folds.",
                field="folds",
            )
