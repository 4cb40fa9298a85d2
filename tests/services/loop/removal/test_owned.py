"""Which rows belong to a project."""

from app.models import Base
from app.services.loop.removal import owned


def test_every_table_is_of_a_project_or_known_to_be_everybody_s() -> None:
    everybody_s = {
        "users",
        "sessions",
        "recovery_codes",
        "api_tokens",
        "links",
        "passkeys",
        "passkey_challenges",
        "login_attempts",
        "workers",
        "endpoints",
    }
    of_projects = {one.table.name for one in owned.tables()}
    assert set(Base.metadata.tables) - of_projects - owned.KEPT == everybody_s


def test_a_table_comes_before_those_that_it_names() -> None:
    names = [one.table.name for one in owned.tables()]
    assert names.index("judgments") < names.index("slots") < names.index("comparisons") < names.index("prompts")
    assert names.index("checkpoint_files") < names.index("checkpoints") < names.index("training_runs")


def test_a_row_is_of_the_project_that_its_chain_of_keys_leads_to() -> None:
    by_name = {one.table.name: one for one in owned.tables()}
    sql = str(by_name["checkpoint_files"].of(7))
    assert "JOIN checkpoints" in sql and "JOIN training_runs" in sql and "JOIN jobs" in sql


def test_every_column_of_files_is_known() -> None:
    assert {one.table.name for one in owned.tables() if owned.stored_keys(one)} == {
        "checkpoint_files",
        "exports",
        "extracts",
        "label_checks",
        "snapshots",
    }
