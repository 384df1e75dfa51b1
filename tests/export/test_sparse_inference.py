"""Sparse layers compute what dense ones do, and only what was measured to be faster is swapped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_classprune.export import sparse_inference
from lightning_classprune.export.sparse_inference import CsrLinear, sparsify_for_inference
from tests.support.compare import weights

torch.set_num_threads(1)


def sparse_net(density: float = 0.02, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for i in (0, 2):
            net[i].weight[torch.rand(net[i].weight.shape, generator=generator) > density] = 0
    return net


@pytest.fixture
def race(monkeypatch):
    """Decides the races: (rows of the input) -> (dense, sparse)."""

    def set_times(times):
        monkeypatch.setattr(sparse_inference, "_race", lambda dense, sparse, x: times(len(x)))

    return set_times


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_sparse_rows_compute_what_the_layer_does(inputs, outputs, bias, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data[torch.rand(outputs, inputs) < 0.6] = 0
    for shape in ((inputs,), (3, inputs), (2, 3, inputs)):
        x = torch.randn(shape)
        made = CsrLinear(layer)(x)
        assert made.shape == layer(x).shape
        torch.testing.assert_close(made, layer(x))


def test_what_is_faster_at_every_size_is_swapped(race):
    race(lambda rows: (2.0, 1.0))
    net, x = sparse_net(), torch.randn(5, 64)
    before = weights(net)
    made, table = sparsify_for_inference(net, x)
    assert [(row.layer, row.form, row.swapped) for row in table] == [("0", "csr", True), ("2", "csr", True)]
    assert table[0].milliseconds == {1: (2.0, 1.0), 5: (2.0, 1.0)}
    assert table[0].density == pytest.approx(float((net[0].weight != 0).float().mean()))
    assert [type(layer).__name__ for layer in made[::2]] == ["CsrLinear", "CsrLinear", "Linear"]
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)
    assert not made.training
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(net).items())


@pytest.mark.parametrize("slow_rows", [1, 5])
def test_what_is_slower_at_one_size_stays(race, slow_rows):
    race(lambda rows: (1.0, 1.0) if rows == slow_rows else (2.0, 1.0))
    made, table = sparsify_for_inference(sparse_net(), torch.randn(5, 64))
    assert not any(row.swapped for row in table)
    assert [type(layer) for layer in made[::2]] == [nn.Linear] * 3


def test_dense_layers_are_not_tried(race):
    race(lambda rows: (2.0, 1.0))
    assert sparsify_for_inference(sparse_net(density=1.0), torch.randn(5, 64))[1] == []


def test_masks_are_applied_first(race):
    race(lambda rows: (2.0, 1.0))
    net, x = sparse_net(density=1.0), torch.randn(5, 64)
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[:, 3] = True
    made, table = sparsify_for_inference(net, x, {"0.weight": mask})
    assert [(row.layer, row.density) for row in table] == [("0", 1 / 64)]
    net[0].weight.data[~mask] = 0
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_form_that_computes_something_else_stays_out(race, monkeypatch):
    race(lambda rows: (2.0, 1.0))
    exact = CsrLinear.forward
    monkeypatch.setattr(CsrLinear, "forward", lambda self, x: exact(self, x) * (1 + 1e-3 * (len(x[0]) == 48)))
    made, table = sparsify_for_inference(sparse_net(), torch.randn(5, 64))
    assert [(row.layer, row.swapped) for row in table] == [("0", True), ("2", False)]
    assert type(made[2]) is nn.Linear


def test_a_network_that_computes_something_else_is_refused(race, monkeypatch):
    race(lambda rows: (2.0, 1.0))
    # Every layer within its tolerance, and the network not.
    monkeypatch.setattr(sparse_inference, "same_outputs", lambda expected, got, _: isinstance(expected, list))
    with pytest.raises(ValueError, match="do not compute what the dense ones do"):
        sparsify_for_inference(sparse_net(), torch.randn(5, 64))


def test_a_real_race_fills_the_table():
    made, table = sparsify_for_inference(sparse_net(), torch.randn(3, 64))
    assert [row.layer for row in table] == ["0", "2"]
    for row in table:
        assert set(row.milliseconds) == {1, 3}
        assert all(time > 0 for pair in row.milliseconds.values() for time in pair)
        assert row.swapped == all(sparse < dense for dense, sparse in row.milliseconds.values())
        assert isinstance(made.get_submodule(row.layer), CsrLinear) == row.swapped


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_of_four_on_a_device_that_skips_them(race):
    race(lambda rows: (2.0, 1.0))
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128)).cuda().half()
    for layer in net[::2]:
        layer.weight.data.view(len(layer.weight), -1, 4)[..., :2] = 0
    x = torch.randn(64, 256, device="cuda", dtype=torch.half)
    made, table = sparsify_for_inference(net, x)
    assert [(row.form, row.swapped) for row in table] == [("2:4", True)] * 2
    torch.testing.assert_close(made(x), net(x), rtol=1e-2, atol=1e-2)
