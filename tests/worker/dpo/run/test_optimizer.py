"""The optimizer's state, put back where AdamW looks for it."""

import pytest
import torch

from worker.dpo.ground.config import from_mapping
from worker.dpo.run.optimizer import Optimizer


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (False, "cpu")])
def test_step_counts_lie_beside_the_weights_where_adamw_is_fused_and_else_on_the_cpu(fused, place):
    """On a GPU fused AdamW refuses counts that lie elsewhere; PyTorch's device without memory stands in for one."""
    weight = torch.nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = Optimizer({"w": weight}, from_mapping({}))
    optimizer.inner.defaults["fused"] = fused
    saved = {"adam/step/w": torch.tensor(5.0), "adam/exp_avg/w": torch.ones(3), "adam/exp_avg_sq/w": torch.ones(3)}
    optimizer.restore(saved)
    state = optimizer.inner.state[weight]
    assert state["step"].device.type == place
    assert {state["exp_avg"].device.type, state["exp_avg_sq"].device.type} == {"meta"}
