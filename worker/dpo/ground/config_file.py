"""A run's settings from a file and from the command line."""

import json
from pathlib import Path
from typing import Any

import yaml

from worker.dpo.ground.config import TrainConfig, from_mapping
from worker.dpo.ground.values import ConfigError, Problem, parse_settings


def load_config(path: Path | None, settings: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """The configuration of a JSON or YAML file, overridden by `key=value` settings.

    Raises ConfigError for a file that can't be read, and for settings that can't be.
    """
    values = _read_mapping(path) if path is not None else {}
    return from_mapping(values | parse_settings(settings))


def _read_mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as problem:
        raise ConfigError(Problem("", f"Cannot read the configuration {path}: {problem}.")) from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        what = f"The configuration {path} must be a mapping of settings, not a {type(values).__name__}."
        raise ConfigError(Problem("", what))
    return values
