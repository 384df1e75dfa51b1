"""What benchmarks/search/controls.py prunes is what it says."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from benchmarks.search import controls
from benchmarks.search.runs import layers


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -4.0], [3.0, 0.5]]))
        net[2].weight.copy_(torch.tensor([[-5.0, 2.0]]))
    return net


def test_the_smallest_of_all_layers_go() -> None:
    """Of sizes 1, 4, 3, .5 and 5, 2 the four smallest are not kept; the normalisation has none."""
    assert [mask.tolist() for mask in controls.kept(two_layers(), 4 / 6)] == [
        [[False, True], [False, False]],
        [[True, False]],
    ]


def test_sparse_and_dense_parts_take_turns() -> None:
    """12 epochs, each a part: sparse in 2, 4, 6 and from 8 on. A step moves a pruned weight; it stays where dense."""
    net, turns = two_layers(), controls.ByTurns(4 / 6, 12)
    zeros = []
    for epoch in range(12):
        turns.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), net)
        with torch.no_grad():
            net[0].weight[0, 0] += 1  # a step
        turns.on_train_batch_end(None, net)
        zeros.append(sum(int((layer.weight == 0).sum()) for layer in layers(net)))
    assert zeros == [0, 0, 4, 3, 4, 3, 4, 3, 4, 4, 4, 4]


def test_each_sparse_part_chooses_anew() -> None:
    net, turns = two_layers(), controls.ByTurns(4 / 6, 12)
    turns.on_train_epoch_start(SimpleNamespace(current_epoch=2), net)
    assert net[0].weight.tolist() == [[0.0, -4.0], [0.0, 0.0]]
    turns.on_train_epoch_start(SimpleNamespace(current_epoch=3), net)
    with torch.no_grad():
        net[0].weight[1, 1] = 9.0
    turns.on_train_epoch_start(SimpleNamespace(current_epoch=4), net)
    assert net[0].weight.tolist() == [[0.0, 0.0], [0.0, 9.0]]
