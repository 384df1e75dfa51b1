"""Delivery: what is put in, and what is said beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.pruning.masks import pack_all
from lightning_classprune.rounds.delivery import Delivery
from lightning_classprune.rounds.handover import Handover
from lightning_classprune.tickets.keeper import LadderKeeper
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.other_callbacks import OtherCallbacks
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import capture_tensors
from tests.guard.test_judge import judge
from tests.support.compare import assert_same, weights
from tests.support.kit import trainer

ONE = Processes()


def delivery(net: nn.Module) -> Delivery:
    evaluator = Evaluator(judge().evaluator.task, default_predict, ONE)
    made = trainer()
    return Delivery(
        handover=Handover(made, net, evaluator, ("0", "1"), Sharding(ONE)),
        other_callbacks=OtherCallbacks(made, lambda: (0, 0)),
        ladder=LadderKeeper(None, {}, ONE),
    )


def accepted(net: nn.Module, folded_into: str | None) -> Ticket:
    masks = {"weight": torch.ones(2, 3, dtype=torch.bool)}
    return Ticket(pack_all(masks), capture_tensors(net), None, [], {"1": 0.5}, folded_into)


def test_an_offset_is_in_the_bias_or_beside_the_network_never_both() -> None:
    net = nn.Linear(3, 2)
    found = delivery(net)
    assert found.offsets("01") == {"0": 0.0, "1": 0.0}
    for folded_into, left, shift in (("bias", 0.0, 0.5), (None, 0.5, 0.0)):
        ticket = accepted(net, folded_into)
        found.accepted, found.is_handed_over = ticket, False
        assert found.offsets_beside() == {"1": 0.5}, "the module is not the ticket as it leaves yet"
        with torch.no_grad():
            net.weight.zero_()
        found.put_in()
        assert_same(
            weights(net), ticket.tensors | {"bias": ticket.tensors["bias"] + torch.tensor([0, shift])}
        )
        assert found.offsets("01") == {"0": 0.0, "1": left}
        assert found.offsets_beside() == ({"1": left} if left else {})
        with torch.no_grad():
            net.bias.copy_(ticket.tensors["bias"])


def test_a_ticket_is_put_together_for_checkpoints_once() -> None:
    """On the process that writes them, from the pieces of all."""
    gathered: list[Tensor] = []

    class Two(Processes):
        def gather_to_first(self, share: Any) -> list[Any] | None:
            gathered.append(share)
            return [share, share]

        def gather_objects(self, share: Any) -> list[Any]:
            raise AssertionError("every process would hold it all")

    net = nn.Linear(3, 2)
    found = delivery(net)
    found.handover = replace(found.handover, sharding=Sharding(Two(0, 2), frozenset({"weight"})))
    assert found.saved(with_training=False) is None
    for number in (1, 2):
        found.accepted = accepted(net, None)
        saved = found.saved(with_training=False)
        assert saved is not None
        assert saved["tensors"]["weight"].shape == (4, 3)
        assert found.saved(with_training=False) is saved
        assert len(gathered) == number


def test_nothing_is_sealed_before_a_first_row() -> None:
    found = delivery(nn.Linear(3, 2))
    found.other_callbacks.checkpoints.sealed = False
    found.seal([], was_judged=False)
    assert not found.other_callbacks.checkpoints.sealed
