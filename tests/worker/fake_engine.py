"""Stands in for the engine to fail in ways that the real one can't be made to: argv[1] says how."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

how, out = sys.argv[1], Path(sys.argv[sys.argv.index("--out") + 1])
print('{"event": "state", "stage": "training", "total_steps": 9}', flush=True)
if how == "gives-no-reason":
    print("not JSON at all: \x00 \udcff".encode("utf-8", "surrogateescape").decode("latin-1"), flush=True)
    print('{"event": "step", "step": 1, "loss": NaN, "note": "\\u0000\\ud800"}', flush=True)
    print('{"event": "step", "step": 2', end="", flush=True)
    print("\x1b[31msomething broke\x1b[0m", file=sys.stderr)
    sys.exit(7)
if how == "never-ends":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["sleep", "1000"])
    (out.parent / "grandchild").write_text(str(grandchild.pid))
    print('{"event": "step", "step": 1, "loss": 0.7}', flush=True)
    time.sleep(1000)
if how == "segfaults":
    os.kill(os.getpid(), signal.SIGSEGV)
if how == "leaves-nothing":
    print('{"event": "done"}', flush=True)
