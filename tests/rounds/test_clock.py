"""The clock of a round: counts within a round, limits of the loop, and rounds that do not fit."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.clock import (
    RoundClock,
    check_length_left,
    check_rewind_point,
    check_total_epochs,
    does_not_fit,
)
from lightning_classprune.rounds.rewind import Rewind
from lightning_classprune.trainer.horizon import Horizon, Limits
from tests.support.kit import fit, tiny, trainer


def with_batches(n: int, **options: Any) -> pl.Trainer:
    made = trainer(**options)
    made.fit_loop.max_batches = n
    return made


@pytest.mark.fit
def test_a_round_counts_from_where_it_was_set() -> None:
    """Two epochs of six batches, a round of two epochs set after the first: the loop goes on to the third."""
    seen: list[tuple[int, int, int, float]] = []

    class Second(pl.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.clock = RoundClock(trainer)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                self.clock.set_round(2, -1)
                self.clock.apply()

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock = self.clock
            seen.append((clock.epochs, clock.round_epoch, clock.round_step, round(clock.share, 3)))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            over.append(self.clock.is_over())

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.clock.release()

    over: list[bool] = []
    made = fit(tiny(), Second(), max_epochs=2)
    assert made.current_epoch == 3
    assert made.max_epochs == 2
    assert over == [False, False, True]
    assert [place[:2] for place in seen[::6]] == [(0, 0), (1, 0), (2, 1)]
    assert [place[2] for place in seen] == [0, 1, 2, 3, 4, 5, *range(12)]
    assert [place[3] for place in seen[6:12]] == [0, 0.167, 0.333, 0.5, 0.667, 0.833]


def test_limits_are_the_rounds_and_then_the_users_again() -> None:
    made = trainer(max_epochs=5, max_steps=50, min_epochs=2)
    clock = RoundClock(made)
    clock.set_round(3, 7)
    clock.apply(max_steps=-1)
    assert Limits.of(made) == Limits(3, -1, 2, None)
    clock.release()
    assert Limits.of(made) == clock.user == Limits(5, 50, 2, None)


def test_seconds_of_an_interrupted_job_count_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("lightning_classprune.rounds.clock.time.monotonic", lambda: now[0])
    clock = RoundClock(trainer())
    now[0] += 4
    saved = clock.state_dict()
    assert saved["seconds"] == 4
    now[0] = 0.0  # another process
    again = RoundClock(trainer())
    again.load_state_dict(saved)
    assert again.horizon == clock.horizon
    now[0] += 3
    assert again.seconds == 7
    again.restart_seconds()
    assert again.seconds == 0


@pytest.mark.parametrize(("foreign", "ahead", "start"), [(None, False, 0), (3, False, 0), (3, True, 3)])
def test_epochs_before_round_0_count_unless_they_are_judged_as_they_are(
    foreign: int | None, ahead: bool, start: int
) -> None:
    clock = RoundClock(trainer())
    clock.begin_round_zero(foreign, ahead=ahead)
    assert clock.start == (start, 0)


def test_all_rounds_must_have_room_for_round_0() -> None:
    check_total_epochs(Limits(5, -1, 0, None), None)
    check_total_epochs(Limits(5, -1, 0, None), 5)
    with pytest.raises(
        MisconfigurationException, match=r"max_total_epochs=4 is less than round 0 alone.*max_epochs=5"
    ):
        check_total_epochs(Limits(5, -1, 0, None), 4)


@pytest.mark.parametrize(
    ("done", "length", "total", "needed"),
    [
        (4, (3, -1), None, None),
        (4, (3, -1), 7, None),
        (5, (3, -1), 7, "needs 3, 2 are left"),
        (9, (3, -1), 7, "needs 3, 0 are left"),
        (5, (-1, 20), 7, None),  # 20 steps of 10 an epoch
        (5, (-1, 21), 7, "needs 3, 2 are left"),
        (5, (9, 11), 7, None),
        (7, (-1, -1), 7, "needs at least 1, 0 are left"),
        (6, (-1, -1), 7, None),
    ],
)
def test_a_round_that_does_not_fit_says_why(
    done: int, length: tuple[int, int], total: int | None, needed: str | None
) -> None:
    found = does_not_fit(with_batches(10), done, length, total)
    assert found == (needed and f"max_total_epochs={total}: the next round {needed}")


def test_a_checkpoint_at_the_end_leaves_nothing_to_train() -> None:
    limits, horizon = Limits(5, -1, 0, None), Horizon(0, 0, 5, -1)
    check_length_left(limits, horizon, 4, 40)
    with pytest.raises(MisconfigurationException, match=r"finished max_epochs=5.*baseline='current'"):
        check_length_left(limits, horizon, 5, 50)


@pytest.mark.parametrize(
    ("rewind", "foreign", "message"),
    [
        ("init", None, None),
        ("epoch:4", None, None),
        ("epoch:5", None, "is not inside a round"),
        ("step:49", None, None),
        ("step:50", None, "is not inside a round"),
        ("epoch:3", 3, None),
        ("epoch:2", 3, "lies before the checkpoint, which is at epoch 3"),
    ],
)
def test_a_rewind_point_must_be_passed(rewind: str, foreign: int | None, message: str | None) -> None:
    def check() -> None:
        check_rewind_point(with_batches(10), Rewind.parse(rewind), Limits(5, -1, 0, None), foreign)

    if message is None:
        check()
    else:
        with pytest.raises(MisconfigurationException, match=f"rewind='{rewind}' {message}"):
            check()
