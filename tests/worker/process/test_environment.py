"""A job's program sees what it needs to compute, and none of the worker's secrets."""

import json
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.models import Job
from app.paths import ROOT
from app.storage import Storage
from tests.worker.process.test_supervisor import Adding
from tests.worker.process.test_supervisor import claimed as claimed
from worker.kinds.training import Training
from worker.process import environment
from worker.process.supervisor import Supervisor
from worker.pulse import Pulse

NEEDED = {
    "PATH": "/usr/bin",
    "HOME": "/home/x",
    "LANG": "C.UTF-8",
    "LC_ALL": "C",
    "TZ": "UTC",
    "TMPDIR": "/scratch",
    "HF_HOME": "/models/hub",
    "https_proxy": "http://proxy:3128",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/etc/ssl/own.pem",
    "CUDA_VISIBLE_DEVICES": "1",
    "NCCL_DEBUG": "INFO",
    "OMP_NUM_THREADS": "4",
    "KMP_AFFINITY": "compact",
    "MKL_NUM_THREADS": "4",
    "TORCHINDUCTOR_CACHE_DIR": "/scratch/inductor",
    "LD_PRELOAD": "libjemalloc.so",
}
SECRETS = {
    "PREFLOOP_SECRET_KEY": "x",
    "PREFLOOP_DATABASE_URL": "postgresql://u:p@h/x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_SESSION_TOKEN": "x",
    "GITHUB_TOKEN": "x",
    "OPENAI_API_KEY": "x",
    "POSTGRES_PASSWORD": "x",
    "PGPASSWORD": "x",
    "HF_TOKEN": "hf_x",
    "HF_TOKEN_PATH": "/x",
    "HUGGING_FACE_HUB_TOKEN": "hf_x",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "WANDB_API_KEY": "x",
    "MLFLOW_TRACKING_PASSWORD": "x",
}


def test_what_it_needs_passes_and_what_it_does_not_need_stays() -> None:
    seen = environment.of_program(NEEDED | SECRETS)
    assert {name: seen[name] for name in NEEDED} == NEEDED
    assert not set(SECRETS) & set(seen)
    assert set(seen) - set(NEEDED) == {"PYTHONPATH", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"}
    assert seen["PYTHONPATH"] == str(ROOT)


def test_more_passes_only_by_name_and_secrets_of_ours_never() -> None:
    seen = environment.of_program(SECRETS, ["WANDB_*", "GITHUB_TOKEN", "*"])
    assert seen["WANDB_API_KEY"] == seen["GITHUB_TOKEN"] == "x"
    assert not any(name.startswith(("PREFLOOP_", "HF_TOKEN")) for name in seen)


def test_the_devices_of_the_job_win() -> None:
    assert environment.of_program(NEEDED, devices={"CUDA_VISIBLE_DEVICES": "0"})["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("report_to", "patterns"),
    [
        (None, []),
        ("none", []),
        ("tensorboard", []),
        ("wandb", ["WANDB_*"]),
        (["wandb", "mlflow"], ["WANDB_*", "MLFLOW_*"]),
    ],
)
def test_a_tracker_gets_its_own_where_the_run_reports_to_it(report_to: object, patterns: list[str]) -> None:
    kind = Training.__new__(Training)
    kind._run = type("Run", (), {"config": {"report_to": report_to}})()
    assert kind.variables() == patterns


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_process_itself_sees_no_more(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (SECRETS | {"ADDING_UP": "yes", "SITE_CACHE": "yes", "OTHER": "no"}).items():
        if not name.startswith("PREFLOOP_"):
            monkeypatch.setenv(name, value)
    told = tmp_path / "seen.json"
    program = f"import json, os, pathlib; pathlib.Path({str(told)!r}).write_text(json.dumps(dict(os.environ)))"

    class Telling(Adding):
        def command(self, folder: Path, storage: Storage) -> list[str]:
            (folder / "sum.txt").write_text("3")
            return [sys.executable, "-c", program]

    site = settings.model_copy(update={"train_environment": "SITE_*"})
    pulse = Pulse(site, engine, "w", [])
    pulse.hold(claimed.id, str(claimed.lease_token))
    Supervisor(claimed, Telling(claimed, site), site, engine, storage, pulse, threading.Event(), {}).run()
    seen = json.loads(told.read_text())
    assert seen["ADDING_UP"] == seen["SITE_CACHE"] == "yes"
    assert "OTHER" not in seen and not (set(SECRETS) & set(seen))
