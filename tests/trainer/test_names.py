"""Names of parameters, whatever has wrapped the module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_classprune.trainer.names import canonical, named_parameters


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("net.0.weight", "net.0.weight"),
        ("_orig_mod.net.0.weight", "net.0.weight"),
        ("net._fsdp_wrapped_module._checkpoint_wrapped_module.0._orig_mod.weight", "net.0.weight"),
        ("my_orig_mod_weight", "my_orig_mod_weight"),
    ],
)
def test_what_wrappers_insert_is_left_out(name: str, plain: str) -> None:
    assert canonical(name) == plain


def test_a_shared_parameter_appears_once_under_its_first_name() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    module["c"] = torch.compile(nn.Linear(2, 1, bias=False))
    named = named_parameters(module)
    assert list(named) == ["a.weight", "a.bias", "c.weight"]
    assert named["a.weight"] is module["b"].weight
