"""Export: a checkpoint and its base model in, merged weights or a GGUF file out, proven by the engine."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from sqlalchemy.orm import Session

from app.config import Settings
from app.events.types import Event
from app.models import Export, Job, JobKind
from app.services.training import base_models, checkpoints, exports, loading
from app.storage import Storage
from worker.kinds.kind import Need, Result


class Exporting:
    """A job that exports. Its folder holds the checkpoint's files and, at the end, the engine's `out`."""

    kind: ClassVar[JobKind] = JobKind.EXPORT
    program: ClassVar[str] = "export process"

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self._export: Export

    @staticmethod
    def need(settings: Settings) -> Need:
        """Sums and comparisons are taken in float32 on the processor."""
        return Need.NOTHING

    def inputs(self, session: Session) -> None:
        self._export = exports.get(session, self._job.id)

    def command(self, folder: Path, storage: Storage) -> list[str]:
        """Raises CheckpointBroken for damaged files, NotFound for a base model or file that isn't there."""
        checkpoint, out = folder / "checkpoint", folder / "out"
        shutil.rmtree(out, ignore_errors=True)  # a whole one that an earlier attempt couldn't store
        checkpoints.fetch(storage, self._export.checkpoint, checkpoint)
        whole = not loading.is_adapter(self._export.checkpoint)
        model = checkpoint if whole else base_models.path(self._settings, self._export.checkpoint.run.base_model)
        command = [sys.executable, "-m", "worker.dpo", "export", "--model", str(model), "--adapter", str(checkpoint)]
        return [*command, "--as", self._export.format.value, "--out", str(out)]

    def variables(self) -> Sequence[str]:
        return ()

    def secrets(self) -> Mapping[str, str]:
        return {}

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        """Its events and progress are all that there is to keep."""

    def kept(self, folder: Path) -> str:
        """Nothing is kept of half an export."""
        return ""

    def store_result(self, folder: Path, storage: Storage) -> Result:
        """Files of each attempt go to a place of its own, so that no other attempt can write over them."""
        token = str(self._job.lease_token)
        prefix = f"checkpoints/job-{self._export.checkpoint.job_id}/exports/{self._export.format.value}/{token[:12]}"
        files, proof = exports.upload(storage, folder / "out", prefix=prefix)

        def end(session: Session) -> None:
            exports.publish(session, job_id=self._job.id, files=files, proof=proof)

        def is_published(session: Session) -> bool:
            return exports.get(session, self._job.id).files == tuple(files)

        return Result(end, is_published, [file.key for file in files])
