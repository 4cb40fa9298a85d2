"""Writes the app's copies of the engine's rules: `make run-config`, after a change to the engine's.

The app may not import the engine, which needs torch, and the engine stands alone. Both check a run's settings, and which
models can become GGUF files, by the same text.
"""

from pathlib import Path

from app.paths import APP, ROOT

SOURCE = ROOT / "worker" / "dpo" / "ground"
TARGET = APP / "services" / "training" / "run_config"
MODULES = ("config", "losses", "values")
GGUF_RULE = ROOT / "worker" / "dpo" / "publish" / "gguf_support.py"


def copies() -> dict[Path, str]:
    """The copies' texts by where they lie."""
    configuration = {TARGET / f"{name}.py": copy_of(SOURCE / f"{name}.py") for name in MODULES}
    return configuration | {TARGET.parent / GGUF_RULE.name: copy_of(GGUF_RULE)}


def copy_of(source: Path) -> str:
    """The module's text with its imports led to the copies, under a line that says where it is from."""
    header = f"# Written by `make run-config` from {source.relative_to(ROOT)}: change it there.\n"
    return header + source.read_text(encoding="utf-8").replace(
        "worker.dpo.ground.", "app.services.training.run_config."
    )


def main() -> None:
    for path, text in copies().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
