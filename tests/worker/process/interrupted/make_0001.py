"""Makes `0001.tar.gz`: a data folder with a finished run and one that was cut off in the middle, by a power failure say.

Run once, in a checkout of the first release (commit 16c579c), with an empty folder and the archive's path:

    python make_0001.py /tmp/prefloop-0001 0001.tar.gz [DATABASE_URL]

It needs that release's code and tests, so it doesn't run here; it is kept to say what is in the archive.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

data, archive = Path(sys.argv[1]), sys.argv[2]
os.environ |= {
    "PREFLOOP_DATA_DIR": str(data),
    "PREFLOOP_SECRET_KEY": "test-" * 10,
    "PREFLOOP_HEARTBEAT_SECONDS": "0.5",
    "PREFLOOP_WORKER_LEASE_SECONDS": "6",
} | ({"PREFLOOP_DATABASE_URL": sys.argv[3]} if len(sys.argv) > 3 else {})
sys.path.insert(0, os.getcwd())

from app import migrate  # noqa: E402
from app.config import get_settings  # noqa: E402
from app.db import get_engine  # noqa: E402
from app.services import models  # noqa: E402
from tests.factory import Factory  # noqa: E402
from tests.worker.dpo.tiny import save_tiny  # noqa: E402
from tests.worker.running import ENDLESS, Watcher, Workers, queue_job, training_pid  # noqa: E402

settings = get_settings()
engine = get_engine(settings)
migrate.upgrade(engine)
factory = Factory(engine, settings)
models.add(settings, "tiny", str(save_tiny(data / "source")))
snapshot, engineer = factory.snapshot(factory.judged(16, eval_percent=25)), factory.engineer()
(data / "logs").mkdir()
workers = Workers(data / "logs")
watcher = Watcher(engine, workers)
finished = queue_job(engine, snapshot, engineer)
worker = workers.start("old")
watcher.until_over(finished.id)
cut_off = queue_job(engine, snapshot, engineer, **ENDLESS | {"max_steps": 60, "batch_size": 8})
watcher.until_training(cut_off.id, 12)
os.kill(worker.pid, signal.SIGKILL)
os.killpg(training_pid(settings, cut_off.id), signal.SIGKILL)
worker.wait()
engine.dispose()
kept = ["artifacts", "models/tiny", "work"]
if settings.is_sqlite:
    kept.append("prefloop.db")
    with sqlite3.connect(data / "prefloop.db") as database:
        database.execute("PRAGMA journal_mode=DELETE")
subprocess.run(
    f"tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=2026-01-01 -C {data} -cf - {' '.join(kept)}"
    f" | gzip -9n > {archive}",
    shell=True,
    check=True,
)
