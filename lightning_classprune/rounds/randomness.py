"""What a round draws: the same as a fresh run under its seed, and after an interruption what was still to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import (
    base_seed,
    loader_generators,
    random_state,
    seed_process,
    set_random_state,
)
from lightning_classprune.trainer.versions import makes_iterator


class RoundRandomness:
    """The seed of a run, and all that draws in its rounds: global generators, those of loaders, samplers by epoch.

    Args:
        trainer: Before the fit.
        processes: Each has its own generators; all have one seed.

    Attributes:
        seed: Below 2**32.
    """

    def __init__(self, trainer: Any, processes: Processes) -> None:
        self._trainer = trainer
        self._processes = processes
        self.seed = base_seed()
        self._saved: dict[str, Any] | None = None

    def agree(self) -> None:
        """Without `seed_everything` every process draws its own seed; a round has one. All processes call this."""
        self.seed = self._processes.first(self.seed)

    def start_round(self) -> None:
        """Seed everything as a fresh run does."""
        seed_process(self.seed)
        for generator in self._generators():
            generator.manual_seed(generator.initial_seed())

    def go_on(self) -> bool:
        """Put back the state of a checkpoint that is resumed; whether there is one, before the first batch."""
        if self._saved is None:
            return False
        set_random_state(self._saved["state"])
        for generator, state in zip(self._generators(), self._saved["generators"], strict=False):
            generator.set_state(state)
        return True

    def gone_on(self) -> None:
        """A batch is trained, or the epoch ends: what the checkpoint had is used up."""
        self._saved = None

    def tell_samplers(self, epoch: int) -> None:
        """Samplers that shuffle by epoch get this one, where Lightning gives them the loop's."""
        loaders = self._trainer.fit_loop._combined_loader.flattened
        batch_samplers = [getattr(loader, "batch_sampler", None) for loader in loaders]
        samplers: list[Any] = [getattr(owner, "sampler", None) for owner in (*loaders, *batch_samplers)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def renew_iterator(self) -> None:
        """Let the epoch about to start draw its order now; Lightning may have made its iterator before."""
        if not makes_iterator(self._trainer):
            iter(self._trainer.fit_loop._data_fetcher)

    def _generators(self) -> list[torch.Generator]:
        loader = self._trainer.fit_loop._combined_loader
        return loader_generators(loader.flattened) if loader is not None else []

    def state_dict(self) -> dict[str, Any]:
        """The seed and the state of every process; all processes call this."""
        mine = {"state": random_state(), "generators": [g.get_state() for g in self._generators()]}
        return {"seed": self.seed, "random": self._processes.gather_objects(mine)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what `state_dict` returned for `go_on`; of another number of processes only the seed."""
        self.seed = state["seed"]
        if len(state["random"]) == self._processes.world_size:
            self._saved = state["random"][self._processes.rank]
        else:
            rank_zero_warn(
                f"the checkpoint was written by {len(state['random'])} processes and is resumed by "
                f"{self._processes.world_size}: the run goes on correctly, but not bit for bit as it would have"
            )
