"""Files of compact networks: what is stored comes back smaller, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_classprune.export.compact import compact
from lightning_classprune.export.compact_files import load_compact, save_compact
from tests.export.test_compact import IMAGE, chain, randomized, zero


def sparse_chain() -> nn.Sequential:
    net = randomized(chain())
    zero(net, "0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", index=[0, 2])
    return net


def test_a_file_brings_the_smaller_network_back(tmp_path):
    made = compact(sparse_chain(), IMAGE)
    path = tmp_path / "compact.safetensors"
    save_compact(path, made, {"classes": ["a", "b"], "recall": 0.5})
    model, told = load_compact(path, chain())
    assert torch.equal(model(IMAGE), made.model(IMAGE))
    assert not model.training
    assert (model[0][0].out_channels, model[1][0].in_channels, model[0][1].num_features) == (2, 2, 2)
    assert told["card"] == {"classes": ["a", "b"], "recall": 0.5}
    assert told["report"]["parameters"] == made.report["parameters"]


def test_depthwise_and_grouped_layers_come_back(tmp_path):
    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Conv2d(4, 4, 1, groups=2),
            nn.Flatten(),
            nn.Linear(144, 2),
        )

    net = randomized(build())
    zero(net, "0.weight", "0.bias", "1.weight", "1.bias", index=[1, 3])
    zero(net, "2.weight", "2.bias", index=[0, 2])
    made = compact(net, IMAGE)
    assert made.kept == {"0": (2, 4), "1": (2, 4), "2": (2, 4)}
    save_compact(tmp_path / "c", made, {})
    model, _ = load_compact(tmp_path / "c", build())
    assert torch.equal(model(IMAGE), made.model(IMAGE))


def test_bad_files_and_models_that_do_not_fit_are_refused(tmp_path):
    made = compact(sparse_chain(), IMAGE)
    path = tmp_path / "compact.safetensors"
    with pytest.raises(ValueError, match=r"card: .*only JSON values"):
        save_compact(path, made, {"tensor": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []
    save_compact(path, made, {})
    smaller = chain()
    smaller[0][0] = nn.Conv2d(3, 1, 3, padding=1)
    with pytest.raises(
        ValueError, match=r"`0.0.weight` has shape \(2, 3, 3, 3\) in the file and \(1, 3, 3, 3\)"
    ):
        load_compact(path, smaller)
    with pytest.raises(ValueError, match=r"`0.0.bias` is in the file and not in the model"):
        load_compact(path, chain(bias=False))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_compact(path, chain())
    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="is no compact network"):
        load_compact(tmp_path / "other", chain())
