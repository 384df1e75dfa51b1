"""Files of compact networks: what is stored comes back smaller, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_classprune.export.compact import compact
from lightning_classprune.export.compact_files import load_compact, save_compact
from lightning_classprune.tickets.ticket_file import save_ticket
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
    save_compact(tmp_path / "c", made, {"offsets": {"b": 0.5}})
    with pytest.warns(UserWarning, match=r"add \+0\.5 to b before the decision"):
        model, _ = load_compact(tmp_path / "c", build())
    assert torch.equal(model(IMAGE), made.model(IMAGE))


def test_bad_files_and_models_that_do_not_fit_are_refused(tmp_path):
    made = compact(sparse_chain(), IMAGE)
    path = tmp_path / "compact.safetensors"
    with pytest.raises(ValueError, match=r"card must be JSON"):
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
    with pytest.raises(ValueError, match="is not a ticket file"):
        load_compact(tmp_path / "other", chain())
    save_ticket(tmp_path / "ticket", chain().state_dict(), {})
    with pytest.raises(ValueError, match="is no compact network"):
        load_compact(tmp_path / "ticket", chain())


def test_zeros_that_stay_take_no_values(tmp_path):
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 2))
    full, sparse = compact(net, torch.randn(2, 200)), tmp_path / "sparse"
    save_compact(tmp_path / "full", full, {})
    with torch.no_grad():
        net[0].weight[torch.rand_like(net[0].weight) < 0.95] = 0
    made = compact(net, torch.randn(2, 200))
    save_compact(sparse, made, {})
    assert sparse.stat().st_size < 0.1 * (tmp_path / "full").stat().st_size
    model, _ = load_compact(sparse, nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 2)))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), made.model.parameters(), strict=True))
