"""Which errors are told in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from lightning_classprune import FNTolerance
from lightning_classprune.job.plain_errors import one_line


def caught(function: Any, *arguments: Any, **named: Any) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011
        function(*arguments, **named)
    return found.value


def test_what_our_own_code_refuses() -> None:
    said = one_line(caught(FNTolerance, rate=2.0))
    assert said is not None
    assert "rate" in said
    assert "\n" not in said


def test_what_our_own_code_refuses_of_a_configuration_with_its_place() -> None:
    cfg = {"one": {"two": {"_target_": "lightning_classprune.FNTolerance", "rate": 2.0}}}
    said = one_line(caught(instantiate, cfg))
    assert said is not None
    assert said.startswith("one.two: ")
    assert "rate" in said


def test_a_wrong_setting_that_lightning_refuses() -> None:
    assert one_line(MisconfigurationException("two\n lines")) == "two lines"


def test_a_value_that_a_configuration_lacks() -> None:
    cfg = OmegaConf.create({"data": {"name": "???"}})
    assert one_line(caught(lambda: cfg.data.name)) == "data.name has no value; give data.name=..."


@pytest.mark.parametrize(
    "error",
    [ValueError("of a user's module"), KeyError(0), RuntimeError("CUDA"), MisconfigurationException("")],
)
def test_others_keep_their_traceback(error: Exception) -> None:
    def fails() -> None:
        raise error

    assert one_line(caught(fails)) is None
    cfg = {"_target_": "builtins.int", "_args_": ["x"]}
    assert one_line(caught(instantiate, cfg)) is None
