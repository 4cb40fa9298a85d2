"""Who goes first: a lock that is given in the order in which it was asked for, and people before long work."""

import math
import threading
import time
from collections import deque

LONGEST_SECONDS = 0.1
LOOK_SECONDS = 0.002
HERE_SECONDS = 2.0


class FairLock:
    """For threads. SQLite lets whoever looks at the right moment write next; behind this lock it is whoever came first."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout: float) -> bool:
        """Waits at most so many seconds; whether the lock is held now. Any thread may release it."""
        with self._guard:
            if not self._is_held:
                self._is_held = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout):
            return True
        with self._guard:
            if turn.is_set():  # it came while the wait ended
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_held = False


class Answering:
    """How many requests of people are being answered in this process. Counted in one thread, read in others."""

    count = 0
    last = -math.inf  # when one was answered, by the monotonic clock


def answering_begins() -> None:
    Answering.count += 1


def answering_ends() -> None:
    Answering.count -= 1
    Answering.last = time.monotonic()


def people_are_here() -> bool:
    """Whether somebody is being answered in this process, or was a moment ago."""
    return Answering.count > 0 or time.monotonic() - Answering.last < HERE_SECONDS


def give_way(longest: float = LONGEST_SECONDS) -> None:
    """For long work, such as an import: waits while somebody is being answered, but not for ever, so that it also gets on where
    people never pause."""
    until = time.monotonic() + longest
    while Answering.count > 0 and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
