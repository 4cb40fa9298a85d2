"""A lock that is given in the order in which it was asked for."""

import threading
from collections import deque


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
