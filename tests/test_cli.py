"""The command line as an ML engineer uses it, on the same services as the pages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, update
from typer.testing import CliRunner, Result

from app import doorbell
from app.cli import cli
from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.events import wake
from app.models import EvaluatorCount, JobKind, JobState
from app.services.collecting import projects
from app.services.jobs import jobs, workers
from app.services.training import runs
from tests.conftest import ROOT
from tests.factory import Factory
from tests.pretend_worker import PretendWorker, prepare_model
from tests.services.training.exported import FILES, exported
from tests.services.training.trained import trained


def prefloop(*words: str, given: str = "") -> Result:
    result = CliRunner().invoke(cli, list(words), input=given)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def outside(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where errors become lines and exit statuses."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def admin(settings: Settings, engine: Engine) -> str:
    """The first account, made as the README says."""
    made = prefloop("user", "add", "root", "--role", "admin")
    assert f"{settings.base_url}/link/" in made.output
    return "root"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Question {n}?", "chosen": f"Good {n}", "rejected": f"Bad {n}"} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    return file


def test_from_an_empty_database_to_exported_files(admin: str, pairs: Path, tmp_path: Path) -> None:
    assert prefloop("project", "create", "tone", "--name", "Tone").exit_code == 0
    report = json.loads(prefloop("import", "tone", str(pairs), "--json").output)
    assert (report["added"], report["judged"], report["rejected"]) == (40, 40, 1)
    assert report["rejections"][0]["line"] == 41
    again = json.loads(prefloop("import", "tone", str(pairs), "--json").output)
    assert (again["added"], again["duplicates"]) == (0, 40)
    assert prefloop("export", "tone", "--out", str(tmp_path / "out")).exit_code == 0
    rows = [
        json.loads(line)
        for name in ("train", "eval")
        for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 40
    assert all(row["chosen"][0]["content"].startswith("Good") for row in rows)
    (listed,) = prefloop("snapshot", "list", "tone", "--json").output.splitlines()
    assert json.loads(listed)["number"] == 1


def test_a_project_is_taken_out_in_other_forms_and_brought_back(admin: str, pairs: Path, tmp_path: Path) -> None:
    prefloop("project", "create", "tone")
    prefloop("import", "tone", str(pairs))
    out = tmp_path / "out"
    assert "40 pairs" in prefloop("export", "tone", "--out", str(out), "--form", "own").output
    prefloop("project", "create", "copy")
    assert "40 added (40 already judged)" in prefloop("import", "copy", str(out / "tone.jsonl")).output
    assert "0 added" in prefloop("import", "copy", str(out / "tone.jsonl")).output
    prefloop("export", "tone", "--out", str(out), "--form", "openai")
    written = sorted(out.glob("tone-1-*-openai.jsonl"))
    lines = [json.loads(line) for file in written for line in file.read_text().splitlines()]
    assert len(lines) == 40 and lines[0]["preferred_output"][0]["content"].startswith("Good")
    prefloop("export", "tone", "--out", str(out), "--form", "trl", "--kind", "parquet")
    assert len(list(out.glob("tone-1-*-trl.parquet"))) == 2


def test_import_reads_standard_input(admin: str, pairs: Path) -> None:
    prefloop("project", "create", "tone")
    shown = prefloop("import", "tone", "-", given=pairs.read_text())
    assert "40 added" in shown.output


def test_import_says_what_became_of_columns_and_fails_where_nothing_is_accepted(admin: str, tmp_path: Path) -> None:
    prefloop("project", "create", "tone")
    file = tmp_path / "pairs.csv"
    file.write_text("frage,gut,schlecht,note\nName a fruit.,Pear,Car,n\n")
    with pytest.raises(Invalid, match="`frage`"):  # which ends the command with 1
        prefloop("import", "tone", str(file))
    said = ("--map", "frage=prompt", "--map", "gut=chosen", "--map", "schlecht=rejected")
    shown = prefloop("import", "tone", str(file), *said, "--show")
    assert shown.exit_code == 0 and "user: Name a fruit." in shown.output
    imported = prefloop("import", "tone", str(file), *said)
    assert "1 added (1 already judged)" in imported.output and "left out: `note`" in imported.output
    again = json.loads(prefloop("import", "tone", str(file), "--json").output)
    assert (again["duplicates"], again["columns"]["note"]) == (1, {"left_out": 1})


@pytest.mark.usefixtures("tiny")
def test_train_queues_a_run_that_can_be_listed_cancelled_and_retried(admin: str, pairs: Path, engine: Engine) -> None:
    prefloop("project", "create", "tone")
    prefloop("import", "tone", str(pairs))
    shown = prefloop("train", "tone", "--model", "tiny", "--set", "learning_rate=1e-5", "--set", "max_steps=3")
    assert "Queued run 1" in shown.output
    with read_session(engine) as session:
        run = session.scalars(runs.loaded()).one()
        assert (run.job.state, run.config["learning_rate"], run.config["max_steps"]) == (JobState.QUEUED, 1e-5, 3)
    prefloop("jobs", "cancel", "1")
    assert json.loads(prefloop("jobs", "list", "tone", "--json").output)["state"] == "cancelled"
    assert prefloop("jobs", "watch", "1").exit_code == 1
    prefloop("jobs", "retry", "1")
    assert json.loads(prefloop("jobs", "show", "1").output)["state"] == "queued"


@pytest.mark.usefixtures("tiny")
def test_commands_ring_the_workers_and_wake_the_pages_as_a_click_does(
    admin: str, pairs: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFLOOP_BROKER_URL", redis_url)
    get_settings.cache_clear()
    prefloop("project", "create", "tone")
    prefloop("import", "tone", str(pairs))
    with redis.Redis.from_url(redis_url) as broker, broker.pubsub(ignore_subscribe_messages=True) as pages:
        broker.delete(doorbell.QUEUE)
        pages.subscribe(wake.CHANNEL)
        broker.publish(wake.CHANNEL, "listening")
        while (first := pages.get_message(timeout=30)) is None or first["data"] != b"listening":
            pass

        def heard(*words: str) -> tuple[int, bool]:
            """How often the command rang, and whether it woke the pages of run 1."""
            before = broker.llen(doorbell.QUEUE)
            prefloop(*words)
            woken = pages.get_message(timeout=5)
            return broker.llen(doorbell.QUEUE) - before, woken is not None and woken["data"] == b"1"

        assert heard("train", "tone", "--model", "tiny") == (1, True)
        assert heard("jobs", "cancel", "1") == (0, True)  # no worker has it: only its pages care
        assert heard("jobs", "retry", "1") == (1, True)


def test_a_token_works_until_it_is_revoked(admin: str, client) -> None:
    token = prefloop("token", "create", "laptop").output.strip()
    header = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/me", headers=header).json()["username"] == "root"
    assert token not in prefloop("token", "list", "--json").output
    prefloop("token", "revoke", "1")
    assert client.get("/api/v1/me", headers=header).status_code == 401


def test_accounts_are_managed(admin: str) -> None:
    prefloop("user", "add", "kim")
    prefloop("user", "role", "kim", "engineer")
    prefloop("user", "deactivate", "kim")
    rows = {row["username"]: row for row in map(json.loads, prefloop("user", "list", "--json").output.splitlines())}
    assert (rows["kim"]["role"], rows["kim"]["active"]) == ("engineer", False)
    prefloop("user", "activate", "kim")
    assert "/link/" in prefloop("user", "link", "kim").output
    assert "/link/" in prefloop("user", "invite", "--role", "evaluator", "--note", "for the new one").output
    assert "for the new one" in prefloop("user", "invitations").output
    actions = [json.loads(line)["action"] for line in prefloop("audit", "--json").output.splitlines()]
    assert {"user.create", "invitation.create"} <= set(actions)


def test_project_rules_change(admin: str) -> None:
    prefloop("project", "create", "tone")
    prefloop("project", "set", "tone", "judgments_per_comparison=3", "name=Our tone")
    assert json.loads(prefloop("project", "list", "--json").output)["name"] == "Our tone"


def test_a_mistake_is_two_lines_and_exit_status_one(settings: Settings, factory: Factory) -> None:
    factory.admin()
    done = outside("import", "nowhere", "/no/such/file.jsonl")
    assert done.returncode == 1
    assert "There is no file /no/such/file.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    unknown = outside("snapshot", "list", "nowhere")
    assert unknown.returncode == 1
    assert "There is no project" in unknown.stderr
    factory.project(slug="tone")
    odd = outside("train", "tone", "--model", "tiny", "--set", "dtype=x[/red]", "--set", "seed=-1")
    assert odd.returncode == 1
    assert "not “x[/red]”" in odd.stderr and "'seed' must be a whole number" in odd.stderr
    assert "Traceback" not in odd.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_wrong_setting_names_its_variable(settings: Settings) -> None:
    done = outside("migrate", PREFLOOP_PORT="http")
    assert done.returncode == 2
    assert "PREFLOOP_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_is_not_there_is_one_line(settings: Settings) -> None:
    done = outside("user", "list", PREFLOOP_DATABASE_URL="postgresql://prefloop@127.0.0.1:1/nowhere")
    assert done.returncode == 1
    assert "database" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_names_what_is_missing_and_what_to_do(settings: Settings, engine: Engine) -> None:
    done = prefloop("doctor")
    assert done.exit_code == 1
    assert "There is no admin account" in done.output
    assert "prefloop user add" in done.output
    assert "No worker has reported lately" in done.output


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_doctor_names_a_base_model_that_is_broken(settings: Settings, engine: Engine) -> None:
    manifest = settings.models / "bad" / "prefloop-model.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    told = " ".join(prefloop("doctor").output.split())
    assert "The base model bad can't be used" in told and "prefloop models add bad" in told


def test_doctor_finds_a_wrong_count_and_repairs_it(settings: Settings, engine: Engine, factory: Factory) -> None:
    project = factory.judged(3)
    assert "all kept counts are right" in prefloop("doctor").output
    with write_session(engine) as session:
        session.execute(update(EvaluatorCount).values(done=7))
    done = prefloop("doctor")
    told = " ".join(done.output.split())
    assert done.exit_code == 1
    assert f"in project {project.id}: 7 is kept, 3 is right" in told and "prefloop doctor --repair" in told
    assert "1 kept counts were wrong" in prefloop("doctor", "--repair").output
    assert "all kept counts are right" in prefloop("doctor").output


def test_doctor_sees_a_redis_that_is_gone(settings: Settings, engine: Engine) -> None:
    done = outside("doctor", PREFLOOP_BROKER_URL="redis://127.0.0.1:1/0")
    assert "Redis doesn't answer" in done.stdout
    assert done.returncode == 1


def test_workers_and_doctor_tell_who_can_do_what(admin: str, engine: Engine) -> None:
    assert "No worker yet" in prefloop("workers").output
    prefloop("project", "create", "tone")
    with write_session(engine) as session:
        workers.register(
            session,
            name="cpu-1",
            device="2 CPU cores",
            memory_bytes=None,
            version="0.1.0",
            kinds=[JobKind.TRAINING],
            versions={},
        )
        project = projects.get(session, "tone")
        jobs.queue(session, kind=JobKind.EXPORT, project_id=project.id, by=None)
    listed = json.loads(prefloop("workers", "--json").output)
    assert (listed["name"], listed["alive"], listed["version"], listed["kinds"]) == ("cpu-1", True, "0.1.0", "training")
    told = " ".join(prefloop("doctor").output.split())
    assert "cpu-1 on 2 CPU cores, version 0.1.0, can do training" in told
    assert "No running worker can do the exports that wait." in told
    shown = json.loads(prefloop("jobs", "show", "1").output)
    assert shown["waiting"] == "no running worker can do exports: start one of this version of Prefloop"
    assert "No jobs yet" in prefloop("jobs", "list").output
    for kind in JobKind:
        assert prefloop("jobs", "list", "--kind", kind.value).exit_code == 0
    table = prefloop("jobs", "list", "--kind", "all").output
    assert " UTC" in table and "+00:00" not in table
    (row,) = prefloop("jobs", "list", "--kind", "all", "--json").output.splitlines()
    assert (json.loads(row)["kind"], json.loads(row)["base_model"]) == ("export", "")


def test_train_warns_of_a_number_type_that_is_slow_on_the_worker(
    admin: str, pairs: Path, engine: Engine, settings: Settings
) -> None:
    prefloop("project", "create", "tone")
    prefloop("import", "tone", str(pairs))
    prepare_model(settings)
    PretendWorker(engine, settings)
    with write_session(engine) as session:
        workers.measured(session, name="cpu-1", product_gflops={"float32": 100.0, "bfloat16": 4.0})
    slow = " ".join(prefloop("train", "tone", "--model", "tiny", "--set", "dtype=bfloat16").output.split())
    assert "Slow: Products in bfloat16 take 25.0 times as long" in slow and "Queued run 1" in slow
    assert "Slow" not in prefloop("train", "tone", "--model", "tiny").output


def test_a_checkpoint_is_exported_once_and_copied_when_it_is_whole(
    admin: str, settings: Settings, engine: Engine, factory: Factory, tmp_path: Path
) -> None:
    prepare_model(settings)
    engineer = factory.engineer()
    _, checkpoint = trained(engine, settings, factory.judged(8), engineer)
    asked = prefloop("checkpoints", "export", str(checkpoint.id), "--as", "gguf-q8_0")
    again = prefloop("checkpoints", "export", str(checkpoint.id), "--as", "gguf-q8_0")
    assert asked.exit_code == again.exit_code == 0
    assert "is queued. Follow it: prefloop jobs watch" in asked.output and asked.output == again.output
    made = exported(engine, settings, checkpoint, engineer)
    assert f"Export {made.job_id} " in asked.output
    watched = prefloop("checkpoints", "export", str(checkpoint.id), "--as", "gguf-q8_0", "--watch")
    assert watched.exit_code == 0 and "has this export already" in watched.output
    copied = prefloop("checkpoints", "export", str(checkpoint.id), "--as", "gguf-q8_0", "--out", str(tmp_path / "out"))
    assert copied.exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
    assert all(file.sha256 in copied.output.replace("\n", "") for file in made.files)


def test_an_export_that_the_model_can_not_have_is_refused_in_one_line(
    admin: str, settings: Settings, engine: Engine, factory: Factory
) -> None:
    prepare_model(settings)
    (settings.models / "tiny" / "config.json").write_text('{"model_type": "gemma"}')
    _, checkpoint = trained(engine, settings, factory.judged(8), factory.engineer())
    assert prefloop("checkpoints", "export", str(checkpoint.id)).exit_code == 2, "a format must be named"
    refused = outside("checkpoints", "export", str(checkpoint.id), "--as", "gguf-f16")
    assert refused.returncode == 1
    assert "this one is of type gemma" in refused.stderr and "Export it as merged weights instead." in refused.stderr


def test_members_are_listed_added_and_removed(settings: Settings) -> None:
    prefloop("user", "add", "boss", "--role", "admin")
    prefloop("user", "add", "ada")
    prefloop("project", "create", "tone")
    assert prefloop("members", "add", "tone", "ada", "--role", "lead").exit_code == 0
    rows = [json.loads(line) for line in prefloop("members", "list", "tone", "--json").output.splitlines()]
    assert {row["username"]: row["role"] for row in rows} == {"boss": "engineer", "ada": "lead"}
    assert prefloop("members", "remove", "tone", "ada").exit_code == 0
    assert "ada" not in prefloop("members", "list", "tone").output
    prefloop("project", "set", "tone", "open_to_everybody=true")
    assert "open to everybody" in prefloop("members", "list", "tone").output


def test_a_token_and_an_invitation_are_narrowed_by_words(settings: Settings) -> None:
    prefloop("user", "add", "boss", "--role", "admin")
    prefloop("project", "create", "tone")
    assert prefloop("token", "create", "nightly", "--project", "tone", "--only-reads").exit_code == 0
    (token,) = [json.loads(line) for line in prefloop("token", "list", "--json").output.splitlines()]
    assert token["projects"] == "tone, only reads"
    assert prefloop("user", "invite", "--project", "tone=lead").exit_code == 0
    (row,) = [json.loads(line) for line in prefloop("user", "invitations", "--json").output.splitlines()]
    assert row["projects"] == "tone=lead"


def test_new_answers_are_asked_for(admin: str, pairs: Path, settings: Settings, tmp_path: Path) -> None:
    prepare_model(settings)
    prefloop("project", "create", "tone", "--name", "Tone")
    asked = ("generate", "tone", "--from", "base:tiny", "--samples", "2", "--pairing", "round_robin")
    given = tmp_path / "prompts.txt"
    given.write_text("Why?\n\nWho?\n")
    said = prefloop(*asked, "--prompts", str(given), "--cost")
    assert "4 answers will be asked for." in said.output
    assert "Queued" not in said.output
    assert "Queued generation 1" in prefloop(*asked, "--prompts", str(given)).output
    (job,) = prefloop("jobs", "list", "--kind", "generation", "--json").output.splitlines()
    assert json.loads(job)["state"] == "queued"
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "How?"}\n{"messages": [{"role": "user", "content": "When?"}]}\n"Where?"\n')
    assert "Queued generation 2" in prefloop(*asked, "--prompts", str(lines)).output
    assert "Queued generation 3" in prefloop(*asked, "--limit", "2").output
    by_arms = prefloop(*asked, "--arms", "random=0.6,diversity=0.4", "--keep", "0.25", "--cost").output
    assert "25 % of the candidate pairs will be asked" in " ".join(by_arms.split())
    with pytest.raises(Invalid, match="Give it 20 % or more"):
        prefloop(*asked, "--arms", "random=0.1,diversity=0.9")


def test_endpoints_are_added_and_removed(admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", "127.0.0.1:8080")
    get_settings.cache_clear()
    added = ("endpoints", "add", "vllm", "--url", "http://127.0.0.1:8080/v1", "--model", "m", "--key-stdin")
    assert "endpoint:vllm" in prefloop(*added, given="sesame\n").output
    listed = prefloop("endpoints", "list", "--json").output
    assert json.loads(listed)["key"] == "sealed"
    assert "sesame" not in listed
    assert "removed" in prefloop("endpoints", "remove", "vllm").output
    assert "No endpoints yet" in prefloop("endpoints", "list").output
