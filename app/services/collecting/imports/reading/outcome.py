"""What became of one batch of a file."""

from dataclasses import dataclass, field

from app.models import Difference, Rejection
from app.services.collecting.imports.reading.forms import Parsed
from app.services.collecting.messages import Unfit

Numbered = tuple[int, Parsed]


@dataclass
class Outcome:
    """What became of one batch of lines: their pairs were added or there already, or the line was rejected. `judged` of the
    pairs got a judgment, `filled` of those that were there got a field that they hadn't."""

    added: int = 0
    judged: int = 0
    duplicates: int = 0
    filled: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    def reject(self, number: int, unfit: Unfit) -> None:
        if not self.rejections or self.rejections[-1]["line"] != number:
            self.rejections.append(Rejection(line=number, reason=unfit.reason, message=unfit.message))

    def differ(self, number: int, name: str, stored: object, given: object) -> None:
        """Names a field of a pair that was there already, which stays as it was."""
        self.differences.append(Difference(line=number, field=name, stored=str(stored)[:200], given=str(given)[:200]))
