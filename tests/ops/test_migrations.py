"""Migrations on a blank database and on filled ones of each earlier revision, on SQLite and PostgreSQL."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, select, text
from starlette.testclient import TestClient

from app import security
from app.config import Settings
from app.db import read_session, write_session
from app.main import create_app
from app.models import Base, Project, Prompt
from app.ops import migrate
from app.services.accounts import tokens, users
from app.services.collecting import judgments, pairs, projects, recount
from app.services.collecting.messages import prompt_hash
from tests.conftest import ROOT
from tests.ops.filled import DATABASES, Filled, Row, rows_of

RELEASED = ["0001"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A blank database without any table, in place of the migrated one that other tests get."""
    if request.param == "sqlite":
        (tmp_path / "data").mkdir()
        yield f"sqlite:///{tmp_path / 'data' / 'prefloop.db'}"
        return
    server, name = request.getfixturevalue("postgres_server"), f"blank_{secrets.token_hex(6)}"
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.rpartition("/")[0] + f"/{name}"
    with maintenance.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    maintenance.dispose()


@pytest.fixture(params=RELEASED)
def filled(request: pytest.FixtureRequest, engine: Engine, settings: Settings, storage: Any) -> Filled:
    """An earlier revision's database with what people had put into it; `engine` leads to it."""
    filled = Filled.of(request.param)
    filled.load(engine, request.param)
    filled.store(storage)
    return filled


def test_a_blank_database_gets_every_table(engine: Engine) -> None:
    assert migrate.revisions(engine)[0] is None
    migrate.upgrade(engine)
    current, newest = migrate.revisions(engine)
    assert current == newest
    assert set(inspect(engine).get_table_names()) == set(Base.metadata.tables) | {"alembic_version"}


def test_models_and_migrations_agree(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_has_the_constraints_and_indexes_of_the_models(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    migrated = drawn(engine)
    with migrate.transaction(engine) as connection:
        for table in migrated:
            connection.execute(text(f"DROP TABLE {table}" + (" CASCADE" if is_postgresql(connection) else "")))
        Base.metadata.create_all(connection)
    models = drawn(engine)
    for table in models:
        assert migrated.get(table) == models[table], table
    assert set(migrated) == set(models)


def test_an_upgrade_keeps_what_people_gave(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    assert_kept(filled.rows, as_it_was(rows_of(engine)), GONE)


PAGES = [
    "/",
    *(
        f"/projects/{slug}/{page}"
        for slug in ("tone", "brought", "support-tone")
        for page in ("data", "compare", "history")
    ),
    "/projects/tone/settings",
    "/projects/tone/members",
    "/projects/tone/guidelines",
    "/projects/tone/guidelines?version=1",
    "/projects/brought/import",
    *(f"/imports/{number}" for number in (1, 2, 3, 4, 5)),
    *(f"/comparisons/{number}" for number in (1, 6, 10, 20)),
    "/snapshots/1",
    "/snapshots/2",
    "/projects/brought/runs",
    *(f"/jobs/{number}" for number in (1, 2, 3, 4, 5, 6, 7)),
    "/projects/brought/train",
    "/projects/brought/checkpoints",
    "/checkpoints/1",
    "/workers",
    "/people",
    "/audit",
    "/account",
]


@pytest.fixture
def client(engine: Engine, filled: Filled, settings: Settings) -> Iterator[TestClient]:
    """The app on an upgraded database, with the admin's browser session of before."""
    migrate.upgrade(engine)
    with TestClient(create_app(settings), follow_redirects=False) as client:
        client.cookies.set(security.cookie_name(settings), filled.given["session"])
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_page_shows_what_was_there_before_the_upgrade(client: TestClient) -> None:
    replies = {page: client.get(page) for page in PAGES}
    assert {page: reply.status_code for page, reply in replies.items() if reply.status_code != 200} == {}
    assert "26 lines read" in replies["/imports/1"].text
    assert "It says hello." in replies["/comparisons/6"].text
    assert "Length doesn&#39;t count." in replies["/projects/tone/guidelines"].text
    assert "The loss is not a number at step 3." in replies["/jobs/2"].text


def test_files_of_before_the_upgrade_download_as_they_were(client: TestClient, filled: Filled) -> None:
    engineer = bearer(filled.given["token"])
    (readme,) = [content for key, content in filled.files.items() if key.endswith("README.md")]
    assert client.get("/api/v1/checkpoints/1/files/README.md", headers=engineer).text == readme
    for snapshot in filled.rows["snapshots"]:
        for file in snapshot["files"]:
            reply = client.get(f"/api/v1/snapshots/{snapshot['id']}/files/{file['name']}", headers=engineer)
            assert reply.text == filled.files[file["key"]]


def test_judging_goes_on_after_an_upgrade(client: TestClient, engine: Engine, filled: Filled) -> None:
    evaluator, engineer = bearer(filled.given["evaluator_token"]), bearer(filled.given["token"])
    held = client.post("/api/v1/projects/tone/next", headers=evaluator).json()
    assert held["token"] == filled.given["running_lease"]
    with write_session(engine) as session:
        slow = users.get(session, "evaluator-2")
        lost = judgments.record(session, token=filled.given["lost_lease"], user=slow, choice="tie")
    assert not lost.late and lost.slot_id is not None
    choices = 0
    while (reply := client.post("/api/v1/projects/tone/next", headers=evaluator)).status_code == 200:
        said = {"token": reply.json()["token"], "choice": "right"}
        assert not client.post("/api/v1/judgments", headers=evaluator, json=said).json()["late"]
        choices += 1
    assert choices == 8  # of fourteen pairs this person had judged four and skipped one, and others have filled another
    again = client.post("/api/v1/projects/tone/undo", headers=evaluator).json()
    assert again["previous"]["choice"] == "right"
    frozen = client.post("/api/v1/projects/tone/snapshots", headers=engineer, json={}).json()
    assert frozen["number"] == 2 and frozen["counts"]["pairs"] > filled.rows["snapshots"][1]["counts"]["pairs"]
    with read_session(engine) as session:
        assert recount.check(session) == []


def test_everybody_goes_on_in_the_projects_of_before(client: TestClient, engine: Engine, filled: Filled) -> None:
    evaluator, engineer = bearer(filled.given["evaluator_token"]), bearer(filled.given["token"])
    slugs = {row["slug"] for row in filled.rows["projects"]}
    for token, role in ((evaluator, "evaluator"), (engineer, "engineer")):
        listed = client.get("/api/v1/projects", headers=token).json()
        assert {row["slug"]: row["role"] for row in listed} == dict.fromkeys(slugs, role)
    assert client.get("/api/v1/projects/tone/comparisons", headers=evaluator).status_code == 403
    assert client.get("/api/v1/projects/tone/comparisons", headers=engineer).status_code == 200
    with write_session(engine) as session:
        made = projects.create(session, slug="made-since", name="New", by=users.get(session, "engineer"))
        assert not made.open_to_everybody
    assert client.get("/api/v1/projects/made-since", headers=evaluator).status_code == 404


def test_a_downgrade_revokes_tokens_that_it_would_widen(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    with write_session(engine) as session:
        owner = users.get(session, "engineer")
        limits: list[dict[str, Any]] = [{"projects": ["tone"]}, {"only_reads": True}, {}]
        ids = [tokens.create(session, user=owner, name="since", **limit)[0].id for limit in limits]
    migrate.downgrade(engine, "0007")
    revoked = {row["id"]: row["revoked_at"] is not None for row in rows_of(engine)["api_tokens"]}
    assert [revoked[number] for number in ids] == [True, True, False]
    migrate.upgrade(engine)


def test_a_failed_run_of_before_the_upgrade_is_tried_again(client: TestClient, filled: Filled) -> None:
    engineer = bearer(filled.given["token"])
    assert client.post("/api/v1/jobs/2/retry", headers=engineer).json()["state"] == "queued"
    events = client.get("/api/v1/jobs/1/events", headers=engineer).json()
    assert len(events["items"]) == sum(event["job_id"] == 1 for event in filled.rows["job_events"])


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("state = 'leased', lease_token = NULL", ("open", None, None, None)),
        ("state = 'leased', leased_until = NULL, lease_token = 'x'", ("open", None, None, None)),
        ("state = 'open'", ("open", None, None, None)),
        ("state = 'done', lease_token = 'x', leased_until = leased_at", ("done", 3, None, None)),
    ],
)
def test_a_slot_that_is_not_whole_is_repaired(
    engine: Engine, filled: Filled, broken: str, repaired: tuple[object, ...]
) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE slots SET holder_id = 3, {broken} WHERE id = 34"))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT state, holder_id, lease_token, leased_until FROM slots WHERE id = 34")
        ).one()
    assert tuple(row) == repaired


def test_every_slot_has_the_priority_of_its_comparison(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    rows = rows_of(engine)
    priorities = {row["id"]: row["priority"] for row in rows["comparisons"]}
    assert {row["id"]: row["priority"] for row in rows["slots"]} == {
        row["id"]: priorities[row["comparison_id"]] for row in rows["slots"]
    }


def test_what_was_there_is_counted(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    rows = rows_of(engine)
    assert sum(row["comparisons"] for row in rows["project_counts"]) == len(rows["comparisons"])
    assert sum(row["stored"] for row in rows["evaluator_counts"]) == len(rows["judgments"])
    assert any(row["known_offered"] for row in rows["evaluator_counts"])
    with read_session(engine) as session:
        recount.at_one_moment(session)
        assert recount.check(session) == []


def test_prompts_of_before_are_grouped_and_none_moves(engine: Engine, filled: Filled) -> None:
    """The same question with other white space, in capitals, and almost the same one, on either side."""
    words = [f"word{number}" for number in range(60)]
    texts = ["Where is it?", " where is  IT?\n", " ".join(words), " ".join([*words, "please"]), "Where?", "alone"]
    splits = ["train", "eval", "eval", "train", "train", "eval"]
    insert = "INSERT INTO prompts (id, project_id, content_hash, messages, split, created_at)"
    with engine.begin() as connection:
        project_id, made = connection.execute(text("SELECT project_id, created_at FROM prompts WHERE id = 1")).one()
        for number, (said, split) in enumerate(zip(texts, splits, strict=True), 900):
            connection.execute(
                text(f"{insert} VALUES (:id, :project, :hash, :messages, :split, :made)"),
                {
                    "id": number,
                    "project": project_id,
                    "hash": f"{number:064}",
                    "messages": json.dumps([{"role": "user", "content": said}]),
                    "split": split,
                    "made": made,
                },
            )
    migrate.upgrade(engine)
    rows = rows_of(engine)
    prompts = [row for row in rows["prompts"] if row["id"] >= 900]
    groups = [row["group_id"] for row in prompts]
    assert [row["split"] for row in prompts] == splits
    assert groups[0] == groups[1] != groups[2] == groups[3] and groups[4:] == [None, None]
    split_of = {row["id"]: row["split"] for row in rows["prompt_groups"]}
    assert (split_of[groups[0]], split_of[groups[2]]) == ("train", "eval")
    with write_session(engine) as session:
        project = session.get_one(Project, prompts[0]["project_id"])
        pairs.add(session, project=project, prompt="WHERE IS IT?", responses=("Here.", "There."))
        content = prompt_hash([{"role": "user", "content": "WHERE IS IT?"}])
        new = session.scalars(select(Prompt).where(Prompt.content_hash == content)).one()
        assert (new.group_id, new.split.value) == (groups[0], "train")


def test_pairs_that_a_generation_made_are_of_the_random_arm(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine, "0021")
    made, other = [row for row in rows_of(engine)["comparisons"] if row["evaluation_id"] is None][:2]
    with engine.begin() as connection:
        for statement in (
            f"UPDATE comparisons SET import_id = NULL WHERE id IN ({made['id']}, {other['id']})",
            "INSERT INTO jobs (id, project_id, kind, state, phase, step, error, error_code, attempts, worker, output_bytes, created_at)"
            " SELECT 900, project_id, 'generation', 'queued', '', 0, '', '', 0, '', 0, created_at FROM jobs WHERE id = 1",
            "INSERT INTO generation_plans (job_id, purpose, prompts, sources, samples, sampling, pairing, counts)"
            " VALUES (900, 'collection', '{}', '[]', 1, '{}', 'across', '{}')",
            *(
                "INSERT INTO generated_answers (id, job_id, prompt_id, source, sample, seed, text, finish, marks, response_id, created_at)"
                f" SELECT {at + 1}, 900, {made['prompt_id']}, {at}, 0, 0, 'x', 'stop', '[]', {made[name]}, created_at FROM jobs WHERE id = 1"
                for at, name in enumerate(("first_response_id", "second_response_id"))
            ),
        ):
            connection.execute(text(statement))
    migrate.upgrade(engine)
    arms = {row["id"]: row["arm"] for row in rows_of(engine)["comparisons"]}
    assert {number: arm for number, arm in arms.items() if arm} == {made["id"]: "random"}
    assert rows_of(engine)["generation_plans"][0]["arms"] in ({}, "{}")


def test_a_downgrade_and_another_upgrade_keep_it_as_well(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    upgraded = rows_of(engine)
    migrate.downgrade(engine, RELEASED[0])
    downgraded = rows_of(engine)
    assert set(downgraded) == set(filled.rows)
    assert_kept(filled.rows, downgraded, LOST)
    assert all(slot["rank"] == -upgraded["slots"][at]["priority"] for at, slot in enumerate(downgraded["slots"]))
    migrate.upgrade(engine)
    assert rows_of(engine) == upgraded


def test_a_downgrade_drops_exports_and_their_jobs(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    jobs = len(rows_of(engine)["jobs"])
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, project_id, kind, state, phase, step, error, error_code, attempts, worker,"
                " output_bytes, created_at) SELECT 900, project_id, 'export', 'queued', '', 0, '', '', 0, '', 0, created_at"
                " FROM jobs WHERE id = 1"
            )
        )
        connection.execute(
            text(
                "INSERT INTO exports (job_id, checkpoint_id, format, files, proof) VALUES (900, 1, 'merged', '[]', '{}')"
            )
        )
    migrate.downgrade(engine, "0003")
    kept = rows_of(engine)
    assert len(kept["jobs"]) == jobs and "exports" not in kept
    migrate.upgrade(engine)
    assert rows_of(engine)["exports"] == []


def test_every_step_down_leaves_nothing(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    migrate.downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_upgrading_again_changes_nothing(engine: Engine, filled: Filled) -> None:
    migrate.upgrade(engine)
    once = rows_of(engine)
    migrate.upgrade(engine)
    assert rows_of(engine) == once


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_migration_that_would_leave_orphans_is_taken_back(engine: Engine, filled: Filled) -> None:
    before = rows_of(engine)
    with pytest.raises(RuntimeError, match="point to nothing"), migrate.transaction(engine) as connection:
        connection.execute(text("DELETE FROM users WHERE username = 'evaluator-1'"))
    assert rows_of(engine) == before
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_every_released_revision_has_a_filled_database() -> None:
    """A release names its revision in the changelog: `Database revision: 0001`."""
    released = released_revisions((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert released <= set(RELEASED)
    assert {path.stem for path in DATABASES.glob("*.jsonl")} == set(RELEASED)


def test_a_release_that_does_not_name_its_revision_is_noticed() -> None:
    text = "# Changelog\n\n## Unreleased\n\n## 1.1.0\nDatabase revision: 0007\n\n## 1.0.0\nDatabase revision: 0003\n"
    assert released_revisions(text) == {"0007", "0003"}
    with pytest.raises(AssertionError, match=re.escape("1.0.0")):
        released_revisions("## 1.0.0\n\n### Added\n- All of it.\n")


def released_revisions(changelog: str) -> set[str]:
    """The revision that each released version names."""
    revisions = set()
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        version, _, said = section.partition("\n")
        if version.strip() == "Unreleased":
            continue
        named = re.search(r"^Database revision: (\d{4})$", said, flags=re.MULTILINE)
        assert named, f"{version.strip()} doesn't name its database revision"
        revisions.add(named[1])
    return revisions


def as_it_was(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of the newest revision with each value under the table and the name that it had at first."""
    runs = {run["job_id"]: run for run in rows["training_runs"]}
    return rows | {"jobs": [{"stage": job["phase"]} | job | runs[job["id"]] for job in rows["jobs"]]}


# What a downgrade can't bring back: the tokens of leases that the upgrade took back, who runs what, and the rank of the
# demo's extra slots, which wasn't that of their pair.
LOST = {"jobs": {"lease_token"}, "slots": {"rank"}, "workers": {"job_id"}}
# What an upgrade leaves out as well: columns that follow from others.
GONE = LOST | {"checkpoints": {"project_id"}, "imports": {"lines"}, "slots": {"rank", "leased_at"}}


def assert_kept(before: dict[str, list[Row]], after: dict[str, list[Row]], gone: dict[str, set[str]]) -> None:
    """Every row came out as it went in, but for the columns in `gone` and the lease of a slot that isn't leased."""
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        for old, new in zip(rows, after[table], strict=True):
            names = set(old) - gone.get(table, set())
            if table == "slots" and old["state"] != "leased":
                names -= {"lease_token", "leased_at"}
            assert {name: new[name] for name in names} == {name: old[name] for name in names}, table


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def drawn(engine: Engine) -> dict[str, Any]:
    """Each table's columns, keys, CHECKs and indexes by name, as the database itself says them."""
    with engine.connect() as connection:
        look = inspect(connection)
        if is_postgresql(connection):
            indexes = connection.execute(text("SELECT tablename, indexname, indexdef FROM pg_indexes")).all()
        else:
            indexes = connection.execute(
                text("SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
            ).all()
        return {
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in look.get_columns(table)
                },
                "primary key": look.get_pk_constraint(table),
                "foreign keys": {key["name"]: key for key in look.get_foreign_keys(table)},
                "unique": {unique["name"]: unique["column_names"] for unique in look.get_unique_constraints(table)},
                "checks": {check["name"]: check["sqltext"] for check in look.get_check_constraints(table)},
                "indexes": {name: " ".join(sql.split()) for of, name, sql in indexes if of == table},
            }
            for table in look.get_table_names()
            if table != "alembic_version"
        }


def test_a_number_that_stands_in_addresses_is_never_given_again(engine: Engine) -> None:
    """A project that is gone leaves its number in the audit trail, in links, and for a while in the store's keys."""
    migrate.upgrade(engine)
    with write_session(engine) as session:
        by = users.create(session, username="ada", display_name="Ada", role="admin")
        gone = projects.create(session, slug="gone", name="Gone", by=by)
    with engine.begin() as connection:
        for table in ("memberships", "project_counts", "projects"):
            key = "id" if table == "projects" else "project_id"
            connection.execute(text(f"DELETE FROM {table} WHERE {key} = {gone.id}"))
    with write_session(engine) as session:
        assert projects.create(session, slug="next", name="Next", by=session.merge(by)).id > gone.id
    counted = {table.name for table in Base.metadata.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]}
    assert {"projects", "jobs", "snapshots", "checkpoints", "imports", "extracts", "exclusions"} < counted
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            made = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"))
            assert set(made.scalars()) == counted
