"""Writes the app's copies of the engine's rules: `make run-config`, after a change to the engine's.

The app may not import the engine, which needs torch, and the engine stands alone. Both check a run's settings, read files
of preferences, and know which models can become GGUF files, by the same text.
"""

from pathlib import Path

from app.paths import APP, ROOT

SOURCE = ROOT / "worker" / "dpo" / "ground"
TARGET = APP / "services" / "training" / "run_config"
MODULES = ("config", "losses", "values")
TYPE_RULE = ROOT / "worker" / "dpo" / "machine" / "number_type.py"
GGUF_RULE = ROOT / "worker" / "dpo" / "publish" / "gguf_support.py"
RECORDS = ROOT / "worker" / "dpo" / "data" / "records"
RECORDS_COPY = APP / "services" / "collecting" / "imports" / "records"


def copies() -> dict[Path, str]:
    """The copies' texts by where they lie."""
    configuration = {TARGET / f"{name}.py": copy_of(SOURCE / f"{name}.py") for name in MODULES}
    configuration[TARGET / TYPE_RULE.name] = copy_of(TYPE_RULE)
    records = {RECORDS_COPY / path.name: copy_of(path) for path in sorted(RECORDS.glob("*.py"))}
    return configuration | records | {TARGET.parent / GGUF_RULE.name: copy_of(GGUF_RULE)}


def copy_of(source: Path) -> str:
    """The module's text with its imports led to the copies, under a line that says where it is from."""
    header = f"# Written by `make run-config` from {source.relative_to(ROOT)}: change it there.\n"
    text = source.read_text(encoding="utf-8")
    return (
        header
        + text.replace("worker.dpo.ground.", "app.services.training.run_config.").replace(
            "worker.dpo.data.records", "app.services.collecting.imports.records"
        )
        if text
        else ""
    )


def main() -> None:
    RECORDS_COPY.mkdir(exist_ok=True)
    for path, text in copies().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
