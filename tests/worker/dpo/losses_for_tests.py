"""A loss by its settings, for the tests of losses."""

from typing import Any

from worker.dpo.ground.config import from_mapping
from worker.dpo.loss import registry
from worker.dpo.loss.registry import LossConfig


def configure(loss_type: Any = "sigmoid", **options: Any) -> LossConfig:
    """The loss of a run with these settings. Raises ConfigError."""
    return registry.configure(from_mapping({"loss_type": loss_type, **options}))
