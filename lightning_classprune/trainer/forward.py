"""Forward: a batch as Lightning would show it to the network, outside of its own loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from lightning_classprune.trainer.batches import part, reading
from lightning_classprune.trainer.eval_mode import in_eval_mode
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import seed_process, untouched_randomness
from lightning_classprune.trainer.sharding import reshard

#: `(pl_module, batch) -> (scores, target)`, or `(scores, target, case)` with the id of each sample's unit.
Predict: TypeAlias = Callable[[Any, Any], Any]


@runtime_checkable
class PreparedPredict(Protocol):
    """A `predict` function that is fitted to the network before every pass over guard or validation data."""

    @property
    def loaders(self) -> list[Any]:
        """The loaders of what it is fitted on."""
        ...

    def know(self, class_names: Sequence[str]) -> None:
        """Learn which classes there are."""
        ...

    def prepare(self, trainer: Any, pl_module: Any) -> None:
        """Fit it to the network as it is, in eval mode."""
        ...

    def fitted(self) -> dict[str, Tensor]:
        """What was fitted, by name."""
        ...

    def restore(self, fitted: Mapping[str, Tensor]) -> None:
        """Take that for what is fitted."""
        ...


def prepare(predict: Predict, trainer: Any, pl_module: Any, processes: Processes) -> None:
    """Fit what is to be fitted to a network before a pass, alike on all processes; all of them call this.

    Raises:
        Exception: Whatever it raised, on all ranks.
    """
    if not isinstance(predict, PreparedPredict):
        return
    error: Exception | None = None
    try:
        with as_in_validation(trainer, pl_module):
            predict.prepare(trainer, pl_module)
    except Exception as caught:
        error = caught
    processes.raise_together(error)
    if processes.world_size > 1:
        predict.restore(processes.first(predict.fitted()))


@contextmanager
def as_in_validation(trainer: Any, pl_module: Any, seed: int = 0) -> Iterator[None]:
    """Evaluation mode; everything is put back afterwards.

    The random state is fixed inside, so that a data set with random transforms yields the same samples each time.
    """
    stage = trainer.state.stage
    trainer.validating = True  # `on_after_batch_transfer` commonly augments only while training
    try:
        with in_eval_mode(pl_module), untouched_randomness():
            seed_process(seed)
            yield
    finally:
        reshard(pl_module)
        trainer.state.stage = stage


def predicted(trainer: Any, pl_module: Any, predict: Predict, batch: Any) -> tuple[Any, ...]:
    """Scores and target of a batch that a loader gave, and case ids where `predict` returns them.

    Raises:
        ValueError: `predict` returned something else.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch)
    # Samples are made outside, as Lightning makes them: half precision is for the network, not for the data set.
    with trainer.precision_plugin.forward_context():
        return scores_and_target(predict(pl_module, batch))


def scores_and_target(returned: Any) -> tuple[Any, ...]:
    """What a `predict` function returned, as the pair that it has to be, or with case ids as the third.

    Raises:
        ValueError: It is something else.
    """
    if not (isinstance(returned, tuple | list) and len(returned) in (2, 3)):
        raise ValueError(
            f"predict must return (scores, target), got {type(returned).__name__}; or (scores, target, case), with the "
            "id of each sample's unit"
        )
    return tuple(returned)


def default_predict(pl_module: Any, batch: Any) -> tuple[Any, Any]:
    """What the module says of a batch's input, and its target, where `batches.reading` finds them.

    Scores are what `forward` returns, or its `.logits`.

    Raises:
        UnreadableBatchError: They are not found.
    """
    found = reading(batch)
    scores = pl_module(part(batch, found.input))
    if not isinstance(scores, Tensor):
        scores = (
            scores.get("logits", scores) if isinstance(scores, Mapping) else getattr(scores, "logits", scores)
        )
    return scores, part(batch, found.target)
