"""Starts a program that ends when its parent does: `python -m worker.process.leash PARENT_PID COMMAND …`.

A process of its own, because the worker has threads and nothing may run between its fork and exec. Linux only; elsewhere
the lock of a left-over process tells its number (see `folder.py`).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGTERM, not SIGKILL: the program saves what it needs to go on first.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we could ask
        sys.exit(143)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
