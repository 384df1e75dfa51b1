"""What loggers get: rounds and recalls, and the user's own metrics as they were."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.kit import QUIET
from tests.support.witness import Classifier, Job, train_data, val_data, watched_fit

ROUND = {
    "classprune/round",
    "classprune/sparsity",
    "classprune/accepted",
    "classprune/guard_fn/1",
    "classprune/guard_recall/1",
    "classprune/newly_missed/1",
    "classprune/newly_found/1",
    "classprune/tests_left",
}
BOUND = "classprune/guard_bound/1"
LEVEL = "classprune/level_left"
VALIDATION = {"classprune/recall/1", "classprune/fn/1", "classprune/support/1"}

Points = dict[str, list[tuple[int, float]]]


class Noted(Classifier):
    """Logs by step and by epoch, in training and validation."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        return loss


def read_csv(folder: Path) -> Points:
    points: Points = {}
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    points.setdefault(name, []).append((int(row["step"]), float(value)))
    return points


def read_tensorboard(folder: Path) -> Points:
    (path,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path.parent))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name not in ("epoch", "hp_metric")
    }


LOGGERS = {"csv": (CSVLogger, read_csv), "tensorboard": (TensorBoardLogger, read_tensorboard)}


def pruned(kind: str, folder: Path, **kwargs: Any) -> tuple[Job, Points]:
    logger, read = LOGGERS[kind]
    job = watched_fit(Noted(), logger=logger(folder), log_every_n_steps=2, **kwargs)
    return job, read(folder)


@pytest.mark.parametrize("kind", LOGGERS)
def test_every_round_is_logged(kind: str, tmp_path: Path) -> None:
    job, points = pruned(kind, tmp_path, refuse=(2,), settings={"confidence": 0.95})
    assert job.verdicts == ["baseline", "accepted", "refused"]
    assert points.keys() >= ROUND | {BOUND, LEVEL}
    ledger = job.pruning.ledger
    steps = [step for step, _ in points["classprune/round"]]
    assert steps == [7, 15, 23]  # the last step of each round, as Lightning logs the end of an epoch
    assert [v for _, v in points["classprune/round"]] == [0, 1, 2]
    assert [v for _, v in points["classprune/sparsity"]] == [0, 0.5, 0.75]
    assert [v for _, v in points["classprune/accepted"]] == [1, 1, 0]
    # Two tests at most, and none after the first refusal.
    assert [v for _, v in points["classprune/tests_left"]] == [2, 1, 0]
    assert [v for _, v in points[LEVEL]] == pytest.approx([0.05, 0.05, 0])
    counts = {"newly_missed": "newly_missed", "newly_found": "newly_found"}
    for name, key in ({"guard_fn": "fn", "guard_recall": "recall"} | counts).items():
        logged = [v for _, v in points[f"classprune/{name}/1"]]
        assert logged == pytest.approx([row["classes"]["1"][key] for row in ledger], rel=1e-6)
    bounds = [row["classes"]["1"]["upper_bound"] for row in ledger[1:]]
    assert [v for _, v in points[BOUND]] == pytest.approx(bounds, rel=1e-6)
    assert bounds[0] < 0.5 < bounds[1]


@pytest.mark.parametrize("kind", LOGGERS)
def test_recall_is_logged_at_every_validation(kind: str, tmp_path: Path) -> None:
    job, points = pruned(kind, tmp_path)
    assert points.keys() >= VALIDATION
    validations = [step for step, _ in points["val_loss"]]
    assert len(validations) == 6
    for name in VALIDATION:
        assert [step for step, _ in points[name]] == validations
    positives = int(val_data().dataset.tensors[1].sum())
    assert {v for _, v in points["classprune/support/1"]} == {positives}
    missed = [v for _, v in points["classprune/fn/1"]]
    recalls = [v for _, v in points["classprune/recall/1"]]
    assert recalls == pytest.approx([1 - fn / positives for fn in missed], abs=1e-6)
    # Counted again, from the module as it was delivered after the last validation.
    x, target = val_data().dataset.tensors
    delivered = job.module.eval()(x).argmax(1)
    assert missed[-1] == int(((delivered != 1) & (target == 1)).sum())


@pytest.mark.parametrize("kind", LOGGERS)
@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_the_users_own_metrics_and_steps_are_what_they_were(
    kind: str, interval: float, tmp_path: Path
) -> None:
    """Round 0 logs what the job without the callback would have logged, and no step is changed by ours."""
    logger, read = LOGGERS[kind]
    plain = L.Trainer(
        **QUIET | {"logger": logger(tmp_path / "plain")}, max_epochs=2, log_every_n_steps=2,
        val_check_interval=interval,
    )  # fmt: skip
    plain.fit(Noted(), train_data(), val_data())
    before = read(tmp_path / "plain")
    _, after = pruned(kind, tmp_path / "pruned", val_check_interval=interval)
    assert {name for name in after if not name.startswith("classprune/")} == before.keys()
    for name, points in before.items():
        assert after[name][: len(points)] == points
        # Later rounds go on with the same spacing.
        steps = [step for step, _ in after[name]]
        assert steps == [8 * round_ + step for round_ in range(3) for step, _ in points]


def test_the_step_axis_never_goes_back(tmp_path: Path) -> None:
    """Some loggers drop what comes with an earlier step than the last."""
    logger = CSVLogger(tmp_path)
    written: list[int] = []
    log_metrics = logger.log_metrics

    def noting(metrics: dict[str, float], step: int | None = None) -> None:
        written.append(-1 if step is None else step)
        log_metrics(metrics, step)

    logger.log_metrics = noting  # type: ignore[method-assign]
    watched_fit(Noted(), logger=logger, log_every_n_steps=1)
    assert written == sorted(written)


def test_a_class_without_positives_in_validation_has_no_recall(tmp_path: Path) -> None:
    loader = val_data()
    x, target = loader.dataset.tensors
    loader.dataset.tensors = (x[target == 0], target[target == 0])
    job = watched_fit(Noted(), train_data(), loader, logger=CSVLogger(tmp_path))
    points = read_csv(tmp_path)
    assert "classprune/recall/1" not in points
    assert {v for _, v in points["classprune/support/1"]} == {0}
    assert job.pruning.sparsity == 0.75


def test_class_names_name_the_metrics(tmp_path: Path) -> None:
    settings = {"class_names": ["sound", "cracked"], "protect": {"cracked": 0.5, "sound": 0.5}}
    _, points = pruned("csv", tmp_path, settings=settings)
    for name in ("cracked", "sound"):
        assert {f"classprune/recall/{name}", f"classprune/guard_fn/{name}"} <= points.keys()


def test_retries_are_logged_as_they_are_spent(tmp_path: Path) -> None:
    settings = {"confidence": 0.95, "on_refusal": "retry", "retries": 1}
    job, points = pruned("csv", tmp_path, refuse=(1,), settings=settings)
    assert job.verdicts[:3] == ["baseline", "refused", "accepted"]
    left = [v for _, v in points["classprune/tests_left"]]
    most = left[0]
    assert left == [most - i for i in range(len(left))]
    # 3/4 of alpha before the refusal, the rest over C(most - 1, 1) after it.
    rest = [0.0125 / (most - 1) if n else 0 for n in left[1:]]
    assert [v for _, v in points[LEVEL]] == pytest.approx([0.0375, *rest], rel=1e-4)


def test_the_point_rule_has_no_level(tmp_path: Path) -> None:
    _, points = pruned("csv", tmp_path)
    assert LEVEL not in points
    assert [v for _, v in points["classprune/tests_left"]] == [2, 1, 0]


class Pictures(CSVLogger):
    """A logger that takes pictures as WandbLogger does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.got: list[tuple[str, Any, int | None]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.got += [(key, image, step) for image in images]


def test_tensorboard_gets_the_ledgers_picture_after_each_round(tmp_path: Path) -> None:
    pruned("tensorboard", tmp_path, refuse=(2,))
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path.parent), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["classprune/ledger"]
    pictures = events.Images("classprune/ledger")
    assert [p.step for p in pictures] == [7, 15, 23]
    assert all(p.encoded_image_string.startswith(b"\x89PNG") and p.width > 500 for p in pictures)


def test_a_logger_with_log_image_gets_it_too(tmp_path: Path) -> None:
    logger = Pictures(tmp_path)
    watched_fit(Noted(), logger=[CSVLogger(tmp_path / "plain"), logger])
    assert [(key, step) for key, _, step in logger.got] == [("classprune/ledger", s) for s in (7, 15, 23)]
    for _, image, _ in logger.got:
        red, *_ = image.getextrema()
        assert (image.mode, red) == ("RGB", (0, 255))  # something is drawn, in black on white


def test_pictures_leave_no_figure_open(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before, backend = pyplot.get_fignums(), pyplot.get_backend()
    watched_fit(logger=[Pictures(tmp_path / "a"), TensorBoardLogger(tmp_path / "b")])
    assert (pyplot.get_fignums(), pyplot.get_backend()) == (before, backend)


def test_several_loggers_all_get_it(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb")]
    watched_fit(Noted(), logger=loggers)
    one, other = read_csv(tmp_path / "csv"), read_tensorboard(tmp_path / "tb")
    for name in ROUND:
        assert [(s, pytest.approx(v)) for s, v in one[name]] == other[name]


def test_early_stopping_and_checkpoints_can_monitor_the_recall(tmp_path: Path) -> None:
    checkpoint = L.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="classprune/recall/1", mode="max")
    stopping = L.callbacks.EarlyStopping("classprune/recall/1", mode="max", patience=1)
    job = watched_fit(callbacks=[checkpoint, stopping], max_epochs=6)
    assert job.pruning.sparsity == 0.75
    assert not math.isnan(float(checkpoint.best_model_score))
    assert 0 < float(checkpoint.best_model_score) <= 1


def test_validation_of_another_shape_than_the_guards_does_not_end_the_job() -> None:
    """The monitor only tells: where `predict` is made for guard batches, validation goes on without it."""

    class Keyed(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step((batch["x"], batch["y"]), batch_idx)

    from torch.utils.data import DataLoader, default_collate

    loader = DataLoader(
        val_data().dataset,
        batch_size=32,
        collate_fn=lambda rows: dict(zip("xy", default_collate(rows), strict=True)),
    )
    with pytest.warns(UserWarning, match="recall is not logged"):
        job = watched_fit(Keyed(), train_data(), loader)
    assert job.pruning.sparsity == 0.75
