"""Objects and cases in real fits: what is counted, offset, delivered and resumed, and refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, Files, load_ticket
from lightning_classprune.guard.objects import Found
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation, Segmentation, Tokens
from lightning_classprune.ledger import figure
from lightning_classprune.ledger.text import achievement, table
from tests.support import shapes
from tests.support.compare import assert_same, without_seconds
from tests.support.kit import dataset, fit, plain_pruner, tiny, verdicts
from tests.support.shapes import MaskNet, blobs, pictures
from tests.support.witness import Keep

GUARD = 75


def job(
    predict: Any = shapes.masks, seed: int = 1, outputs: int = 2, **options: Any
) -> tuple[MaskNet, ClassAwarePruningCallback]:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {
        "task": Segmentation(),
        "protect": {1: 0.2},
        "max_fp_rise": 0.4,
        "guard_dataloader": pictures(GUARD, 3),
        "target_sparsity": 0.4,
    }
    if "search" not in options:
        defaults["fraction"] = 0.4
    return MaskNet(outputs), plain_pruner(predict=predict, **(defaults | options))


def run(made: tuple[MaskNet, ClassAwarePruningCallback], *more: Any, **options: Any) -> pl.Trainer:
    module, callback = made
    defaults: dict[str, Any] = {"train": pictures(64, 1), "val": pictures(60, 2), "max_epochs": 6}
    return fit(module, callback, *more, **(defaults | options))


def missed_squares(module: MaskNet) -> Tensor:
    """`(objects,)`, by loops: which squares of the guard are covered by less than half."""
    images, maps, _ = blobs(GUARD, 3)
    with torch.no_grad():
        claimed = module.eval()(images).argmax(1) == 1
    missed = []
    for said, numbers in zip(claimed, maps, strict=True):
        for number in range(1, int(numbers.max()) + 1):
            inside = numbers == number
            missed.append(int((said & inside).sum()) < 0.5 * int(inside.sum()))
    return torch.tensor(missed)


def test_masks_are_counted_by_patient() -> None:
    made = module, callback = job(shapes.masks_of_patients)
    trainer = run(made)
    assert verdicts(callback) == ["baseline", "accepted"]
    told, missed = callback.ledger[-1]["classes"]["1"], missed_squares(module)
    assert (told["objects"], told["objects_fn"]) == (len(missed), int(missed.sum()))
    assert told["units"] == told["support"] == told["negatives"] == 25
    assert told["rule"] == "found where at least 0.5 of it is covered"
    assert "of these" in callback.ledger[-1]["reason"]
    assert told["rule"] in callback.ledger[-1]["reason"]
    # At validation all objects are counted.
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["classprune/support/1"] == sum(int(one.max()) for one in blobs(60, 2)[1])
    assert logged["classprune/recall/1"] == pytest.approx(
        1 - logged["classprune/fn/1"] / logged["classprune/support/1"]
    )
    # Who missed what, for pictures.
    found = callback.guard_outcomes["delivered"]
    assert isinstance(found, Found)
    sample, box = found.missed_objects("1")
    assert len(sample) == len(box) == int(missed.sum())
    frame = callback.ledger_frame()
    assert frame["objects"].tolist() == [len(missed)] * 2
    assert frame["units"].tolist() == [25] * 2
    assert table(callback.ledger).row_count == 4
    assert f"missed {int(missed.sum())} of {len(missed)} objects" in achievement(callback.ledger)
    assert "averaged over units" in achievement(callback.ledger)
    assert figure.figure(callback.ledger).axes


KINDS = [
    pytest.param(InstanceSegmentation(), shapes.instances, {"cluster": "betting"}, id="instances"),
    pytest.param(Detection(), shapes.boxes, {"cluster": "any"}, id="boxes"),
    pytest.param(
        Segmentation(rule="iou"), shapes.masks, {"search": "adaptive", "confidence": 0.8}, id="adaptive"
    ),
    pytest.param(Segmentation(), shapes.masks, {"judging": "end", "max_rounds": 1}, id="judged at the end"),
]


@pytest.mark.parametrize(("task", "predict", "options"), KINDS)
def test_each_task_is_judged(task: Any, predict: Any, options: dict[str, Any]) -> None:
    made = _, callback = job(predict, task=task, **options)
    run(made)
    assert verdicts(callback)[0] == "baseline"
    for row in callback.ledger:
        if not row["classes"]:
            continue
        told = row["classes"]["1"]
        assert told["objects"] == sum(int(one.max()) for one in blobs(GUARD, 3)[1])
        assert told["units"] == GUARD
        assert told["rule"] == task.in_words
    assert "accepted" in verdicts(callback)


class Shy(MaskNet):
    """A network that sees less in every round after the dense one."""

    def on_train_batch_end(self, *_: Any) -> None:
        if bool((self.net[0].weight == 0).any()):
            with torch.no_grad():
                self.net[2].bias[-1] -= 0.1


def test_an_offset_of_masks_is_folded_and_decides_by_itself() -> None:
    _, callback = job(offset="validation", confidence=0.8)
    torch.manual_seed(1)
    module = Shy()
    run((module, callback))
    told = callback.ledger[-1]["classes"]["1"]
    assert told["offset"] != 0
    assert told["chance"] is not None
    assert verdicts(callback)[-1] == "accepted"
    assert callback.offsets == {"1": 0.0}
    assert told["objects_fn"] == int(missed_squares(module).sum())


def test_an_offset_of_a_detector_is_a_threshold_of_the_score() -> None:
    made = module, callback = job(shapes.boxes, task=Detection(), offset="validation", confidence=0.8)
    run(made)
    bias = callback.offsets["1"]
    assert bias == callback.ledger[-1]["classes"]["1"]["offset"] != 0
    by_hand = Detection(score_threshold=0.5 - bias)
    again = plain_pruner(task=by_hand, predict=shapes.boxes).settings.task
    batch = next(iter(pictures(GUARD, 3, batch_size=GUARD)))
    with torch.no_grad():
        columns = again.columns(*shapes.boxes(module.eval(), batch))
    found = again.outcomes(again.numbered(columns, columns[0]), {})  # type: ignore[attr-defined]
    misses, _ = found.pairs(found, "1")
    assert misses.cases[0] == callback.ledger[-1]["classes"]["1"]["objects_fn"]


def test_resumed_it_is_the_same_run_with_the_same_draw(tmp_path: Path) -> None:
    files = Keep(tmp_path, "epoch end")
    whole = _, callback = job(shapes.masks_of_patients, target_sparsity=0.6)
    run(whole, files)
    again = _, resumed = job(shapes.masks_of_patients, target_sparsity=0.6, seed=5)
    run(again, ckpt_path=files.files[8])
    assert_same(without_seconds(resumed.ledger), without_seconds(callback.ledger))
    assert_same(resumed.guard_outcomes["dense"].state_dict(), callback.guard_outcomes["dense"].state_dict())
    other = job(shapes.masks_of_patients, target_sparsity=0.6, task=Segmentation(share=0.4))
    with pytest.raises(
        MisconfigurationException, match=r"other settings: task was .*0\.5.* and is now .*0\.4"
    ):
        run(other, ckpt_path=files.files[8])


def test_a_detector_in_half_precision_is_resumed_to_the_same_verdict(tmp_path: Path) -> None:
    def of_patients(module: Any, batch: Any) -> Any:
        return *shapes.boxes(module, batch), batch[2]

    files, options = Keep(tmp_path, "epoch end"), {"task": Detection(), "max_rounds": 1}
    whole = _, callback = job(of_patients, **options)
    run(whole, files, precision="bf16-mixed", max_epochs=3)
    again = _, resumed = job(of_patients, seed=5, **options)
    run(again, ckpt_path=files.files[4], precision="bf16-mixed", max_epochs=3)
    assert callback.ledger[-1]["classes"]["1"]["objects_fn"] is not None
    assert_same(without_seconds(resumed.ledger), without_seconds(callback.ledger))
    assert_same(resumed.guard_outcomes["dense"].state_dict(), callback.guard_outcomes["dense"].state_dict())


def test_half_precision_and_the_files_that_leave(tmp_path: Path) -> None:
    made = module, callback = job(files=Files(ladder=str(tmp_path / "tickets")))
    run(made, precision="bf16-mixed")
    assert verdicts(callback) == ["baseline", "accepted"]
    twin = MaskNet()
    load_ticket(tmp_path / "tickets", twin)
    assert_same(dict(twin.state_dict()), dict(module.state_dict()))
    assert missed_squares(twin).tolist() == missed_squares(module).tolist()


# -- cases of classification --


def of_patients(module: Any, batch: Any) -> Any:
    return module(batch[0]), batch[1], [f"patient {one}" for one in batch[2].tolist()]


def patients(n: int, seed: int, first: int = 0) -> DataLoader[Any]:
    x, y = dataset(n, seed).tensors
    return DataLoader(TensorDataset(x, y, first + torch.arange(n) // 4), batch_size=40)


def with_patients(
    guard: Any = None, train: Any = None, val: Any = None, **options: Any
) -> ClassAwarePruningCallback:
    callback = plain_pruner(
        **(
            {
                "predict": of_patients,
                "protect": {1: 0.3},
                "confidence": 0.8,
                "max_fp_rise": 0.3,
                "max_rounds": 1,
                "target_sparsity": 0.5,
                "guard_dataloader": guard or patients(240, 3, 2000),
            }
            | options
        )
    )
    fit(tiny(), callback, train=train or patients(96, 1), val=val or patients(80, 2, 1000), max_epochs=2)
    return callback


def test_patients_are_judged_and_not_their_samples() -> None:
    callback = with_patients()
    told = callback.ledger[-1]["classes"]["1"]
    target = dataset(240, 3).tensors[1]
    patient = torch.arange(240) // 4
    assert told["objects"] == int((target == 1).sum())
    assert told["units"] == told["support"] == len(set(patient[target == 1].tolist()))
    assert told["negatives"] == len(set(patient[target == 0].tolist()))
    assert told["rule"] is None
    assert "units of" in callback.ledger[-1]["reason"]


def test_where_each_sample_is_a_patient_nothing_changes() -> None:
    """The same run with ids that say nothing, and without ids: bit for bit, but for what is said of units."""

    def alone(module: Any, batch: Any) -> Any:
        return module(batch[0]), batch[1], batch[2]

    def without(module: Any, batch: Any) -> Any:
        return module(batch[0]), batch[1]

    def numbered(n: int, seed: int, first: int) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*dataset(n, seed).tensors, first + torch.arange(n)), batch_size=40)

    data = {"guard": numbered(240, 3, 2000), "train": numbered(96, 1, 0), "val": numbered(80, 2, 1000)}
    with_ids, plain = with_patients(predict=alone, **data), with_patients(predict=without, **data)
    for mine, theirs in zip(with_ids.ledger, plain.ledger, strict=True):
        assert mine["classes"] == theirs["classes"]
        assert mine["verdict"] == theirs["verdict"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"train": (96, 1, 2010)}, "24 units of the guard hold training samples too"),
        (
            {"val": (80, 2, 2010), "offset": "validation"},
            r"20 units of the guard hold validation samples too.*Guard.offset",
        ),
        (
            {"predict": lambda m, b: (m(b[0]), b[1], b[2].tolist()[:-1])},
            "one case id a sample .* got 39 for 40 samples",
        ),
        (
            {"predict": lambda m, b: (m(b[0]), b[1], [None, *b[2].tolist()[1:]])},
            "the case id None; a whole number or a str",
        ),
        (
            {
                "predict": lambda m, b: (
                    m(b[0]),
                    b[1],
                    b[2].tolist() if b[2][0] < 2030 else [*map(str, b[2].tolist())],
                )
            },
            "numbers and strings for case ids",
        ),
        (
            {"predict": lambda m, b: (m(b[0]), b[1], b[2])[: 3 if b[2][0] < 2030 else 2]},
            "case ids with some batches and none with others",
        ),
    ],
)
def test_units_where_they_must_not_be_are_refused_before_training(data: dict[str, Any], said: str) -> None:
    loaders = {name: patients(*data.pop(name)) for name in ("train", "val") if name in data}
    with pytest.raises(MisconfigurationException, match=said):
        with_patients(**loaders, **data)


def test_units_of_validation_data_that_choose_nothing_are_allowed() -> None:
    assert with_patients(val=patients(80, 2, 2000)).ledger


def test_what_objects_need_is_said_before_training() -> None:
    with pytest.warns(UserWarning, match="fewer than 59 units prove nothing at tolerance 0.05") as seen:
        run(job(shapes.masks_of_patients, protect={1: 0.05}, max_rounds=1), max_epochs=1)
    assert sum("independent units" in str(one.message) for one in seen) == 1
    empty = DataLoader(TensorDataset(torch.zeros(4, 1, 24, 24), torch.zeros(4, 24, 24, dtype=torch.int64)))
    with pytest.raises(MisconfigurationException, match="4 samples hold no pieces of class '1'"):
        run(job(guard_dataloader=empty))
    with pytest.raises(
        MisconfigurationException, match=r"For masks: from lightning_classprune.tasks import Segmentation"
    ):
        run(job(task=None))
    with pytest.raises(MisconfigurationException, match="for task=Tokens"):
        run(job(task=Tokens()))
