"""Long work in a process that answers people, such as an import, lets them go first."""

import time

LONGEST_SECONDS = 0.1
LOOK_SECONDS = 0.002


class Answering:
    """How many requests of people are being answered in this process. Counted in one thread, read in others."""

    count = 0


def begin() -> None:
    Answering.count += 1


def end() -> None:
    Answering.count -= 1


def give_way(longest: float = LONGEST_SECONDS) -> None:
    """Waits while somebody is being answered, but not for ever: whoever works long also gets on where people never pause."""
    until = time.monotonic() + longest
    while Answering.count > 0 and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
