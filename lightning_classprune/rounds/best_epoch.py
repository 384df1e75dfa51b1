"""The best epoch: of a round the network of that epoch which the user's own monitor calls best, instead of the last.

An epoch counts if validation has run at its end, so that what is logged is of the network that it left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_classprune.trainer.metrics import publish
from lightning_classprune.trainer.monitor import Monitor
from lightning_classprune.trainer.other_callbacks import Averaging
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding, reshard
from lightning_classprune.trainer.snapshots import Tensors, TrainingState, restore_tensors, restore_training


@dataclass(frozen=True)
class Epoch:
    """The network of one epoch, as it would be judged.

    Attributes:
        number: Of the epoch in its round, from 1.
        score: What the monitor said.
        tensors: Its parameters and buffers.
        training: The state of what trained it; None where nobody goes on from it.
    """

    number: int
    score: float
    tensors: Tensors
    training: TrainingState | None


@dataclass
class BestEpoch:
    """The best epoch so far of the round in training.

    Attributes:
        monitor: The user's.
        trainer: The running trainer.
        processes: All of them take the first one's score.
        best: None before there is one.
        validated: Optimizer steps of the trainer when validation ran last, -1 before.
    """

    monitor: Monitor
    trainer: Any
    processes: Processes
    best: Epoch | None = None
    validated: int = -1

    def reset(self) -> None:
        """A round begins."""
        self.best, self.validated = None, -1

    def has_validated(self) -> None:
        """Validation has run."""
        self.validated = self.trainer.global_step

    def look(self, number: int, capture: Callable[[], tuple[Tensors, TrainingState | None]]) -> None:
        """An epoch has ended; all processes call this.

        Args:
            number: Of the epoch in its round, from 1.
            capture: Gives its network and the state of what trained it.
        """
        score = self.processes.first(self.monitor.score(self.trainer))
        is_fresh = self.validated == self.trainer.global_step or not self.trainer.enable_validation
        if score is None or not is_fresh:
            return
        if self.monitor.is_better(score, None if self.best is None else self.best.score):
            self.best = Epoch(number, score, *capture())

    def become_candidate(self, module: Any, averaging: Averaging, number: int, last: int) -> None:
        """The round is over: its best epoch is its candidate, for whoever saves and judges from here on.

        Args:
            module: In training; takes the best epoch's tensors, where there is one.
            averaging: Its average, which starts from them.
            number: Of the round.
            last: Epochs that the round had.
        """
        epoch = self.best
        self.reset()
        if epoch is None:
            if last:
                rank_zero_warn(
                    f"Guard.epoch='best': {self.monitor.name} was logged at the end of no epoch of round "
                    f"{number} that counts, so its last one is judged; validate at the end of epochs"
                )
            return
        reshard(module)
        restore_tensors(module, epoch.tensors)
        averaging.restart(module)
        if epoch.training is not None:
            restore_training(self.trainer, epoch.training)
        publish(self.trainer, {self.monitor.name: epoch.score})
        rank_zero_info(
            f"round {number}: epoch {epoch.number} of {last} is its candidate, the best by "
            f"{self.monitor.name} ({epoch.score:.4g})"
        )

    def state_dict(self, sharding: Sharding) -> dict[str, Any]:
        """Plain dicts of tensors and primitives; all processes call this."""
        best = self.best and {
            "number": self.best.number,
            "score": self.best.score,
            "tensors": sharding.saved(self.best.tensors),
            "training": sharding.saved_state(self.best.training),
        }
        return {"best": best, "validated": self.validated}

    def load_state_dict(self, state: Mapping[str, Any], sharding: Sharding) -> None:
        """Take back what `state_dict` returned."""
        self.validated, best = state["validated"], state["best"]
        self.best = best and Epoch(
            best["number"],
            best["score"],
            sharding.pieces(best["tensors"]),
            sharding.loaded_state(best["training"]),
        )
