"""Adding a base model from a folder, as `prefloop models add` does."""

from pathlib import Path

from worker.base_models.prepare import prepare


def from_folder(models_dir: Path, folder: Path, name: str = "mine") -> dict:
    return prepare(models_dir, name, {"kind": "folder", "path": str(folder)}, lambda message: None)
