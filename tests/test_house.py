"""The house stays as it is drawn: import directions, documented settings, tidy dependencies, container files."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from app.config import Settings
from app.models import Base
from tests import house_rules
from tests.conftest import ROOT

README = ROOT / "README.md"


def test_imports_go_in_the_drawn_directions() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", house_rules.RULES, ids=lambda rule: rule.__name__)
def test_no_rule_of_the_house_is_broken(rule: Callable[[Path], Iterable[str]]) -> None:
    assert list(rule(ROOT)) == []


def test_every_enum_column_has_its_check() -> None:
    assert house_rules.enum_columns_without_check(Base.metadata) == []


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(PREFLOOP_[A-Z_]+)` \|(.*?)\|", README.read_text(), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        variable = f"PREFLOOP_{name.upper()}"
        assert variable in table, f"README's table of settings lacks {variable}: {field.description}"
        shown = table.pop(variable).strip(" `")
        assert shown == (
            ""
            if field.default in ("", None)
            else str(field.default).lower()
            if isinstance(field.default, bool)
            else str(field.default)
        )
    assert not table, f"README names settings that do not exist: {sorted(table)}"


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("secret", ["change-me", "short", "please-change-me-" + "x" * 40])
def test_a_placeholder_secret_is_refused(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_SECRET_KEY", secret)
    with pytest.raises(ValueError, match="PREFLOOP_SECRET_KEY is a placeholder"):
        Settings()


def test_a_placeholder_database_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_DATABASE_URL", "postgresql://prefloop:changeme@db/prefloop")
    with pytest.raises(ValueError, match="placeholder password"):
        Settings()


def test_a_made_secret_is_private_and_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOOP_SECRET_KEY", raising=False)
    first = Settings(data_dir=tmp_path).secret
    assert Settings(data_dir=tmp_path).secret == first
    assert len(first) >= 32
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0


def test_compose_names_every_part_and_refuses_missing_secrets() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"migrate", "web", "worker", "gpu-worker", "postgres", "redis"}
    assert services["gpu-worker"]["profiles"] == ["gpu"]
    for secret in ("POSTGRES_PASSWORD", "PREFLOOP_SECRET_KEY"):
        assert f"${{{secret}:?" in text
        assert f"${{{secret}:-" not in text
    assert all("healthcheck" in services[name] for name in ("postgres", "redis"))
    known = {f"PREFLOOP_{name.upper()}" for name in Settings.model_fields}
    for name, service in services.items():
        used = {key for key in service.get("environment", {}) if key.startswith("PREFLOOP_")}
        assert used <= known, name


def test_containers_can_do_no_more_than_they_need() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert "privileged" not in service and "network_mode" not in service, name
        image = service.get("image", "")
        assert not image or re.search(r":\d+\.\d+", image), f"{image} isn't pinned to a version"
    assert [name for name, service in services.items() if "cap_add" in service] == ["postgres"]
    assert [name for name, service in services.items() if "ports" in service] == ["web"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    bases = [image for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) if ":" in image]
    assert bases and all(re.search(r":\d+\.\d+\.\d+-", image) for image in bases)
    assert dockerfile.count("USER prefloop") == 2


def test_the_lock_file_carries_no_download_addresses() -> None:
    assert "resolved" not in (ROOT / "package-lock.json").read_text()


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    missing = {re.split(r"[\[>=<]", name)[0].lower() for name in wanted} - pinned
    assert not missing


def test_every_reason_for_refusing_a_line_is_explained() -> None:
    from app.services.collecting.imports.reading.forms import REASONS

    text = (ROOT / "docs" / "import.md").read_text()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in text] == []
