"""Tasks: what it means that a case was found; one file for each kind of task implements them.

A task turns what `predict` returns for a batch into columns, and the columns of a whole pass into outcomes. A row is a
sample; of samples that hold several cases, such as the objects of an image, they are several. What is judged, searched
and shown knows outcomes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.offset import Counted, Sweep

#: Of a batch, or of a pass: tensors of one length, on the CPU after a pass; none where there was no batch.
Columns = tuple[Tensor, ...]


class Outcomes(Protocol):
    """What a network decided about cases, always the same ones in the same order."""

    def __len__(self) -> int:
        """Number of cases."""
        ...

    def same_cases(self, other: Any) -> bool:
        """Whether another network's outcomes are of the same cases, so that they can be paired."""
        ...

    def same_decisions(self, other: Any) -> bool:
        """Whether another network decides every case alike."""
        ...

    def pairs(self, dense: Any, name: str) -> tuple[Evidence, Evidence]:
        """Paired counts of one class against the dense network's outcomes: its misses, and its false alarms.

        Args:
            dense: Outcomes of the same cases. The network's own give its plain counts.
            name: The class.
        """
        ...

    def mistakes(self, dense: Any) -> Evidence:
        """Paired counts of wrong decisions of whatever class."""
        ...

    def remarks(self) -> list[str]:
        """What a reader should know of such a network whatever class is protected."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        ...


class Task(Protocol):
    """A kind of task.

    Attributes:
        names: What may be protected.
    """

    names: tuple[str, ...]

    def columns(self, scores: Any, target: Any, case: Any = None) -> Columns:
        """What a batch says.

        Args:
            scores: What `predict` returned first.
            target: What it returned second.
            case: `(n,)` ids of the independent unit that each sample belongs to; None where it is a unit of its own.

        Raises:
            ValueError: They make no sense together; names `predict`.
            NaNScoresError: Scores are NaN.
        """
        ...

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Outcomes:
        """The decisions.

        Args:
            columns: Of a whole pass.
            offsets: Bias to add to a class' score before the decision, by name; none for those not named.
        """
        ...

    def sweep(self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Any) -> Sweep | Counted:
        """What is decided as the offset of one class moves: its bias is minus the sweep's threshold.

        Args:
            columns: Of a whole pass over validation data.
            offsets: Of the other classes.
            name: The class.
            dense: The dense network's outcomes on the same cases.
        """
        ...

    def wrong_targets(self, columns: Columns) -> str | None:
        """Why the targets are those of another task, and the mend; None if they are not."""
        ...

    def wrong_scores(self, columns: Columns) -> str | None:
        """Why no decision can be made of the scores, whatever network they are of, and the mend; None if it can."""
        ...

    def exclusive(self, columns: Columns) -> bool:
        """Whether a case belongs to one class only, so that classes compete for it."""
        ...

    def restored(self, state: Mapping[str, Any]) -> Outcomes:
        """The outcomes whose `state_dict` this is."""
        ...


@runtime_checkable
class OfUnits(Task, Protocol):
    """A task whose samples belong to units, or hold several cases each.

    Attributes:
        measure: What the share of right decisions of whatever class is called.
        adding: How an offset that no bias of the network takes is added.
        folds: Whether the bias of a layer might take one.
    """

    measure: str
    adding: str
    folds: bool

    def samples(self, columns: Columns) -> Tensor | None:
        """Which sample of the batch each row is of, of every sample one at least; None: every row is a sample.

        Args:
            columns: Of one batch.
        """
        ...

    def numbered(self, columns: Columns, places: Tensor) -> Columns:
        """The columns of a whole pass, in the order of the data, in which every row knows its sample.

        Args:
            columns: Of a whole pass.
            places: `(rows,)`: where the sample of each row stands in the data, or the batch that it is in.
        """
        ...

    def ids(self, columns: Columns) -> Tensor | None:
        """`(rows, 2)`: the ids of units that `predict` gave, and of what kind; None if it gave none.

        Args:
            columns: Of a whole pass.
        """
        ...


class NaNScoresError(ValueError):
    """Scores are not numbers: a network that has diverged."""
