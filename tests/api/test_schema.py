"""schemathesis on a running server: no answer is a server error, and none is one that the document does not name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.db import get_engine, write_session
from app.models import Role
from app.services.accounts import tokens
from app.services.jobs import jobs
from app.services.training import runs
from tests.live import ROOT, LiveServer
from tests.pretend_worker import prepare_model

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


pytestmark = pytest.mark.timeout(600)  # a hundred operations and more


@pytest.fixture
def filled(live_server: LiveServer) -> LiveServer:
    """A server with one of each noun: id 1 of everything exists, and the project `tone`."""
    factory = live_server.factory
    engineer = factory.engineer()
    project = factory.judged(6, slug="tone")
    factory.comparisons(project, 30)
    snapshot = factory.snapshot(project)
    prepare_model(live_server.settings)
    with write_session(get_engine(live_server.settings)) as session:
        job = runs.create(
            session, snapshot=session.merge(snapshot), base_model="tiny", config={}, by=session.merge(engineer)
        ).job
        jobs.cancel(session, job=job, by=session.merge(engineer))
    return live_server


def call_everything(
    server: LiveServer, role: Role, folder: Path, *words: str, parameters: str = "", patience: int = 560
) -> None:
    """Runs schemathesis with a token of a new user of that role."""
    with write_session(get_engine(server.settings)) as session:
        _, secret = tokens.create(
            session, user=session.merge(server.factory.user(role, f"schema-{role.value}")), name="schema"
        )
    (folder / "schemathesis.toml").write_text(parameters)
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            "run",
            f"{server.url}/api/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {secret}",
            "--checks",
            CHECKS,
            "--exclude-path",
            "/api/v1/tokens/{token_id}",  # it would revoke its own token
            "--seed",
            "7",
            "--request-timeout",
            "20",
            "--suppress-health-check",
            "all",
            "--no-color",
            *words,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.api.schema_hooks", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    counts = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counts and counts[1] == counts[2] and int(counts[1]) > 100, done.stdout[-2000:]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_api_answers_an_engineer_as_documented(filled: LiveServer, tmp_path: Path) -> None:
    call_everything(
        filled,
        Role.ENGINEER,
        tmp_path,
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        "8",
        parameters='[parameters]\nslug = "tone"\njob_id = 1\nsnapshot_id = 1\nimport_id = 1\ncheckpoint_id = 1\n',
    )


def test_the_api_answers_an_admin_as_documented(filled: LiveServer, tmp_path: Path) -> None:
    call_everything(filled, Role.ADMIN, tmp_path, "--phases", "fuzzing", "--max-examples", "8")


def test_an_evaluator_is_refused_in_documented_ways(filled: LiveServer, tmp_path: Path) -> None:
    call_everything(filled, Role.EVALUATOR, tmp_path, "--phases", "fuzzing", "--max-examples", "4")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_api_answers_an_admin_as_documented_many_times(filled: LiveServer, tmp_path: Path) -> None:
    call_everything(
        filled,
        Role.ADMIN,
        tmp_path,
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        "40",
        parameters='[parameters]\nslug = "tone"\njob_id = 1\nsnapshot_id = 1\nimport_id = 1\ncheckpoint_id = 1\n',
        patience=1700,
    )
