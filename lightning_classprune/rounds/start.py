"""The start of a round: which moment of round 0 is kept for it, and how weights and training state go back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_classprune.rounds.clock import RoundClock
from lightning_classprune.rounds.rewind import (
    RewindPoint,
    check_point_file,
    hold_schedulers,
    load_point,
    release_schedulers,
    save_point,
    write_point,
)
from lightning_classprune.rounds.settings import Settings
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.horizon import Limits, remaining_after
from lightning_classprune.trainer.randomness import untouched_randomness
from lightning_classprune.trainer.sharding import Sharding, laid_out
from lightning_classprune.trainer.snapshots import (
    Tensors,
    TrainingState,
    capture_tensors,
    capture_training,
    copy_state,
    restore_tensors,
    restore_trainable,
    restore_training,
)


class RoundStart:
    """What rounds after round 0 start from.

    Args:
        settings: To which point they go back, what else needs it, and their length.
        trainer: Set up, with its training state that of a fresh run still.
        module: The network.
        clock: The round's.
        sharding: That of the module.

    Attributes:
        fresh: Training state of a fresh run.
        point: The rewind point, once it was passed.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        module: nn.Module,
        clock: RoundClock,
        sharding: Sharding,
    ) -> None:
        self._rewind = settings.search.point
        self._scored_by = settings.criterion.compares
        self._length = settings.search.length(clock.user.max_epochs, clock.user.max_steps)
        self._trainer = trainer
        self._module = module
        self._clock = clock
        self._sharding = sharding
        self._file = settings.files.rewind_file
        self.fresh = capture_training(trainer)
        self.point: RewindPoint | None = None
        # What checkpoints hold: the point, put together once, or where its own file is.
        self._saved: dict[str, Any] | None = None

    @property
    def origin(self) -> Tensors | None:
        """The tensors at the rewind point, by which weights are scored; None if none is kept."""
        return self.point.tensors if self.point is not None else None

    @property
    def missed(self) -> bool:
        """Whether a point is needed to rewind to, and there is none."""
        return self.point is None and not self._rewind.keeps_weights

    @property
    def length(self) -> tuple[int, int]:
        """Epochs and steps of a round after round 0, -1 for no limit."""
        user = self._clock.user
        if self._length is not None:
            return self._length
        if self._rewind.keeps_weights or self.point is None:
            return user.max_epochs, user.max_steps
        return self.point.length

    def begin(self) -> None:
        """The run begins: other callbacks may have found a learning rate since the trainer was set up."""
        self.fresh = capture_training(self._trainer)

    def rehearse(self) -> None:
        """Go back once while there is nothing to lose; all is left as it was found.

        Raises:
            MisconfigurationException: Optimizers or schedulers cannot be put back, or made for the rounds' length.
            ValueError: The rewind point cannot have the file that it is to have.
        """
        if (file := self._file) is not None:
            self._sharding.processes.on_first(lambda: check_point_file(file))
        state = capture_training(self._trainer)
        try:
            with untouched_randomness():
                if self._length is None:
                    restore_training(self._trainer, state)
                else:
                    self._rehearse_rebuilding(state, self._length)
        except Exception as error:
            raise MisconfigurationException(
                "a pruned round could not begin: "
                + (
                    "its optimizers and schedulers go back by their own state_dict() and load_state_dict(state)"
                    if self._length is None
                    else f"configure_optimizers is asked anew for its length, {_told(self._length)}"
                )
                + f", which fails with {type(error).__name__}: {error}; "
                + (
                    "give them these two methods"
                    if self._length is None
                    else "let it serve any max_epochs and max_steps, or give another length (round_epochs=...)"
                )
            ) from error

    def _rehearse_rebuilding(self, state: TrainingState, length: tuple[int, int]) -> None:
        strategy, module = self._trainer.strategy, self._trainer.lightning_module
        made, attributes = (strategy.optimizers, strategy.lr_scheduler_configs), dict(vars(module))
        try:
            self._rebuild(state, length)
        finally:
            strategy.optimizers, strategy.lr_scheduler_configs = made
            # A module may hold on to what its `configure_optimizers` made last.
            vars(module).clear()
            vars(module).update(attributes)

    # -- keeping the point --

    def at_start(self, foreign_epochs: int | None) -> None:
        """Round 0 begins: keep this moment if rounds rewind to it or weights are scored by it.

        Args:
            foreign_epochs: Epochs of round 0 behind a checkpoint without our state, which a round does not repeat.
        """
        rewind, user = self._rewind, self._clock.user
        to_start = rewind.kind == "init" or (rewind.kind in ("epoch", "step") and rewind.at == 0)
        scored_by = rewind.keeps_weights and self._scored_by
        if not (to_start or scored_by):
            return
        epochs, steps = user.max_epochs, user.max_steps
        if foreign_epochs is not None:
            epochs = epochs - foreign_epochs if epochs != -1 else -1
            steps = steps - self._trainer.global_step if steps != -1 else -1
        self._keep((epochs, steps))

    def at_epoch(self) -> None:
        """An epoch of round 0 begins: the point may be `epoch:K`."""
        self._keep_if("epoch", self._clock.round_epoch, self._clock.round_epoch)

    def at_step(self) -> None:
        """A batch of round 0 begins: the point may be `step:K`."""
        self._keep_if("step", self._clock.round_step, 0)

    def _keep_if(self, kind: str, here: int, epoch: int) -> None:
        rewind, step = self._rewind, self._clock.round_step
        if rewind.kind == kind and rewind.at == here and self.point is None:
            whole = kind == "epoch"
            self._keep(remaining_after(self._trainer, self._clock.user, epoch, step, whole_epochs=whole))

    def _keep(self, length: tuple[int, int]) -> None:
        self._saved = None
        self.point = RewindPoint(capture_tensors(self._module), capture_training(self._trainer), length)
        if self._file is not None:
            saved = save_point(self.point, self._sharding)
            self._saved = write_point(saved, self._file, self._sharding.processes)

    # -- going back --

    def go_back(self, accepted: Ticket, *, with_weights: bool = True) -> None:
        """Rewind weights and training state, by kind; where weights are kept, the module has the accepted ones.

        Args:
            accepted: The last accepted network.
            with_weights: Otherwise the module keeps its weights whatever the kind.
        """
        kind = self._rewind.kind
        if kind == "none":
            assert accepted.training is not None
            release_schedulers(self._trainer)
            restore_training(self._trainer, accepted.training)
            hold_schedulers(self._trainer)
            if all(group["lr"] == 0 for o in self._trainer.optimizers for group in o.param_groups):
                rank_zero_warn(
                    "rewind='none' holds the learning rate at its final value, which is 0: nothing will train"
                )
        elif kind == "lr":
            self._restart_training(self.fresh)
        else:
            assert self.point is not None
            assert self.point.training is not None
            if with_weights:
                restore_tensors(self._module, self.point.tensors)
            self._restart_training(self.point.training)

    def _restart_training(self, state: TrainingState) -> None:
        if self._length is None:
            restore_training(self._trainer, state)
        else:
            self._rebuild(state, self._length)

    def before_loading(self) -> None:
        """A checkpoint of a later round is loaded next: its schedules were made for that round's length."""
        if self._length is None:
            return
        # A sharded model's optimizers were loaded with its weights, before anyone knew of what round.
        loaded = [copy_state(o.state_dict()) if o.state else None for o in self._trainer.optimizers]
        self._rebuild(self.fresh, self._length)
        for optimizer, state in zip(self._trainer.optimizers, loaded, strict=True):
            if state is not None:
                optimizer.load_state_dict(laid_out(state, self._module))

    def after_loading(self) -> None:
        """A checkpoint of a later round was loaded, from the middle of that round."""
        if self._rewind.kind == "none":
            hold_schedulers(self._trainer)

    def _rebuild(self, state: TrainingState, length: tuple[int, int]) -> None:
        rebuild_training(self._trainer, state, self._clock.user, length)

    # -- saving --

    def state_dict(self) -> dict[str, Any] | None:
        """The rewind point as plain dicts, or the name and SHA-256 of its file."""
        if self.point is None:
            return None
        if self._saved is None:
            self._saved = save_point(self.point, self._sharding)
        return self._saved

    def saved_fresh(self) -> dict[str, Any]:
        """The training state of a fresh run as plain dicts."""
        saved: dict[str, Any] = self._sharding.saved_state(self.fresh)
        return saved

    def load_state_dict(self, state: Mapping[str, Any] | None, fresh: Mapping[str, Any] | None) -> None:
        """Take back what `state_dict` and `saved_fresh` returned; without the latter nothing is trained any more."""
        self.point = load_point(state, self._sharding)
        self._saved = dict(state) if state is not None and "file" in state else None
        if fresh is None:
            return
        made, began = _rates(self.fresh), _rates(fresh)
        if made != began and self._length is not None:
            rank_zero_warn(
                f"the run began with learning rates {began}, and this module's optimizers begin with {made}, by which "
                "the rounds that follow will train; give the module the rate that the run began with"
            )
        self.fresh = self._sharding.loaded_state(fresh)


def _told(length: tuple[int, int]) -> str:
    named = zip(length, ("epochs", "steps"), strict=True)
    return " and ".join(f"{number} {what}" for number, what in named if number != -1)


def _rates(state: Mapping[str, Any]) -> list[float]:
    """The learning rate of every parameter group."""
    return [float(group["lr"]) for o in state["optimizers"] for group in o["param_groups"] if "lr" in group]


def rebuild_training(trainer: Any, fresh: TrainingState, user: Limits, length: tuple[int, int]) -> None:
    """Make optimizers and schedulers anew, as a fresh Trainer(max_epochs=..., max_steps=...) of that length would.

    The module's `configure_optimizers` sees the round's length in `max_epochs`, `max_steps` and
    `estimated_stepping_batches`; the limits of the loop are left as they were found. A schedule in fixed epochs or
    steps is not stretched by this.

    Args:
        trainer: The running trainer.
        fresh: Training state at the start of round 0: what is frozen, and the precision plugin's.
        user: The user's limits.
        length: Of the round in epochs and steps, -1 for no limit.
    """
    restore_trainable(trainer.lightning_module, fresh["trainable"])
    present = Limits.of(trainer)
    epochs, steps = length
    replace(user, max_epochs=epochs, max_steps=steps).apply(trainer)
    try:
        trainer.strategy.setup_optimizers(trainer)
    finally:
        present.apply(trainer)
    if fresh["precision"]:
        trainer.precision_plugin.load_state_dict(copy_state(fresh["precision"]))
