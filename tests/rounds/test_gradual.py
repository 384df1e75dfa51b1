"""Rounds whose length nobody knows cannot have a share; `integration/test_gradual_fit.py` is about those that have."""

from __future__ import annotations

from math import inf

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.gradual import check_length_is_known
from tests.support.kit import trainer


@pytest.mark.parametrize(
    ("batches", "length", "why"),
    [
        (6, (4, -1), None),
        (6, (-1, 40), None),
        (inf, (-1, 40), None),
        (6, (4, 40), None),
        (6, (-1, -1), "its rounds have no limit"),
        (
            inf,
            (4, -1),
            "an epoch of this training loader has no length; set the Trainer's limit_train_batches",
        ),
        (inf, (4, 40), "an epoch of this training loader has no length"),
    ],
)
def test_the_length_of_a_round_must_be_known(
    batches: float, length: tuple[int, int], why: str | None
) -> None:
    made = trainer()
    made.fit_loop.max_batches = batches
    if why is None:
        check_length_is_known(made, length)
    else:
        with pytest.raises(MisconfigurationException, match=why):
            check_length_is_known(made, length)
