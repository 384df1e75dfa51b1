"""What an export writes down must count on the test part what the run counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_classprune.job.data.base import SplitDataModule, Splits
from lightning_classprune.job.reproduction import check_reproduced
from lightning_classprune.job.run_folder import RunFolder

X = torch.linspace(-2, 2, 40).view(40, 1)
Y = (X[:, 0] > 0.25).long()
MISSED = {"no": {"support": 22, "fn": 2, "fp": 0}, "yes": {"support": 18, "fn": 0, "fp": 2}}


class Rows(SplitDataModule):
    """One feature, normalised by 3 and 2, which it says, or says otherwise."""

    def __init__(self, mean: float = 3.0) -> None:
        super().__init__(batch_size=16)
        self.mean = mean

    def load(self) -> Splits:
        parts = dict.fromkeys(("train", "val", "guard", "test"), TensorDataset(X, Y))
        told = torch.tensor([self.mean]), torch.tensor([2.0])
        return Splits(parts, Y, ["no", "yes"], (1,), told)


class Pixels(Rows):
    """Floats that pass for pixels."""

    def load(self) -> Splits:
        splits = super().load()
        images: Any = TensorDataset(X.view(40, 1, 1, 1), Y)
        return Splits(dict.fromkeys(splits.parts, images), Y, ["no", "yes"], (1, 1, 1), splits.normalization)


def network() -> nn.Module:
    """Finds `yes` from 0 on: two cases of `no` are false alarms."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def run(folder: Path, classes: Any = MISSED, **trainer: Any) -> RunFolder:
    trainer = {"accelerator": "cpu", "precision": "32-true"} | trainer
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"trainer": trainer}))
    (folder / "test.json").write_text(json.dumps({"classes": classes}))
    return RunFolder.open(folder)


def check(data: SplitDataModule, folder: RunFolder, *, is_delivered: bool = True) -> None:
    data.setup()
    check_reproduced(network(), {}, data, folder, is_delivered=is_delivered)


def test_the_same_counts_pass(tmp_path: Path) -> None:
    assert int(((X[:, 0] > 0) & (Y == 0)).sum()) == 2
    check(Rows(), run(tmp_path))


def test_inputs_that_are_not_normalised_as_is_said_are_refused(tmp_path: Path) -> None:
    class Otherwise(Rows):
        """Its `raw` is of another mean than the one that goes into the files."""

        def raw(self, x: Tensor) -> Tensor:
            return x * 2 + 5

    with pytest.raises(ValueError, match=r"Otherwise: through `raw`.*'no' has 12 missed and not 2"):
        check(Otherwise(), run(tmp_path))
    with pytest.raises(ValueError, match=r"Pixels: through `raw` and `normalization`.*nothing was written"):
        check(Pixels(), run(tmp_path), is_delivered=False)


def test_counts_of_other_data_are_refused(tmp_path: Path) -> None:
    folder = run(tmp_path, MISSED | {"no": {"support": 22, "fn": 1, "fp": 0}})
    with pytest.raises(ValueError, match=r"does not give what test.json says: 'no' has 2 missed and not 1"):
        check(Rows(), folder)
    check(Rows(), folder, is_delivered=False)
    with pytest.raises(ValueError, match="'no' has 22 cases and not 21"):
        check(
            Rows(), run(tmp_path, MISSED | {"no": {"support": 21, "fn": 2, "fp": 0}}, precision="bf16-mixed")
        )
    with pytest.raises(ValueError, match=r"classes \['no', 'yes'\] and not \['yes'\]"):
        check(Rows(), run(tmp_path, {"yes": MISSED["yes"]}))


def test_a_run_of_another_precision_may_differ_by_a_hundredth_of_the_cases(tmp_path: Path) -> None:
    near = MISSED | {"no": {"support": 22, "fn": 1, "fp": 0}}
    check(Rows(), run(tmp_path, near, precision="bf16-mixed"))
    check(Rows(), run(tmp_path, near, accelerator="auto"))
    far = MISSED | {"no": {"support": 22, "fn": 4, "fp": 0}}
    with pytest.raises(ValueError, match="'no' has 2 missed and not 4"):
        check(Rows(), run(tmp_path, far, precision="bf16-mixed"))
