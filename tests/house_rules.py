"""The rules of the house that import-linter can't say, as functions from a checkout to what breaks them there.

Each takes the root of a checkout and returns one line for each breach, `file:line: what`, in order.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import CheckConstraint, Enum, MetaData

ROOM_LIMIT = 14
LINE_LIMIT = 300
BANNER = re.compile(r"^\s*#\s*-{3}", re.MULTILINE)
MAY_ASK_FOR_THEIR_FILE = {"app/paths.py", "app/bootstrap.py", "worker/dpo/ground/cache.py"}
# Each table that has a state, and the one module that makes its rows and writes that state.
WRITERS_OF_STATE = {
    "Slot": "app/services/collecting/slots.py",
    "Job": "app/services/jobs/jobs.py",
    "Evaluation": "app/services/loop/evaluations.py",
}
SHARED_BY_KINDS = {"kind", "registry"}


@dataclass(frozen=True)
class Module:
    """A Python file: its path from the root, with forward slashes, and what it says."""

    path: str
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@lru_cache(maxsize=1024)
def _parsed(path: Path, _stamp: int) -> tuple[str, ast.Module]:
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def modules(root: Path, *folders: str) -> Iterator[Module]:
    """Every Python file below the folders, sorted by path."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield Module(path.relative_to(root).as_posix(), *_parsed(path, path.stat().st_mtime_ns))


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import; `from a import b` counts as both `a` and `a.b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def no_relative_imports(root: Path) -> list[str]:
    """A relative import hides from a reader, and from the other rules, which room it reaches into."""
    return [
        f"{module.path}:{line}: relative import"
        for module in modules(root, "app", "worker")
        for line, name in imports(module)
        if name.startswith(".")
    ]


def stats_import_nothing_of_app(root: Path) -> list[str]:
    return [
        f"{module.path}:{line}: imports {name}"
        for module in modules(root, "app/stats")
        for line, name in imports(module)
        if _is_within(name, "app") and name != "app" and not _is_within(name, "app.stats")
    ]


def kinds_do_not_import_one_another(root: Path) -> list[str]:
    """A kind of job may use what kinds share, never another kind; only the registry knows them all."""
    return [
        f"{module.path}:{line}: imports {name}"
        for module in modules(root, "worker/kinds")
        if module.name.rpartition(".")[2] not in ("registry", "kinds")
        for line, name in imports(module)
        if name.startswith("worker.kinds.") and name.split(".")[2] not in SHARED_BY_KINDS
    ]


def process_knows_no_kind(root: Path) -> list[str]:
    """What starts and ends processes sees a kind of job only through the protocol."""
    return [
        f"{module.path}:{line}: imports {name}"
        for module in modules(root, "worker/process")
        for line, name in imports(module)
        if name.startswith("worker.kinds.") and not _is_within(name, "worker.kinds.kind")
    ]


def commits_only_in_db(root: Path) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: .commit"
        for module in modules(root, "app", "worker")
        if module.path != "app/db.py"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr == "commit"
    ]


def one_writer_of_a_state(root: Path) -> list[str]:
    """Who makes a Slot or a Job, or writes its state, outside the module that owns them.

    An assignment is known by its variable's name (`slot.state = …`) or by the enum (`row.state = SlotState.DONE`),
    a statement by its table (`update(Slot)….values(state=…)`), a row of a bulk statement by the enum.
    """
    breaches = []
    for module in modules(root, "app", "worker"):
        for table, owner in WRITERS_OF_STATE.items():
            if module.path != owner:
                breaches += [
                    f"{module.path}:{node.lineno}: writes {table}.state"
                    for node in ast.walk(module.tree)
                    if isinstance(node, ast.stmt | ast.expr) and _writes_state(node, table)
                ]
    return sorted(breaches)


def _writes_state(node: ast.stmt | ast.expr, table: str) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        value = ast.unparse(node.value) if node.value else ""
        return any(
            isinstance(target, ast.Attribute)
            and target.attr == "state"
            and (f"{table}State." in value or _last_word(target.value) == table.lower())
            for whole in targets
            for target in ast.walk(whole)
        )
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return any(
            isinstance(key, ast.Constant) and key.value == "state" and ast.unparse(value).startswith(f"{table}State.")
            for key, value in pairs
        )
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        arguments = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
        return node.func.id == table or (node.func.id == "insert" and arguments == [table])
    is_values = isinstance(node.func, ast.Attribute) and node.func.attr == "values"
    return is_values and any(word.arg == "state" for word in node.keywords) and _updates(node.func, table)


def _last_word(node: ast.AST) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.rpartition("_")[2]


def _updates(node: ast.AST, table: str) -> bool:
    """Whether a chain of calls begins with `update(TABLE)`."""
    return any(
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Name)
        and part.func.id == "update"
        and [argument.id for argument in part.args if isinstance(argument, ast.Name)] == [table]
        for part in ast.walk(node)
    )


def alias_events_only_in_aliases(root: Path) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: makes an AliasEvent"
        for module in modules(root, "app", "worker")
        if module.path != "app/services/loop/aliases.py"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "AliasEvent"
    ]


def rooms_are_small(root: Path) -> list[str]:
    """At most 14 modules in a room; the folder of models has one for each noun."""
    counts: dict[str, int] = {}
    for module in modules(root, "app", "worker"):
        folder, _, name = module.path.rpartition("/")
        if folder != "app/models" and name != "__init__.py":
            counts[folder] = counts.get(folder, 0) + 1
    return [f"{folder}: {count} modules" for folder, count in counts.items() if count > ROOM_LIMIT]


def modules_are_short(root: Path) -> list[str]:
    lengths = ((module.path, len(module.text.splitlines())) for module in modules(root, "app", "worker"))
    return [f"{path}: {lines} lines" for path, lines in lengths if lines > LINE_LIMIT]


def no_banners(root: Path) -> list[str]:
    """A module that needs a table of contents is two modules."""
    return [
        f"{module.path}:{module.text.count(chr(10), 0, banner.start()) + 1}: banner"
        for module in modules(root, "app", "worker")
        for banner in BANNER.finditer(module.text)
    ]


def files_are_asked_for_in_paths(root: Path) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: __file__"
        for module in modules(root, "app", "worker", "migrations", "bench", "docs")
        if module.path not in MAY_ASK_FOR_THEIR_FILE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id == "__file__"
    ]


def arguments_are_parsed_by_commands(root: Path) -> list[str]:
    return [
        f"{module.path}:{line}: argparse"
        for module in modules(root, "app", "worker")
        if not module.path.startswith("worker/dpo/commands/") and module.path != "worker/base_models/prepare.py"
        for line, name in imports(module)
        if name == "argparse"
    ]


def nouns_have_their_tests(root: Path) -> list[str]:
    """app/services/ROOM/NOUN.py is tested by tests/services/ROOM/test_NOUN.py."""
    missing = []
    for module in modules(root, "app/services"):
        folder, _, name = module.path.removeprefix("app/").rpartition("/")
        is_copy = module.text.startswith("# Written by `make ")  # of a module that has its tests
        is_start = name in ("__init__.py", "__main__.py")
        if not is_start and not is_copy and not (root / "tests" / folder / f"test_{name}").is_file():
            missing.append(f"{module.path}: no tests/{folder}/test_{name}")
    return missing


def names_say_what_they_hold(root: Path) -> list[str]:
    """`found` says how a value was come by, never what it is."""
    breaches = []
    for module in modules(root, "app", "worker", "tests", "bench", "migrations", "docs"):
        for node in ast.walk(module.tree):
            if (
                (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "found")
                or (isinstance(node, ast.arg) and node.arg == "found")
                or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "found")
            ):
                breaches.append(f"{module.path}:{node.lineno}: found")
    return breaches


def enum_columns_without_check(metadata: MetaData) -> list[str]:
    """Columns that hold a word of a list, without a CHECK that names the column."""
    return [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Enum)
        and not any(
            isinstance(constraint, CheckConstraint) and re.search(rf"\b{column.name}\b", _sql(constraint))
            for constraint in table.constraints
        )
    ]


def _sql(constraint: CheckConstraint) -> str:
    return str(constraint.sqltext.compile(compile_kwargs={"literal_binds": True}))


RULES: tuple[Callable[[Path], Iterable[str]], ...] = (
    no_relative_imports,
    stats_import_nothing_of_app,
    kinds_do_not_import_one_another,
    process_knows_no_kind,
    commits_only_in_db,
    one_writer_of_a_state,
    alias_events_only_in_aliases,
    rooms_are_small,
    modules_are_short,
    no_banners,
    files_are_asked_for_in_paths,
    arguments_are_parsed_by_commands,
    nouns_have_their_tests,
    names_say_what_they_hold,
)
