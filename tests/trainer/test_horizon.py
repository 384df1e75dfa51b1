from dataclasses import replace

import lightning.pytorch
import pytest
import pytorch_lightning

from lightning_classprune.trainer.horizon import (
    Horizon,
    Limits,
    epochs_done,
    reaches,
    remaining_after,
    steps_left,
)

NONE = Limits(max_epochs=-1, max_steps=-1, min_epochs=0, min_steps=None)


def trainer(package=lightning.pytorch, batches=10, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    made = package.Trainer(**quiet | {"enable_model_summary": False, "devices": 1} | options)
    made.fit_loop.max_batches = batches
    return made


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning])
@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"max_epochs": 7}, Limits(7, -1, 0, None)),
        ({"max_epochs": -1}, NONE),
        ({"max_epochs": -1, "max_steps": 50}, Limits(-1, 50, 0, None)),
        ({"max_epochs": 7, "max_steps": 50, "min_epochs": 2, "min_steps": 9}, Limits(7, 50, 2, 9)),
    ],
)
def test_limits_are_read_and_come_back(package, options, limits):
    made = trainer(package, **options)
    assert Limits.of(made) == limits
    Limits(99, 98, 97, 96).apply(made)
    assert (made.max_epochs, made.max_steps, made.min_epochs, made.min_steps) == (99, 98, 97, 96)
    limits.apply(made)
    assert Limits.of(made) == limits


@pytest.mark.parametrize(
    ("horizon", "epochs", "steps", "over"),
    [
        (Horizon(0, 0, 5, -1), 4, 400, False),
        (Horizon(0, 0, 5, -1), 5, 0, True),
        (Horizon(10, 300, 5, -1), 14, 9999, False),
        (Horizon(10, 300, 5, -1), 15, 300, True),
        (Horizon(10, 300, -1, 50), 999, 349, False),
        (Horizon(10, 300, -1, 50), 10, 350, True),
        (Horizon(10, 300, 5, 50), 15, 301, True),
        (Horizon(10, 300, 5, 50), 11, 350, True),
        (Horizon(10, 300, 5, 50), 14, 349, False),
        (Horizon(10, 300, -1, -1), 999, 9999, False),
        (Horizon(10, 300, 0, 0), 10, 300, True),
    ],
)
def test_a_round_is_over_after_its_own_epochs_or_steps(horizon, epochs, steps, over):
    assert horizon.is_over(epochs, steps) is over


@pytest.mark.parametrize(
    ("horizon", "user", "limits"),
    [
        (Horizon(0, 0, 5, -1), Limits(5, -1, 0, None), Limits(5, -1, 0, None)),
        (Horizon(10, 300, 5, -1), Limits(5, -1, 0, None), Limits(15, -1, 0, None)),
        (Horizon(10, 300, -1, 50), Limits(-1, 50, 0, None), Limits(-1, 350, 0, None)),
        (Horizon(10, 300, 5, 50), Limits(5, 50, 2, 9), Limits(15, 350, 12, 309)),
        (Horizon(10, 300, 3, 20), Limits(5, 50, 0, 0), Limits(13, 320, 0, None)),
        (Horizon(10, 300, -1, -1), NONE, NONE),
    ],
)
def test_the_loops_limits_end_a_round_where_the_users_would(horizon, user, limits):
    assert horizon.limits(user) == limits


def test_the_first_round_has_the_users_own_limits():
    user = Limits(7, 50, 2, 9)
    assert Horizon(0, 0, 7, 50).limits(user) == user


def test_horizons_come_back():
    saved = Horizon(10, 300, 5, -1).state_dict()
    assert saved == {"start_epoch": 10, "start_step": 300, "epochs": 5, "steps": -1}
    assert Horizon.from_state_dict(saved) == Horizon(10, 300, 5, -1)


def test_epochs_done_counts_what_the_loop_has_processed():
    made = trainer()
    assert epochs_done(made) == 0
    progress = made.fit_loop.epoch_progress
    progress.increment_ready()
    progress.increment_started()
    assert epochs_done(made) == 0
    progress.increment_processed()
    assert epochs_done(made) == 1


@pytest.mark.parametrize(
    ("user", "epoch", "step", "whole", "batches", "accumulate", "length"),
    [
        # epoch:2 of 7 epochs
        (replace(NONE, max_epochs=7), 2, 20, True, 10, 1, (5, -1)),
        (Limits(7, 50, 0, None), 2, 20, True, 10, 1, (5, 30)),
        (replace(NONE, max_steps=50), 2, 20, True, 10, 1, (-1, 30)),
        # step:23 of 7 epochs of 10 steps
        (replace(NONE, max_epochs=7), 0, 23, False, 10, 1, (-1, 47)),
        (Limits(7, 50, 0, None), 0, 23, False, 10, 1, (-1, 27)),
        (Limits(3, 50, 0, None), 0, 23, False, 10, 1, (-1, 7)),
        (replace(NONE, max_steps=50), 0, 23, False, 10, 1, (-1, 27)),
        # 10 batches, 4 a step: the last step of an epoch takes what is left, so 3 steps an epoch
        (replace(NONE, max_epochs=7), 0, 5, False, 10, 4, (-1, 16)),
        # as long as a loader without end
        (replace(NONE, max_epochs=7), 0, 5, False, float("inf"), 1, (-1, -1)),
        (Limits(7, 50, 0, None), 0, 5, False, float("inf"), 1, (-1, 45)),
        (NONE, 0, 5, False, 10, 1, (-1, -1)),
        (NONE, 2, 20, True, 10, 1, (-1, -1)),
    ],
)
def test_what_is_left_of_a_round_after_a_rewind_point(user, epoch, step, whole, batches, accumulate, length):
    made = trainer(batches=batches, accumulate_grad_batches=accumulate, max_epochs=1)
    assert remaining_after(made, user, epoch, step, whole) == length


@pytest.mark.parametrize(
    ("user", "kind", "last"),
    [
        (replace(NONE, max_epochs=7), "epoch", 6),
        (replace(NONE, max_epochs=7), "step", 69),
        (replace(NONE, max_steps=50), "step", 49),
        (replace(NONE, max_steps=50), "epoch", 4),
        (replace(NONE, max_steps=51), "epoch", 5),
        (Limits(7, 50, 0, None), "epoch", 4),
        (Limits(3, 50, 0, None), "epoch", 2),
        (Limits(7, 50, 0, None), "step", 49),
        (Limits(3, 50, 0, None), "step", 29),
    ],
)
def test_the_last_point_that_a_round_gets_beyond(user, kind, last):
    """With 10 steps an epoch."""
    made = trainer(max_epochs=1)
    assert [reaches(made, user, kind, at) for at in (0, last, last + 1)] == [True, True, False]
    assert reaches(made, NONE, kind, 10**6)


def test_a_loader_without_end_is_only_bounded_by_its_own_limit():
    made = trainer(batches=float("inf"), max_epochs=1)
    assert reaches(made, replace(NONE, max_epochs=7), "step", 10**6)
    assert reaches(made, replace(NONE, max_steps=7), "epoch", 10**6)
    assert not reaches(made, replace(NONE, max_steps=7), "step", 7)


@pytest.mark.parametrize(
    ("horizon", "accumulated", "left"),
    [
        (Horizon(0, 0, 3, -1), 1, 27),  # in the fourth batch of the first of three epochs of ten
        (Horizon(0, 0, 3, -1), 4, 7),
        (Horizon(0, 0, 3, 20), 1, 20),
        (Horizon(0, 0, -1, 50), 1, 50),
        (Horizon(0, 0, 0, -1), 1, 1),
        (Horizon(0, 0, -1, -1), 1, None),
    ],
)
def test_steps_left_count_the_one_that_is_taken_next(horizon, accumulated, left):
    made = trainer(accumulate_grad_batches=accumulated)
    for _ in range(4):
        made.fit_loop.epoch_loop.batch_progress.increment_ready()
    assert steps_left(made, horizon) == left
    made.fit_loop.max_batches = float("inf")
    assert steps_left(made, horizon) == (horizon.steps if horizon.steps != -1 else None)


@pytest.mark.parametrize(
    ("horizon", "epochs", "steps", "progress"),
    [
        (Horizon(10, 300, 4, -1), 11.5, 999, 0.375),
        (Horizon(10, 300, -1, 50), 99, 310, 0.2),
        (Horizon(10, 300, 4, 50), 11, 345, 0.9),  # whichever ends it first
        (Horizon(10, 300, -1, -1), 99, 999, 0.0),
        (Horizon(10, 300, 2, -1), 13, 400, 1.0),
    ],
)
def test_the_share_of_a_round_that_is_done(horizon, epochs, steps, progress):
    assert horizon.progress(epochs, steps) == progress
