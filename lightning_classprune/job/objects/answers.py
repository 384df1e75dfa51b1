"""What a network finds in one split, as it is kept, counted and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.matching import box_iou
from lightning_classprune.guard.objects import Found

#: Of `Found`, what two networks on one split have in common, but for names and words.
_SHARED = {
    "sample": np.int32,
    "unit": np.int64,
    "kind": np.int16,
    "box": np.float32,
    "order": np.int32,
}
_WORDS = ("cluster", "noun", "rule")


@dataclass(frozen=True)
class Alarms:
    """The predictions that match no object.

    Attributes:
        sample: `(k,)`: number of the sample in the split.
        label: `(k,)`: the class.
        box: `(k, 4)`: where each is.
    """

    sample: Tensor
    label: Tensor
    box: Tensor

    def of(self, sample: int, label: int) -> Tensor:
        """`(m, 4)`: those of one class in one sample."""
        return self.box[(self.sample == sample) & (self.label == label)]


@dataclass(frozen=True)
class ObjectAnswers:
    """What one network finds in one split.

    Attributes:
        found: Which objects, and how many predictions match none.
        alarms: Where these are.
        others: Class that nobody protects -> how many of its objects are missed, and how many there are.
    """

    found: Found
    alarms: Alarms
    others: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def counted(self) -> dict[str, Any]:
        """What `test.json` says; see `counted`."""
        return counted(self.found)


def counted(found: Found) -> dict[str, Any]:
    """Counts of the protected classes: `support`, `fn` and `fp` are of objects, and of predictions that match none.

    `{"samples", "accuracy": None, "units", "classes": {name: {"support", "fn", "fp", "recall", "units", "units_fn",
    "units_fp"}}}`.
    """
    classes = {}
    for index in sorted(set(found.kind[:, 1].tolist())):
        name = found.names[index]
        misses, alarms = found.pairs(found, name)
        missed, support = misses.cases
        classes[name] = {
            "support": support,
            "fn": missed,
            "fp": alarms.cases[0],
            "recall": (support - missed) / support if support else None,
            "units": misses.support,
            "units_fn": misses.fn,
            "units_fp": alarms.fn,
        }
    return {
        "samples": len(set(found.sample.tolist())),
        "accuracy": None,
        "units": len(set(found.unit.tolist())),
        "classes": classes,
    }


def found_arrays(found: Found) -> dict[str, NDArray[Any]]:
    """All of what a network found but `value`, as arrays; the same for another network on the same split."""
    return {
        **{name: getattr(found, name).numpy().astype(kind) for name, kind in _SHARED.items()},
        **{name: np.array(getattr(found, name)) for name in _WORDS},
        "names": np.array(found.names),
    }


def found_from(arrays: Mapping[str, NDArray[Any]], value: NDArray[Any]) -> Found:
    """What `found_arrays` was of, with what one network decided.

    Raises:
        ValueError, KeyError: They are of something else.
    """
    tensors: dict[str, Any] = {
        name: torch.from_numpy(arrays[name].astype(np.float32 if name == "box" else np.int64))
        for name in _SHARED
    }
    if not all(len(one) == len(value) for one in tensors.values()):
        raise ValueError("its arrays differ in length")
    words: dict[str, Any] = {name: str(arrays[name]) for name in _WORDS}
    names = tuple(str(name) for name in arrays["names"])
    return Found(**tensors, **words, names=names, value=torch.from_numpy(value.astype(np.int64)))


def new_alarms(dense: ObjectAnswers, delivered: ObjectAnswers, sample: int, label: int) -> Tensor:
    """`(m, 4)`: where the delivered network has predictions that match no object, and the dense one has no such.

    Args:
        dense: Of the dense network.
        delivered: Of the delivered one on the same split.
        sample: Number of the sample.
        label: The class.
    """
    now, before = delivered.alarms.of(sample, label), dense.alarms.of(sample, label)
    return now[[not _overlaps(box, before) for box in now]] if len(now) else now


def _overlaps(box: Tensor, others: Tensor) -> bool:
    """Whether a box is one of the others, moved a little: an IoU of at least a half."""
    iou = box_iou(box[None].double().numpy(), others.double().numpy())
    return bool((iou >= 0.5).any())
