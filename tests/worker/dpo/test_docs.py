"""The pages about data and losses name everything that the code has, with the same defaults."""

import re
from pathlib import Path

from worker.dpo import chat, data, tokens
from worker.dpo.losses import LOSS_TYPES

DOCS = Path(__file__).parents[3] / "docs"


def rows(page: str) -> dict[str, str]:
    """A page's table rows by the code in their first cell."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` \|.*$", text, re.MULTILINE)}


def test_every_reason_that_a_line_can_be_reported_for_is_explained():
    pattern = re.compile(r'BadLine\(\s*"(\w+)"|Problem\([\w.]+, "(\w+)"|"(bad_\w+)", lambda')
    found = {next(filter(None, groups)) for module in (data, tokens) for groups in pattern.findall(Path(module.__file__).read_text())}
    found |= {kind.reason for kind in chat.CannotEncode.__subclasses__()} | set(tokens.NOTES)
    assert len(found) > 15
    assert set(rows("preference-data.md")) == found


def test_every_loss_is_explained_with_its_options_and_defaults():
    explained = rows("losses.md")
    assert set(explained) == set(LOSS_TYPES)
    for name, spec in LOSS_TYPES.items():
        options = ", ".join(f"`{option}` {default:g}" for option, default in spec.defaults.items()) or "–"
        assert f"| {options} |" in explained[name], name
