"""The gradual mask: cuts inside a round, after optimizer steps, until the mask is that of the round's candidate.

Before its last cut a network is no candidate: what is judged has the density that was promised. So early stopping and
the best checkpoint look only at what comes after, and a round that ends before gives its candidate up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.rounds.clock import RoundClock
from lightning_classprune.rounds.shrinking import Shrinking
from lightning_classprune.trainer.names import named_parameters
from lightning_classprune.trainer.other_callbacks import OtherCallbacks
from lightning_classprune.trainer.snapshots import Tensors


class GradualMask:
    """Shrinks the masks of one run's rounds, where its search does so.

    Args:
        share: Of a round over which its mask shrinks; None where masks are cut between rounds.
        trainer: The running trainer.
        cutter: Chooses, cuts and holds.
        clock: The round's.
        other_callbacks: Averages are cut too; what tracks the best network looks after the last cut.
    """

    def __init__(
        self,
        share: float | None,
        trainer: Any,
        cutter: Cutter,
        clock: RoundClock,
        other_callbacks: OtherCallbacks,
    ) -> None:
        self.share = share or 0.0
        self._trainer = trainer
        self._cutter = cutter
        self._clock = clock
        self._other_callbacks = other_callbacks
        self._shrinking: Shrinking | None = None  # of the round in training, up to its last cut
        self._pruned = 0
        self._last = 0  # the round's optimizer step at the last cut
        self.diverged = False

    @property
    def is_on(self) -> bool:
        """Whether masks shrink inside rounds."""
        return self.share > 0

    @property
    def pruned(self) -> int | None:
        """Units pruned so far, while the mask is not that of the candidate; None otherwise."""
        return None if self._shrinking is None else self._pruned

    @property
    def unfinished(self) -> str | None:
        """Why the network in training is no candidate, if it is none."""
        if self._shrinking is None:
            return None
        if self.diverged:
            return "its training diverged: a weight is NaN"
        shares = [1 - pruned / self._cutter.units.total for pruned in (self._pruned, self._shrinking.end)]
        return "its round ended while the mask was shrinking, at density {:.3g} on the way to {:.3g}".format(
            *shares
        )

    def begin(self, start: int, end: int) -> None:
        """A round begins, whose mask is that of the last accepted network.

        Args:
            start: Units that it prunes.
            end: Units pruned in the round's candidate.
        """
        steps, self.diverged = self._clock.steps_a_round, False
        assert steps is not None, "checked before training"
        self._shrinking = Shrinking.of_round(start, end, self.share, steps, self._cutter.units.total)
        self._pruned, self._last = start, 0

    def stop(self) -> None:
        """The candidate is given up."""
        self._shrinking, self.diverged = None, False

    def cut(self, masks: Masks, origin: Tensors | None, scoring: Callable[[], Scoring]) -> Masks | None:
        """Cut the masks if it is time; weights, averages and what optimizers hold follow. All processes call this.

        Args:
            masks: Of the network in training.
            origin: The tensors that weights are compared with.
            scoring: Gives what the criterion may look at.

        Returns:
            The new masks; None if they are as they were.
        """
        shrinking = self._shrinking
        if shrinking is None or self.diverged:
            return None
        progress, step = self._clock.progress, self._clock.round_step
        uncounted = step == 0 and progress >= shrinking.share
        if not uncounted and not shrinking.is_due(progress, step - self._last):
            return None
        if uncounted:
            rank_zero_warn(
                f"Lightning has counted no optimizer step in {shrinking.share:.0%} of this round, so its mask is cut "
                "once instead of little by little; take steps by Lightning's own optimizers (self.optimizers()), or "
                "use search='adaptive'"
            )
        pruned = shrinking.pruned(progress)
        if pruned > self._pruned:
            # A network that diverged is no reason to end the fit: it is given up at the end of the epoch.
            self.diverged = self._cutter.has_nan()
            if self.diverged:
                return None
            if self._pruned == shrinking.start:
                self._cutter.warn_if_deaf()
            self._cutter.prepare(scoring())
            masks = self._cutter.shrink(masks, pruned, origin)
            self._apply(masks)
        self._pruned, self._last = pruned, step
        if pruned == shrinking.end:
            self._shrinking = None
            self._cutter.require_equal(masks)
            self._other_callbacks.look_anew()
        return masks

    def _apply(self, masks: Masks) -> None:
        self._cutter.tighten(masks, self._trainer.optimizers)
        for average in self._other_callbacks.averaging.models():
            apply_masks(masks, named_parameters(average))

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "shrinking": None if self._shrinking is None else self._shrinking.state_dict(),
            "pruned": self._pruned,
            "last": self._last,
            "diverged": self.diverged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        shrinking = state["shrinking"]
        self._shrinking = None if shrinking is None else Shrinking.from_state_dict(shrinking)
        self._pruned, self._last, self.diverged = state["pruned"], state["last"], state["diverged"]


def check_length_is_known(trainer: Any, length: tuple[int, int]) -> None:
    """Refuse rounds whose length in optimizer steps nobody knows: there is no share of them.

    Args:
        trainer: At the start of training.
        length: Of a round, in epochs and steps, -1 for no limit.

    Raises:
        MisconfigurationException: Says what to set.
    """
    epochs, steps = length
    sized = trainer.num_training_batches != inf
    if (epochs == -1 and steps == -1) or (epochs != -1 and not sized):
        why = "an epoch of this training loader has no length" if epochs != -1 else "its rounds have no limit"
        raise MisconfigurationException(
            f"search='gradual' shrinks the mask over a share of each round, but {why}; set the Trainer's "
            "limit_train_batches to a number, or max_steps without max_epochs, or use search='adaptive'"
        )
