"""A run that is ended from outside: a signal sets a flag, and the run stops where its training state is whole."""

import signal

from worker.dpo.ground.errors import Terminated


class Stop:
    """Set by SIGTERM and SIGINT once `listen` was called; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Have SIGTERM and SIGINT set the flag."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raise Terminated when a signal came."""
        if self.requested:
            raise Terminated("Stopped from outside.")
