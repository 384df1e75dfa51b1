"""Closing: when there is something to judge, and what is taken before; `integration/test_judgement.py` judges."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch

from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.rounds.closing import Closing
from lightning_classprune.tickets.spent import SpentTests
from lightning_classprune.trainer.processes import Processes
from tests.guard.test_judge import begun, decided, judge
from tests.rounds.test_delivery import delivery
from tests.support.compare import assert_same, weights
from tests.tickets.test_kept import kept


def closing(folder: Path, *, at_end: bool = True, dense: bool = True, alpha: float | None = None) -> Closing:
    tickets, nets = kept(folder)
    delivering = delivery(nets[1])
    return Closing(
        at_end=at_end,
        judge=begun(decided(1), alpha=alpha, protect={"b": 0.9}) if dense else judge(alpha=alpha),
        kept=tickets,
        recorder=Recorder(delivering.handover.trainer),
        delivery=delivering,
        spent=SpentTests(folder, "run", Processes()),
    )


@pytest.mark.parametrize(
    ("at_end", "dense", "was_judged", "is_open"),
    [
        (True, True, False, True),
        (True, True, True, False),
        (True, False, False, False),
        (False, True, False, False),
    ],
)
def test_a_run_is_open_from_its_dense_network_to_its_judgement(
    at_end: bool, dense: bool, was_judged: bool, is_open: bool, tmp_path: Path
) -> None:
    found = closing(tmp_path, at_end=at_end, dense=dense)
    found.was_judged = was_judged
    assert found.is_open is is_open


@pytest.mark.parametrize(("dense", "alpha"), [(False, 0.05), (True, None)])
def test_where_nothing_can_be_judged_the_guard_is_not_even_looked_for(
    dense: bool, alpha: float | None, tmp_path: Path
) -> None:
    def find() -> NoReturn:
        raise AssertionError("the guard was opened")

    found = closing(tmp_path, dense=dense, alpha=alpha)
    found.close(find, None)
    assert not found.was_judged
    assert found.delivery.accepted is None


def test_the_dense_network_comes_from_its_file(tmp_path: Path) -> None:
    found = closing(tmp_path)
    assert found.kept is not None
    assert found.kept.dense is not None
    state, masks = found.kept.load(found.kept.dense)
    assert not torch.equal(found.delivery.handover.module.weight, state["weight"])
    found.take_dense()
    assert_same(weights(found.delivery.handover.module), state)
    ticket = found.delivery.accepted
    assert ticket is not None
    assert_same(ticket.tensors, state)
    assert_same(ticket.masks, masks)
    assert (ticket.offsets, ticket.folded_into) == ({}, None)
