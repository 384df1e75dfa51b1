"""2:4 sparsity, by hand and by its properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_classprune.pruning.masks import full_masks
from lightning_classprune.pruning.two_four import TwoOfFour, keep_two_of_four, two_four_weights

torch.set_num_threads(1)


def test_two_of_four_by_hand():
    scores = torch.tensor(
        [[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0], [-1.0, -2.0, -3.0, -4.0, 0.0, 9.0, 0.0, 8.0]]
    )
    assert keep_two_of_four(scores).int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 0, 1]]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_every_four_inputs_keep_their_two_largest(rows, fours, kernel, seed):
    shape = (rows, 4 * fours, kernel, kernel)
    scores = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(seed)).float()
    kept = keep_two_of_four(scores)
    assert kept.is_contiguous()
    groups = kept.permute(0, 2, 3, 1).reshape(-1, 4)
    values = scores.permute(0, 2, 3, 1).reshape(-1, 4)
    assert bool((groups.sum(1) == 2).all())
    lost = values.masked_fill(groups, -1).amax(1)
    assert bool((values.masked_fill(~groups, 9).amin(1) >= lost).all())


def test_layers_whose_inputs_four_divides():
    net = nn.ModuleDict(
        {
            "linear": nn.Linear(8, 3),
            "odd": nn.Linear(6, 3),
            "conv": nn.Conv2d(4, 3, 3),
            "grouped": nn.Conv2d(8, 8, 1, groups=4),
            "up": nn.ConvTranspose2d(4, 4, 2),
            "table": nn.Embedding(3, 4),
        }
    )
    chosen = two_four_weights(net, {n: p for n, p in net.named_parameters() if n.endswith("weight")})
    assert list(chosen) == ["linear.weight", "conv.weight"]
    cut = TwoOfFour(chosen)
    assert (cut.total, cut.most) == (24 + 108, 66)
    with pytest.raises(ValueError, match="66 of 132"):
        cut.shrink(full_masks(chosen), lambda name: chosen[name].detach(), 65)
    with pytest.raises(ValueError, match="NaN"):
        cut.shrink(full_masks(chosen), lambda name: chosen[name].detach() * float("nan"), 66)
