"""The exports on a checkpoint's page: each format, how far it is, its files, and what was compared."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.models import FINISHED, Checkpoint, Export, ExportFormat, JobState
from app.routes.training.job_page import PHASES
from app.services.jobs import waiting
from app.services.training import exports
from app.storage import Storage

FOR = {
    ExportFormat.MERGED: "For transformers, vLLM and SGLang: the adapter added into its base model.",
    ExportFormat.GGUF_F16: "For llama.cpp, Ollama and LM Studio, in 16-bit floats.",
    ExportFormat.GGUF_Q8_0: "For llama.cpp, Ollama and LM Studio, at half the size of f16.",
}
WHOLE = "For transformers, vLLM and SGLang: the fine-tuned model, read back and compared."


@dataclass(frozen=True, slots=True)
class Row:
    """One format. `refused`: why it can't be made; `words`: what it does now; `checks`: (held, what was compared);
    `not_checked`: what couldn't be compared."""

    format: ExportFormat
    title: str
    use: str
    refused: str
    export: Export | None
    words: str
    size: int
    archive: str
    checks: list[tuple[bool, str]]
    remarks: list[str]
    not_checked: list[str]


@dataclass(frozen=True, slots=True)
class Panel:
    rows: list[Row]
    active: bool


def panel(session: Session, *, checkpoint: Checkpoint, settings: Settings, storage: Storage, is_adapter: bool) -> Panel:
    """What the page shows now; it loads the panel again while an export is under way."""
    made = {export.format: export for export in exports.of_checkpoint(session, checkpoint=checkpoint)}
    refused = exports.refusals(settings, storage, checkpoint=checkpoint)
    queued = waiting.of(
        session, jobs=[export.job for export in made.values()], silent_after=settings.worker_lease_seconds
    )
    waits = {job_id: place.text for job_id, place in queued.items()}
    rows = [_row(format, made.get(format), refused.get(format, ""), waits, is_adapter) for format in ExportFormat]
    return Panel(rows, active=any(export.job.state not in FINISHED for export in made.values()))


def _row(format: ExportFormat, export: Export | None, refused: str, waits: dict[int, str], is_adapter: bool) -> Row:
    proof: dict[str, Any] = export.proof if export else {}
    return Row(
        format=format,
        title=exports.TITLES[format],
        use=FOR[format] if is_adapter or format is not ExportFormat.MERGED else WHOLE,
        refused=refused,
        export=export,
        words=_words(export, waits) if export else "",
        size=exports.size(export) if export else 0,
        archive=f"{exports.folder_name(export)}.tar" if export else "",
        checks=[(bool(check["passed"]), str(check["says"])) for check in proof.get("checks", [])],
        remarks=[
            *_moved(proof),
            *map(str, proof.get("notes", [])),
            *([str(proof["modelfile"])] if "modelfile" in proof else []),
        ],
        not_checked=[str(said) for said in proof.get("not_checked", [])],
    )


def _words(export: Export, waits: dict[int, str]) -> str:
    job = export.job
    if job.state is JobState.QUEUED:
        return "Waiting for a worker" + (f": {waits[job.id]}" if waits.get(job.id) else "")
    if job.state is JobState.RUNNING:
        return "Cancelling" if job.cancel_requested_at else PHASES.get(job.phase, job.phase.capitalize() or "Running")
    return ""


def _moved(proof: dict[str, Any]) -> list[str]:
    """How much training changed, beside what rounding changes: what a reader needs to weigh the figures."""
    moved = proof.get("training_moved")
    if not isinstance(moved, int | float):
        return []
    return [f"On the same prompts training moved a token's log-probability by {moved:.2g} nats on average."]
