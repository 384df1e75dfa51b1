"""A ticket's way through a checkpoint."""

from __future__ import annotations

import io

import pytest
import torch

from lightning_classprune.pruning.masks import pack_all
from lightning_classprune.tickets.ticket import Ticket, pack_ticket, unpack_ticket
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from tests.support.compare import assert_same

WHOLE = Sharding(Processes())


def ticket() -> Ticket:
    masks = {"w": torch.arange(12).reshape(3, 4) % 3 == 0}
    training = {
        "optimizers": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}],
        "schedulers": [],
        "precision": {},
        "trainable": {"w": True},
    }
    tensors = {"w": torch.randn(3, 4) * masks["w"], "running": torch.tensor(7)}
    return Ticket(pack_all(masks), tensors, training, [{"patience": 2}])


@pytest.mark.parametrize("with_training", [True, False])
def test_it_comes_back_bit_for_bit(with_training: bool) -> None:
    before, file = ticket(), io.BytesIO()
    torch.save(pack_ticket(before, WHOLE, with_training=with_training), file)
    file.seek(0)
    after = unpack_ticket(torch.load(file, weights_only=True), WHOLE)
    assert after is not None
    assert_same(after.masks, before.masks)
    assert_same(after.tensors, before.tensors)
    assert_same(after.training, before.training if with_training else None)
    assert after.stopping == before.stopping


def test_masks_are_kept_as_bits() -> None:
    assert ticket().packed["w"]["bits"].device.type == ticket().masks["w"].device.type == "cpu"
    packed = pack_ticket(ticket(), WHOLE, with_training=False)
    assert packed is not None
    assert packed["masks"]["w"]["bits"].numel() == 2


def test_no_ticket_is_no_ticket() -> None:
    assert pack_ticket(None, WHOLE, with_training=True) is None
    assert unpack_ticket(None, WHOLE) is None
