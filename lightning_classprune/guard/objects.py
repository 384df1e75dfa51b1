"""Objects: tasks whose samples hold any number of objects, each of which is found or missed.

A kind of objects reads a batch (`Seen`): which objects there are, which are found, and how many predictions match
none. This file makes columns of that, a row for every object and one for the predictions of a sample that match none,
and outcomes of a whole pass, whose evidence is of units (`units`); the unit is the sample where there are no ids.

An offset moves a threshold over what the network claims, and with it the pieces or the kept boxes. What is decided is
counted at the kind's own steps of it, so that a batch's scores need not be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard import units
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.offset import Counted, counted
from lightning_classprune.guard.task import Columns
from lightning_classprune.guard.units import Cluster, alarm_evidence, unit_evidence

OBJECT, ALARMS = 0, 1
#: Flags of the rows of predictions.
PROBABILITIES, EVERYTHING = 1, 2

Booleans = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """What a kind of objects has to know to read a batch.

    Attributes:
        names: Of all classes.
        protected: Indices of the protected ones, ascending.
        threshold: On scores of one output.
        biases: To add to a class' score before the decision; the first is 0.
    """

    names: tuple[str, ...]
    protected: tuple[int, ...]
    threshold: float
    biases: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """The objects of one protected class in one batch, and the predictions that match none.

    Attributes:
        sample: `(objects,)`: which of the batch each object is in.
        found: `(objects, biases)`: at which bias each is found.
        box: `(objects, 4)`: where each is: x1, y1, x2, y2 in pixels; of a token its place and the next, and 0s.
        area: `(objects,)`: pixels of each; 1 where that says nothing.
        alarms: `(samples, biases)`: how many predictions match none.
        false_area: `(samples, biases)`: pixels of them outside of objects; 0 where that says nothing.
        flags: `(samples,)`: what is strange about the scores of a sample.
    """

    sample: Ints
    found: Booleans
    box: Floats
    area: Ints
    alarms: Ints
    false_area: Ints
    flags: Ints


class Kind(Protocol):
    """A kind of objects, such as the pieces of masks.

    Attributes:
        noun: What objects are called.
        competes: Whether classes compete for what is claimed, so that an offset of one changes the others.
    """

    @property
    def noun(self) -> str: ...  # noqa: D102

    @property
    def competes(self) -> bool: ...  # noqa: D102

    @property
    def in_words(self) -> str:
        """When an object counts as found."""
        ...

    def biases(self) -> tuple[float, ...]:
        """Biases of a class' score at which offsets are tried, without 0."""
        ...

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        """The number of samples in a batch, and what is seen of each protected class.

        Raises:
            ValueError: They make no sense together; names `predict`.
            NaNScoresError: Scores are NaN.
        """
        ...


@dataclass(frozen=True)
class Unmatched:
    """A prediction that matches no object.

    Attributes:
        sample: Of the batch.
        label: Its class.
        box: Where it is: x1, y1, x2, y2 in pixels.
    """

    sample: int
    label: int
    box: tuple[float, float, float, float]


@runtime_checkable
class Outlined(Protocol):
    """A kind that can say where the predictions are that match no object."""

    def unmatched(
        self, scores: Any, target: Any, how: Reading, biases: Mapping[int, float]
    ) -> list[Unmatched]:
        """Those of a batch, of protected classes.

        Args:
            scores: Predictions.
            target: Targets.
            how: What is known of classes.
            biases: To add to the score of a class, by index; none for those not named.
        """
        ...


@dataclass(frozen=True)
class Changes:
    """What a network finds otherwise than the dense one, of one class.

    Attributes:
        lost_sample: `(m,)`: samples of the objects that are newly missed.
        lost_box: `(m, 4)`: where these are.
        won_sample: `(k,)`: samples of those that are newly found.
        won_box: `(k, 4)`: where these are.
        more_alarms: Samples with more predictions that match none.
        unit: Id of the unit by sample.
    """

    lost_sample: Tensor
    lost_box: Tensor
    won_sample: Tensor
    won_box: Tensor
    more_alarms: Tensor
    unit: Mapping[int, int]


@dataclass(frozen=True)
class Found:
    """Which objects a network found, and how many predictions match none; a row an object, and one a sample and class.

    Attributes:
        sample: `(rows,)`: number of the sample in the data.
        unit: `(rows,)`: id of its unit.
        kind: `(rows, 2)`: `OBJECT` or `ALARMS`, and the class.
        value: `(rows,)`: of an object whether it is found, else the number of predictions that match none.
        box: `(rows, 4)`: where the object is.
        order: `(rows,)`: the order in which objects are drawn.
        names: Of all classes.
        cluster: How a unit's objects become its evidence.
        noun: What objects are called.
        rule: When one counts as found.
    """

    sample: Tensor
    unit: Tensor
    kind: Tensor
    value: Tensor
    box: Tensor
    order: Tensor
    names: tuple[str, ...]
    cluster: Cluster
    noun: str
    rule: str

    def __len__(self) -> int:
        return len(self.sample)

    def same_cases(self, other: Found) -> bool:
        """Whether both are of the same objects in the same units."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("sample", "unit", "kind", "box")]
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)

    def same_decisions(self, other: Found) -> bool:
        """Whether both find the same objects, and have as many predictions that match none."""
        return self.same_cases(other) and torch.equal(self.value, other.value)

    def pairs(self, dense: Found, name: str) -> tuple[Evidence, Evidence]:
        """Units whose drawn object is missed, and units with more predictions that match none, against the dense one.

        Raises:
            ValueError: The two are not of the same objects, so pairs would be meaningless.
        """
        self._require_same_cases(dense)
        what, of_class = self.kind[:, 0], self.kind[:, 1] == self.names.index(name)
        misses = dense._missed((what == OBJECT) & of_class, self)
        rows = (what == ALARMS) & of_class
        noun = "unmatched predictions"
        alarms = alarm_evidence(dense.unit[rows], dense.value[rows], self.value[rows], noun, self.rule)
        return misses, alarms

    def mistakes(self, dense: Found) -> Evidence:
        """Missed objects of whatever protected class; as `pairs` otherwise."""
        self._require_same_cases(dense)
        return dense._missed(self.kind[:, 0] == OBJECT, self)

    def _missed(self, cases: Tensor, now: Found) -> Evidence:
        found, later = self.value > 0, now.value > 0
        return unit_evidence(self.cluster, self.unit, cases, found, later, self.order, self.noun, self.rule)

    def remarks(self) -> list[str]:
        """How many units there are."""
        return [f"{len(set(self.unit.tolist()))} units"]

    def changes(self, dense: Found, name: str) -> Changes:
        """Where a class is found otherwise than by the dense network."""
        self._require_same_cases(dense)
        of_class = self.kind[:, 1] == self.names.index(name)
        objects, alarms = (of_class & (self.kind[:, 0] == what) for what in (OBJECT, ALARMS))
        more = self.value - dense.value
        lost, won = objects & (more < 0), objects & (more > 0)
        return Changes(
            self.sample[lost],
            self.box[lost],
            self.sample[won],
            self.box[won],
            self.sample[alarms & (more > 0)],
            dict(zip(self.sample.tolist(), self.unit.tolist(), strict=True)),
        )

    def missed_objects(self, name: str) -> tuple[Tensor, Tensor]:
        """Samples and boxes of the objects of a class, those that are missed: `(m,)` and `(m, 4)`."""
        rows = (self.kind[:, 0] == OBJECT) & (self.kind[:, 1] == self.names.index(name)) & (self.value == 0)
        return self.sample[rows], self.box[rows]

    def _require_same_cases(self, dense: Found) -> None:
        if not self.same_cases(dense):
            raise ValueError(
                "the guard data changed between the dense network and this round: "
                f"{len(dense)} objects and samples then, {len(self)} now, or others"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        return {
            "sample": self.sample.to(torch.int32),
            "unit": self.unit,
            "kind": self.kind.to(torch.int16),
            "value": self.value.to(torch.int32),
            "box": self.box,
            "order": self.order.to(torch.int32),
            "cluster": self.cluster,
        }


class ObjectTask:
    """The task of finding objects.

    Args:
        kind: Reads a batch.
        names: Of all classes.
        protected: Indices of the protected ones.
        threshold: On scores of one output.
        cluster: How a unit's objects become its evidence.
        with_offset: Count also what is decided with biases.
    """

    def __init__(
        self,
        kind: Kind,
        names: Sequence[str],
        protected: Sequence[int],
        threshold: float,
        cluster: Cluster,
        *,
        with_offset: bool,
    ) -> None:
        self.names, self.measure = tuple(names), f"share of {kind.noun} found"
        # Where classes do not compete, predictions have scores of their own, which no layer's bias moves alike.
        self.folds = kind.competes
        self.adding = "DecisionOffset does it" if kind.competes else "subtract it from the score threshold"
        self._kind, self._cluster = kind, cluster
        biases = (0.0, *kind.biases()) if with_offset else (0.0,)
        self.protected = tuple(sorted(protected))
        self._how = Reading(self.names, self.protected, threshold, biases)

    def columns(self, scores: Any, target: Any, case: Any = None) -> Columns:
        """Sample, id and its kind, kind of row and class, values and areas by bias, box, flags."""
        samples, seen = self._kind.read(scores, target, self._how)
        ids = units.read_ids(case, samples)
        parts = [part for index, one in seen.items() for part in _rows(index, one, samples)]
        sample, *others = (torch.cat(column) for column in zip(*parts, strict=True))
        return sample, ids[sample], *others

    def unmatched(self, scores: Any, target: Any, offsets: Mapping[str, float]) -> list[Unmatched]:
        """Where the predictions of a batch are that match no object; none where the kind cannot say.

        Args:
            scores: What `predict` returned first.
            target: What it returned second.
            offsets: Bias to add to a class' score before the decision, by name.
        """
        if not isinstance(self._kind, Outlined):
            return []
        biases = {index: offsets.get(self.names[index], 0.0) for index in self._how.protected}
        return self._kind.unmatched(scores, target, self._how, biases)

    def samples(self, columns: Columns) -> Tensor:
        """Every sample has a row of its predictions."""
        return columns[0]

    def numbered(self, columns: Columns, places: Tensor) -> Columns:
        """Samples are numbered as they come; each is a unit where there are no ids."""
        _, number = np.unique(torch.stack([places, columns[0]], 1).numpy(), axis=0, return_inverse=True)
        sample = torch.from_numpy(number.reshape(-1))
        ids = columns[1].clone()
        without = ids[:, 1] == units.NONE
        ids[without, 0] = sample[without]
        return sample, ids, *columns[2:]

    def ids(self, columns: Columns) -> Tensor | None:
        """Those that `predict` gave."""
        if not columns or bool((columns[1][:, 1] == units.NONE).all()):
            return None
        return columns[1]

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Found:
        """What is found with biases that were counted.

        Raises:
            ValueError: A bias that was not.
        """
        if not columns:
            none = torch.zeros(0, dtype=torch.int64)
            return self._found((none, none, none.reshape(0, 2), none, torch.zeros(0, 4), none), self._cluster)
        sample, ids, kind, values, areas, box, _ = columns
        value = torch.zeros(len(sample), dtype=torch.int64)
        for index in self._how.protected:
            at = self._at(offsets.get(self.names[index], 0.0))
            of_class = kind[:, 1] == index
            objects, alarms = of_class & (kind[:, 0] == OBJECT), of_class & (kind[:, 0] == ALARMS)
            value[objects] = values[objects, at].long()
            value[alarms] = values[alarms, at].long()
            if bool(objects.any()):
                # One piece that covers everything must not count as one false alarm.
                typical = max(int(areas[objects, 0].median()), 1)
                value[alarms] = torch.maximum(value[alarms], areas[alarms, at].long() // typical)
        order = units.draw(len(sample))
        return self._found((sample, ids[:, 0], kind.long(), value, box, order), self._cluster)

    def _at(self, bias: float) -> int:
        for place, known in enumerate(self._how.biases):
            if isclose(bias, known, abs_tol=1e-9):
                return place
        raise ValueError(f"an offset of {bias!r} was not counted; these were: {self._how.biases}")

    def _found(self, tensors: Columns, cluster: Cluster) -> Found:
        sample, unit, kind, value, box, order = tensors
        noun, rule = self._kind.noun, self._kind.in_words
        return Found(sample, unit, kind, value, box, order, self.names, cluster, noun, rule)

    def sweep(self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Found) -> Counted:
        """What is found at every bias."""
        tried = np.sort(-np.array(self._how.biases, dtype=np.float64))
        return counted(
            tried,
            lambda threshold: self.outcomes(columns, {**offsets, name: -threshold}),
            dense,
            [self.names[i] for i in self._how.protected],
        )

    def wrong_targets(self, columns: Columns) -> str | None:
        """Whether ids of units are alike, and there are objects."""
        if not columns:
            return None
        if wrong := units.wrong_ids(columns[1][:, 1]):
            return wrong
        there = set(columns[2][columns[2][:, 0] == OBJECT][:, 1].tolist())
        empty = [self.names[index] for index in self._how.protected if index not in there]
        if not empty:
            return None
        samples = len(set(columns[0].tolist()))
        return (
            f"{samples} samples hold no {self._kind.noun} of class {empty[0]!r}, so nothing of it can be judged; give "
            "data that hold some, or protect another class"
        )

    def wrong_scores(self, columns: Columns) -> str | None:
        """Whether scores of one output are probabilities, or everything is claimed everywhere."""
        if not columns:
            return None
        flags = columns[6][columns[2][:, 0] == ALARMS]
        if len(flags) and bool((flags & PROBABILITIES).all()):
            return (
                f"all scores lie between 0 and 1, like probabilities, and threshold={self._how.threshold:g} does not; "
                "give threshold=0.5, or let predict return raw scores (before the sigmoid)"
            )
        for index in self._how.protected:
            mine = columns[6][(columns[2][:, 0] == ALARMS) & (columns[2][:, 1] == index)]
            if len(mine) and bool((mine & EVERYTHING).all()):
                return (
                    f"the network claims all of every sample for class {self.names[index]!r}, so it cannot get worse "
                    "at finding it"
                )
        return None

    def exclusive(self, columns: Columns) -> bool:
        """As the kind says."""
        return self._kind.competes

    def restored(self, state: Mapping[str, Any]) -> Found:
        """The outcomes whose `state_dict` this is."""
        names = ("sample", "unit", "kind", "value")
        whole = tuple(state[name].long() for name in names)
        return self._found((*whole, state["box"], state["order"].long()), state["cluster"])


def _rows(index: int, seen: Seen, samples: int) -> list[tuple[Tensor, ...]]:
    """The rows of objects and those of predictions, as columns without ids."""
    biases = seen.alarms.shape[1]

    def columns(what: int, sample: Any, values: Any, areas: Any, box: Any, flags: Any) -> tuple[Tensor, ...]:
        rows = len(sample)
        kind = torch.tensor([what, index], dtype=torch.int64).expand(rows, 2)
        arrays = (sample, values.astype(np.int32), areas.astype(np.int32), box, flags)
        sample, values, areas, box, flags = (torch.from_numpy(np.ascontiguousarray(one)) for one in arrays)
        return sample.long(), kind, values, areas, box.float(), flags.long()

    areas = np.repeat(seen.area[:, None], biases, 1)
    nowhere, none = np.zeros((samples, 4), np.float32), np.zeros(len(seen.sample), np.int64)
    return [
        columns(OBJECT, seen.sample, seen.found, areas, seen.box, none),
        columns(ALARMS, np.arange(samples), seen.alarms, seen.false_area, nowhere, seen.flags),
    ]
