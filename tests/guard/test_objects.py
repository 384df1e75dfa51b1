"""The common part of tasks with objects: rows, numbers, units, offsets, saved outcomes; with a kind made by hand."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.objects import EVERYTHING, PROBABILITIES, Found, ObjectTask, Reading, Seen
from lightning_classprune.guard.offset import Labels, choose_offset
from lightning_classprune.guard.protected import read_protected
from lightning_classprune.guard.task import OfUnits


@dataclass(frozen=True)
class ByHand:
    """Scores and target are what is seen: a list a sample of (found from which bias on, area), and of alarms."""

    noun: str = "objects"
    competes: bool = False
    in_words: str = "found by hand"
    flag: int = 0

    def biases(self) -> tuple[float, ...]:
        return (-1.0, 1.0)

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        sample = np.repeat(np.arange(len(target)), [len(one) for one in target])
        needs = np.array([bias for one in target for bias, _ in one]).reshape(-1)
        area = np.array([size for one in target for _, size in one], dtype=np.int64).reshape(-1)
        biases = np.array(how.biases)
        alarms = np.array(scores, dtype=np.int64)[:, None] + (biases > 0)
        seen = Seen(
            sample,
            needs[:, None] <= biases,
            np.zeros((len(sample), 4), np.float32),
            area,
            alarms,
            alarms * 0,
            np.full(len(target), self.flag),
        )
        return len(target), dict.fromkeys(how.protected, seen)


def task(cluster: Any = "one", offset: bool = True, **options: Any) -> ObjectTask:
    return ObjectTask(ByHand(**options), ("rest", "cell"), [1], 0.0, cluster, with_offset=offset)


def outcomes(made: ObjectTask, scores: Any, target: Any, case: Any = None, bias: float = 0.0) -> Found:
    return made.outcomes(columns(made, scores, target, case), {"cell": bias} if bias else {})


def columns(made: ObjectTask, scores: Any, target: Any, case: Any = None) -> Any:
    found = made.columns(scores, target, case)
    return made.numbered(found, found[0])


SAMPLES = [[(0, 9), (1, 9)], [], [(2, 9), (0, 9), (-1, 9)]]


def test_a_row_an_object_and_one_a_sample() -> None:
    made = task()
    assert isinstance(made, OfUnits)
    found = outcomes(made, [2, 0, 1], SAMPLES)
    assert found.kind.tolist() == [[0, 1]] * 5 + [[1, 1]] * 3
    assert found.sample.tolist() == [0, 0, 2, 2, 2, 0, 1, 2]
    assert found.value.tolist() == [1, 0, 0, 1, 1, 2, 0, 1]
    assert outcomes(made, [2, 0, 1], SAMPLES, bias=1.0).value.tolist() == [1, 1, 0, 1, 1, 3, 1, 2]
    assert outcomes(made, [2, 0, 1], SAMPLES, bias=-1.0).value.tolist() == [0, 0, 0, 0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match=r"an offset of 0.5 was not counted"):
        outcomes(made, [2, 0, 1], SAMPLES, bias=0.5)
    with pytest.raises(ValueError, match="was not counted"):
        outcomes(task(offset=False), [2, 0, 1], SAMPLES, bias=1.0)


def test_the_unit_is_the_sample_without_ids_and_else_what_they_say() -> None:
    dense = outcomes(task("any"), [2, 0, 1], SAMPLES)
    misses, alarms = dense.pairs(dense, "cell")
    assert (misses.support, misses.fn, misses.cases) == (2, 2, (2, 5))
    assert (alarms.support, alarms.fn) == (3, 2)
    dense = outcomes(task("any"), [2, 0, 1], SAMPLES, ["ann", "bob", "ann"])
    misses, alarms = dense.pairs(dense, "cell")
    assert (misses.support, alarms.support, misses.fn) == (1, 2, 1)


def test_the_draw_is_the_dense_networks_and_is_saved() -> None:
    made = task()
    dense, now = (outcomes(made, [2, 0, 1], SAMPLES, bias=bias) for bias in (0.0, 1.0))
    reversed_ = Found(**{**vars(dense), "order": dense.order.flip(0)})
    assert now.pairs(reversed_, "cell") != now.pairs(dense, "cell"), "another draw says another thing"
    file = io.BytesIO()
    torch.save(reversed_.state_dict(), file)
    file.seek(0)
    again = task("betting").restored(torch.load(file, weights_only=True))
    assert again.cluster == "one"
    assert now.pairs(again, "cell") == now.pairs(reversed_, "cell")
    assert again.same_decisions(dense)


def test_order_of_batches_and_of_places_is_that_of_the_data() -> None:
    """Two processes read every second sample; what is gathered is sorted by place, ids or none."""
    made = task()
    whole = columns(made, [2, 0, 1], SAMPLES)
    parts = [made.columns([s], [t]) for s, t in zip([2, 0, 1], SAMPLES, strict=True)]
    places = torch.cat([torch.full_like(part[0], place) for place, part in enumerate(parts)])
    joined = made.numbered(tuple(torch.cat(one) for one in zip(*parts, strict=True)), places)
    mine, theirs = (made.outcomes(one, {}) for one in (joined, whole))
    order = torch.from_numpy(np.lexsort((theirs.kind[:, 0].numpy(), theirs.sample.numpy())))
    assert torch.equal(mine.sample, theirs.sample[order])
    assert torch.equal(mine.value, theirs.value[order])
    # A whole batch may be one item, and so have one place.
    assert made.numbered(made.columns([2, 0, 1], SAMPLES), torch.zeros(8, dtype=torch.int64))[0].tolist() == [
        0, 0, 2, 2, 2, 0, 1, 2,
    ]  # fmt: skip


def test_pairs_of_other_objects_are_refused() -> None:
    made = task()
    dense = outcomes(made, [0, 0], [[(0, 9)], []])
    for other in (outcomes(made, [0, 0], [[], [(0, 9)]]), outcomes(made, [0, 0], [[(0, 9)], []], [5, 6])):
        with pytest.raises(
            ValueError, match="the guard data changed between the dense network and this round"
        ):
            other.pairs(dense, "cell")


def test_one_piece_that_covers_everything_is_no_single_false_alarm() -> None:
    class Covering(ByHand):
        def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
            count, seen = super().read(scores, target, how)
            return count, {i: Seen(**{**vars(one), "false_area": one.alarms * 90}) for i, one in seen.items()}

    made = ObjectTask(Covering(), ("rest", "cell"), [1], 0.0, "one", with_offset=False)
    assert outcomes(made, [1, 0], [[(0, 9)], []]).value.tolist() == [1, 10, 0]


def test_an_offset_is_chosen_from_the_steps() -> None:
    """All candidates' objects need a bias of 1; it costs an alarm a sample, which is allowed."""
    made = task()
    dense = outcomes(made, [1] * 60, [[(0, 9)]] * 60)
    found = columns(made, [0] * 60, [[(1, 9)]] * 60)
    protected = read_protected({"cell": 0.1}, ("rest", "cell"), 0.95, 0.3)
    choice = choose_offset(made.sweep(found, {}, "cell", dense), protected, {"cell": Labels(200, 200)}, 0.05)
    assert choice.threshold == -1.0
    assert choice.misses["cell"] == Evidence(60, 0, 0, 0)
    assert choice.alarms["cell"] == Evidence(60, 60, 0, 0, 60)
    assert made.outcomes(found, {"cell": 1.0}).mistakes(dense).fn == 0


def test_what_is_wrong_is_said() -> None:
    made = task()
    assert made.wrong_targets(()) is made.wrong_scores(()) is None
    assert made.wrong_targets(columns(made, [0], [[(0, 9)]])) is None
    assert "2 samples hold no objects of class 'cell'" in str(
        made.wrong_targets(columns(made, [0, 0], [[], []]))
    )
    mixed = [made.columns([0], [[(0, 9)]], [case]) for case in (1, "ann")]
    joined = tuple(torch.cat(one) for one in zip(*mixed, strict=True))
    assert "numbers and strings" in str(made.wrong_targets(made.numbered(joined, torch.tensor([0, 0, 1, 1]))))
    for flag, words in ((PROBABILITIES, "like probabilities"), (EVERYTHING, "claims all of every sample")):
        odd = task(flag=flag)
        assert words in str(odd.wrong_scores(columns(odd, [0], [[(0, 9)]])))
    assert len(made.outcomes((), {})) == 0
