"""The kinds of jobs that this version of the worker can do."""

from collections.abc import Mapping

from app.config import Settings
from app.models import Job, JobKind
from worker.kinds.export import Exporting
from worker.kinds.generation import Generating
from worker.kinds.kind import Kind
from worker.kinds.label_check import CheckingLabels
from worker.kinds.training import Training

KINDS: Mapping[JobKind, type[Kind]] = {kind.kind: kind for kind in (Training, Exporting, Generating, CheckingLabels)}


def make(job: Job, settings: Settings) -> Kind:
    """The kind that does this claimed job."""
    return KINDS[job.kind](job, settings)
