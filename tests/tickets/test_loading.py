"""Loading a ticket, from a file or from a ladder; what a file holds is in test_ticket_file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.loading import load_ticket, warn_of_offsets
from lightning_classprune.tickets.ticket_file import save_ticket
from tests.support.compare import assert_same, weights


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 20), nn.BatchNorm1d(20), nn.Linear(20, 2))


def pruned(seed: int, density: float) -> tuple[nn.Sequential, dict[str, Tensor]]:
    net = network(seed)
    masks = {"0.weight": torch.rand(20, 40) < density}
    net[0].weight.data.masked_fill_(~masks["0.weight"], 0)
    return net, masks


@pytest.fixture
def ladder(tmp_path: Path) -> list[nn.Sequential]:
    """Rounds 0 to 2, each smaller and with a lower recall than the one before."""
    nets = []
    for number, (density, recall) in enumerate([(1.0, 0.9), (0.5, 0.8), (0.1, 0.7)]):
        net, masks = pruned(number, density)
        row: dict[str, Any] = {
            "round": number,
            "sparsity": 1 - density,
            "verdict": "accepted",
            "classes": {"crack": {"recall": recall, "fn": 1, "support": 10}},
        }
        Ladder(tmp_path).add(row, net.state_dict(), masks, {"round": number})
        nets.append(net)
    return nets


@pytest.mark.parametrize(
    ("limits", "number"),
    [({}, 2), ({"min_recall": 0.75}, 1), ({"min_recall": 0.9}, 0), ({"max_bytes": 10**6}, 0)],
)
def test_a_ladder_is_picked_from(
    limits: dict[str, Any], number: int, ladder: list[nn.Sequential], tmp_path: Path
) -> None:
    net = network(99)
    ticket = load_ticket(tmp_path, net, **limits)
    assert ticket.card == {"round": number}
    assert_same(weights(net), weights(ladder[number]))


def test_the_best_recall_that_fits(ladder: list[nn.Sequential], tmp_path: Path) -> None:
    sizes = [(tmp_path / f"round={n:02d}.safetensors").stat().st_size for n in range(3)]
    assert sizes == sorted(sizes, reverse=True)
    assert load_ticket(tmp_path, network(99), max_bytes=sizes[1]).card == {"round": 1}
    net = network(99)
    before = weights(net)
    with pytest.raises(ValueError, match=f"keeps max_bytes={sizes[2] - 1}"):
        load_ticket(tmp_path, net, max_bytes=sizes[2] - 1)
    assert_same(weights(net), before)


@pytest.mark.parametrize("limits", [{"max_bytes": 100}, {"min_recall": 0.5}])
def test_one_file_leaves_nothing_to_pick(limits: dict[str, Any], tmp_path: Path) -> None:
    net, masks = pruned(0, 0.5)
    path = tmp_path / "one.safetensors"
    save_ticket(path, net.state_dict(), masks)
    with pytest.raises(ValueError, match=r"pick from a folder .*one\.safetensors is not a folder"):
        load_ticket(path, network(99), **limits)


def test_offsets_that_the_network_lacks_are_said(tmp_path: Path) -> None:
    net, masks = pruned(0, 0.5)
    path = tmp_path / "one.safetensors"
    save_ticket(path, net.state_dict(), masks, card={"offsets": {"a": 0.25, "b": 0.0, "c": -1.5}})
    with pytest.warns(
        UserWarning, match=r"^one\.safetensors: .* add \+0\.25 to a, -1\.5 to c before the decision"
    ):
        load_ticket(path, network(99))
    for card in ({"offsets": {"a": 0.0}}, {"offsets": ["a"]}, {"offsets": {"a": "b"}}, ["offsets"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_offsets(path, card)


def test_wrapped_names_are_the_same_names(tmp_path: Path) -> None:
    net, masks = pruned(0, 0.5)
    wrapped = nn.Module()
    wrapped._orig_mod = net  # what torch.compile puts around a module; a compiled one is in test_ticket_file
    save_ticket(tmp_path / "t", wrapped.state_dict(), {f"_orig_mod.{n}": m for n, m in masks.items()})
    other = network(99)
    load_ticket(tmp_path / "t", other)
    assert_same(weights(other), weights(net))


def test_the_network_in_a_lightning_module_loads_alone(tmp_path: Path) -> None:
    net, masks = pruned(0, 0.5)
    whole = nn.ModuleDict({"network": net, "loss": nn.BatchNorm1d(3)})
    save_ticket(tmp_path / "t", whole.state_dict(), {f"network.{n}": m for n, m in masks.items()})
    other = network(99)
    ticket = load_ticket(tmp_path / "t", other)
    assert_same(weights(other), weights(net))
    assert list(ticket.masks) == ["network.0.weight"]
    with pytest.raises(ValueError, match=r"network\.0\.weight is missing in the model"):
        load_ticket(tmp_path / "t", nn.Sequential(nn.Linear(40, 20)))
    two = nn.ModuleDict({"student": net, "teacher": network(1)})
    save_ticket(tmp_path / "two", two.state_dict(), {})
    with pytest.raises(ValueError, match=r"0\.weight is missing in the file"):  # which of them is not said
        load_ticket(tmp_path / "two", other)
