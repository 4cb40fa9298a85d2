"""A worker whose engine is a script of the test: the same services write the same rows, without training anything."""

import json
import math
from typing import Any

from sqlalchemy import Engine

from app import __version__
from app.config import Settings
from app.db import write_session
from app.events.reading import of_data
from app.models import Checkpoint, EventType, Job, JobKind
from app.services.jobs import leases, workers
from app.services.training import base_models, checkpoints, parents, runs
from app.storage import get_storage

MANIFEST: dict[str, Any] = {
    "title": "Tiny model",
    "licence": "apache-2.0",
    "architecture": "LlamaForCausalLM",
    "parameters": 134_515_008,
    "dtype": "float32",
    "weights_sha256": "b7" * 32,
    "weights": [{"name": "model.safetensors", "size": 538_000_000}],
    "context_length": 8192,
    "chat_template": True,
    "note": "weights dequantised from a 4-bit (Q4_1) file",
    "prepared_at": "2026-01-01T00:00:00+00:00",
}


def prepare_model(settings: Settings, name: str = "tiny", **more: Any) -> str:
    """A base model as pages see one: its manifest."""
    folder = settings.models / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = MANIFEST | {"name": name, "source": {"kind": "folder", "path": str(folder)}} | more
    (folder / base_models.MANIFEST).write_text(json.dumps(facts))
    return name


def metrics(step: int, prefix: str = "") -> dict[str, float]:
    """What an engine prints of a step at which it has learned `step` hundredths of what there is."""
    learned = 1 - math.exp(-step / 40)
    chosen, rejected = 0.4 * learned, -0.9 * learned
    figures = {
        "loss": math.log1p(math.exp(-(chosen - rejected))),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": 0.5 + 0.4 * learned if step else 0.0,
        "log_ratios/chosen": chosen / 0.1,
        "log_ratios/rejected": rejected / 0.1,
        "logps/chosen": -60 + chosen / 0.1,
    }
    return {prefix + name: value for name, value in figures.items()}


def evaluation(step: int, pairs: int = 24) -> dict[str, Any]:
    accuracy = metrics(step)["rewards/accuracies"]
    return metrics(step, "eval_") | {
        "eval_rewards/accuracies_low": max(0.0, accuracy - 0.17),
        "eval_rewards/accuracies_high": min(1.0, accuracy + 0.13),
        "eval_kl": 0.02 * step,
        "eval_pairs": pairs,
    }


class PretendWorker:
    """Claims the oldest queued job and tells of it what a test wants to be told."""

    def __init__(
        self, engine: Engine, settings: Settings, name: str = "cpu-1", kinds: tuple[JobKind, ...] = (JobKind.TRAINING,)
    ) -> None:
        self.engine, self.settings, self.name, self.kinds = engine, settings, name, kinds
        self.job_id, self.kind, self.token, self._bytes = 0, JobKind.TRAINING, "", 0
        with write_session(engine) as session:
            workers.register(
                session,
                name=name,
                device="2 CPU cores",
                memory_bytes=8_000_000_000,
                version=__version__,
                kinds=kinds,
                versions={"torch": "2.13.0"},
            )

    def claim(self) -> Job:
        with write_session(self.engine) as session:
            job = leases.claim(session, worker=self.name, kinds=self.kinds, lease_seconds=3600)
            assert job is not None, "no job is queued"
            workers.heartbeat(session, name=self.name)
        self.job_id, self.kind, self.token = job.id, job.kind, job.lease_token or ""
        return job

    def say(self, *printed: tuple[str, int | None, dict[str, Any]]) -> None:
        self._bytes += 1
        events = [of_data(EventType(type), data, step=step) for type, step, data in printed]
        with write_session(self.engine) as session:
            leases.progress(session, job_id=self.job_id, token=self.token, printed=events, output_bytes=self._bytes)
            if self.kind is JobKind.TRAINING:
                runs.record(session, job_id=self.job_id, printed=events)

    def start(self, total: int) -> None:
        """From loading to the first step: the evaluation and the samples before training."""
        self.say(
            ("state", None, {"stage": "loading"}),
            ("log", None, {"message": "Training 88 pairs, evaluating 24.", "level": "info"}),
            ("state", 0, {"stage": "evaluating", "total_steps": total}),
            ("eval", 0, evaluation(0)),
        )
        self.sample("before", 0, "Your export failed. Please wait.")
        self.say(("state", 0, {"stage": "training", "total_steps": total}))

    def steps(self, first: int, last: int, total: int) -> None:
        self.say(
            *(
                (
                    "step",
                    step,
                    metrics(step)
                    | {
                        "grad_norm": 2 / step,
                        "learning_rate": 5e-6 * (1 - step / total / 2),
                        "total_steps": total,
                        "eta_seconds": float(total - step),
                    },
                )
                for step in range(first, last + 1)
            )
        )

    def evaluate(self, step: int) -> None:
        self.say(("eval", step, evaluation(step)))

    def sample(self, phase: str, step: int, text: str) -> None:
        prompt = [{"role": "user", "content": "My export has failed twice with “quota exceeded”. What now?"}]
        self.say(("sample", step, {"phase": phase, "decoding": "greedy", "prompt": prompt, "completion": text}))

    def publish(
        self, files: dict[str, bytes] | None = None, step: int = 60, base_sha256: str = "b7" * 32
    ) -> Checkpoint:
        """Ends the job well, with a checkpoint of these files, trained on these base weights."""
        storage = get_storage(self.settings)
        contents = files or {
            "adapter_model.safetensors": b"weights" * 1000,
            "adapter_config.json": b"{}",
            "prefloop.json": b"{}",
            "README.md": b"---\nlicense: apache-2.0\n---\n\n# Support tone, run 1\n\nA LoRA adapter.\n",
        }
        facts = {
            "step": step,
            "seed": 42,
            "metrics": {"before": evaluation(0), "after": evaluation(step)},
            "kind": "lora",
            "versions": {"torch": "2.13.0", "peft": "0.21.0"},
            "device": "cpu",
        }
        with write_session(self.engine) as session:
            job = leases.hold(session, job_id=self.job_id, token=self.token)
        files = [
            storage.put_bytes(f"checkpoints/job-{job.id}/{name}", data, name=name)
            for name, data in sorted(contents.items())
        ]
        with write_session(self.engine) as session:
            run = runs.get(session, job.id)
            version = checkpoints.guideline_version(session, run=run)
            base = {"weights_sha256": base_sha256, "origin": "a folder", "note": MANIFEST["note"]}
            before = parents.told(session, run=run)
            chain = checkpoints.provenance(run=run, guideline_version=version, facts=facts, base=base, parent=before)
            checkpoint = checkpoints.publish(session, run=run, files=files, facts=facts, provenance=chain)
            runs.record_end(session, job_id=job.id, numbers={"peak_memory_bytes": 2_400_000_000})
            leases.succeed(session, job_id=job.id, token=self.token)
        return checkpoint

    def fail(self, code: str, error: str, *, kept: str = "", lines: tuple[str, ...] = ()) -> None:
        with write_session(self.engine) as session:
            leases.fail(session, job_id=self.job_id, token=self.token, code=code, error=error, kept=kept, lines=lines)

    def end_cancelled(self, kept: str) -> None:
        with write_session(self.engine) as session:
            leases.end_cancelled(session, job_id=self.job_id, token=self.token, kept=kept)
