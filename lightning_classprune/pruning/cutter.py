"""Cutting: what of a network is pruned, by which scores, and how it is taken from the weights and stays away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_classprune.pruning.criteria import Criterion
from lightning_classprune.pruning.enforcement import Enforcement
from lightning_classprune.pruning.granularities import find_units
from lightning_classprune.pruning.masks import Masks, apply_masks, at, digest, full_masks
from lightning_classprune.pruning.options import Cut
from lightning_classprune.pruning.parameters import Prunable, select_parameters
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.pruning.units import Parameters, Surroundings, Units
from lightning_classprune.trainer.gradients import upcoming_gradients
from lightning_classprune.trainer.names import named_parameters
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import untouched_randomness
from lightning_classprune.trainer.sharding import Sharding, local, reshard
from lightning_classprune.trainer.snapshots import Tensors, restore_tensors
from lightning_classprune.trainer.versions import of_type


class Cutter:
    """Cuts one network; the masks are its caller's.

    Args:
        module: The network.
        units: What is cut.
        criterion: The scores whose smallest are cut.
        sharding: How the parameters are spread over the processes; masks are wholes.
    """

    def __init__(self, module: nn.Module, units: Units, criterion: Criterion, sharding: Sharding) -> None:
        self.module = module
        self.units = units
        self.sharding = sharding
        self.criterion = criterion
        self._enforcement = Enforcement()
        self._names = {id(parameter): name for name, parameter in units.parameters.items()}
        self._accepted: dict[str, Any] | None = None  # the state that the accepted network's training left

    @classmethod
    def find(
        cls,
        cut: Cut,
        criterion: Criterion,
        trainer: Any,
        module: nn.Module,
        processes: Processes,
        *,
        frozen: bool,
    ) -> Cutter:
        """Look for what can be cut in a module that is set up for training; all processes call this.

        Args:
            cut: What is pruned.
            criterion: That of the cut.
            trainer: The running trainer.
            module: The network.
            processes: Of the job.
            frozen: Parameters that do not train yet count too.

        Raises:
            MisconfigurationException: Nothing can be cut so, or the model is laid out in an unknown way.
        """
        parameters = find_parameters(module, cut.prunable, frozen=frozen)
        sharding = find_sharding(trainer, module, processes)
        here = Surroundings(trainer, module, parameters, cut.scope, sharding, criterion.by_layer)
        units = find_units(cut.granularity, here)
        return cls(module, units, criterion, sharding)

    def sparsity(self, masks: Masks) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.units.pruned(masks) / self.units.total

    # -- a criterion that listens: its state belongs to one training --

    def observe(self, trainer: Any, optimizer: Optimizer) -> None:
        """Let the criterion hear the gradients that an optimizer is about to use."""
        if gradients := upcoming_gradients(trainer, optimizer, self._names, self.criterion.places):
            self.criterion.observe(gradients)

    def commit(self) -> None:
        """The network in training is the accepted one: keep what was heard of it, and hear no more of it."""
        if self.criterion.listens:
            self._accepted = self.criterion.state_dict()
            self.criterion.restart()

    def go_back(self) -> None:
        """The accepted network is cut next: let the criterion know what it heard of that one."""
        if self.criterion.listens:
            self.criterion.load_state_dict(self._accepted)
        self.warn_if_deaf()

    def warn_if_deaf(self) -> None:
        """Say that a criterion that is about to score was to listen, and has heard nothing."""
        if self.criterion.is_deaf:
            rank_zero_warn(
                "the criterion has seen no gradient of the prunable weights in this round, so it scores them by their "
                "size alone; take optimizer steps by Lightning's own optimizers (self.optimizers()), or use "
                "criterion='magnitude'"
            )

    def listen_anew(self) -> None:
        """A round begins to train."""
        if self.criterion.listens:
            self.criterion.restart()

    def state_dict(self) -> dict[str, Any]:
        """The state of the criterion, in wholes; all processes call this."""
        save = self.sharding.saved
        return {
            "criterion": by_parameter(self.criterion.state_dict(), save),
            "criterion_accepted": by_parameter(self._accepted, save),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; without a state, the first one."""
        cut = self.sharding.pieces
        self._accepted = by_parameter(saved["criterion_accepted"], cut)
        if saved["criterion"] is None:
            self.criterion.restart()
        else:
            self.criterion.load_state_dict(by_parameter(saved["criterion"], cut))

    # -- a cut --

    def has_nan(self) -> bool:
        """Whether a weight is NaN; all processes call this."""
        weights = [local(parameter).detach() for parameter in self.units.parameters.values()]
        # A sum of squares is NaN where one of them is, and nowhere else.
        mine = any(bool(norm.isnan()) for norm in torch._foreach_norm(weights, 2))
        return self.sharding.processes.any(mine)

    def placed(self, masks: Masks) -> Masks:
        """Masks where they are worked with: beside their weights; of sharded ones on the CPU."""
        if self.sharding:
            return masks
        return {name: mask.to(self.units.parameters[name].device) for name, mask in masks.items()}

    def prepare(self, scoring: Scoring) -> None:
        """Let the criterion look; all processes call this.

        Raises:
            Exception: Whatever it raised, on all processes.
        """
        error: Exception | None = None
        try:
            self.criterion.prepare(scoring)
        except Exception as caught:
            error = caught
        self.sharding.processes.raise_together(error)

    def shrink(self, masks: Masks, pruned: int, origin: Tensors | None) -> Masks:
        """Masks that prune so many units, chosen by the weights that the module holds.

        Args:
            masks: What is pruned already.
            pruned: Number of units.
            origin: The tensors that weights are compared with; None for the weights themselves.
        """
        kind = _PointwiseScores if self.criterion.is_pointwise else _Scores
        return self.units.shrink(masks, kind(self.criterion, self.units.parameters, origin), pruned)

    def require_equal(self, masks: Masks) -> None:
        """Check that all processes hold the same masks.

        Raises:
            RuntimeError: They do not, which would train different networks.
        """
        digests = self.sharding.processes.gather_objects(digest(masks))
        if len(set(digests)) > 1:
            raise RuntimeError(
                f"masks differ between processes: {digests}; a criterion must be deterministic and equal on all ranks"
            )

    def try_on(self, tensors: Tensors, masks: Masks, pruned: int, origin: Tensors | None) -> None:
        """Put a captured network, cut further, into the module; the generators are left as they were.

        Args:
            tensors: Of the network.
            masks: What is pruned in it, as the other arguments for `shrink`.
            pruned: Number of units.
            origin: What weights are compared with.
        """
        restore_tensors(self.module, tensors)
        with untouched_randomness():
            tried = self.shrink(masks, pruned, origin)
        self.apply(tried)

    def apply(self, masks: Masks) -> None:
        """Set the pruned weights to zero now."""
        apply_masks(self.sharding.pieces(masks), self.units.parameters)

    def hold(self, masks: Masks, optimizers: list[Any]) -> None:
        """Keep the pruned weights at zero in all steps from now on."""
        reshard(self.module)
        self._enforcement.hold(self.sharding.pieces(masks), self.units.parameters, optimizers)
        self._follow(masks)

    def tighten(self, masks: Masks, optimizers: list[Any]) -> None:
        """Set the pruned weights to zero in the middle of a training, with all that is known of them, and hold them."""
        reshard(self.module)
        self._enforcement.tighten(self.sharding.pieces(masks), self.units.parameters, optimizers)
        self._follow(masks)

    def _follow(self, masks: Masks) -> None:
        if not self.sharding:
            self.criterion.keep(masks)

    def look(self) -> None:
        """The weights are used for more than a step now: see that those held at zero are.

        Raises:
            MisconfigurationException: The module has other parameters by now than those that are held.
        """
        reshard(self.module)
        there = {} if self.sharding else named_parameters(self.module)
        for name, parameter in self._enforcement.held.items():
            if there.get(name, parameter) is not parameter:
                raise MisconfigurationException(
                    f"`{name}` is another parameter than when the fit began, so its pruned weights are not held at "
                    "zero; write to a parameter in place (with torch.no_grad()), or replace it before the fit"
                )
        self._enforcement.look()

    def rehearse(self, masks: Masks, optimizers: list[Any]) -> None:
        """Hold all weights once and let go.

        Raises:
            MisconfigurationException: They cannot be held.
        """
        reshard(self.module)
        try:
            self._enforcement.rehearse(self.sharding.pieces(masks), self.units.parameters, optimizers)
        except Exception as error:
            raise MisconfigurationException(
                f"pruned weights could not be held at zero: {type(error).__name__}: {error}; exclude what cannot be "
                "masked with Cut(prunable=...), or use another optimizer"
            ) from error

    def let_go(self) -> None:
        """Hold no weights: what the module takes now is no network in training."""
        self._enforcement.release()

    def release(self) -> None:
        """Let go of all weights, and of what was heard of them."""
        self.let_go()
        self.listen_anew()
        self._accepted = None


@dataclass(frozen=True)
class _Scores:
    """Of what a network holds now, by the name of a tensor.

    Attributes:
        criterion: Gives them.
        parameters: The weights.
        origin: The tensors that weights are compared with; None for the weights themselves.
    """

    criterion: Criterion
    parameters: Parameters
    origin: Tensors | None

    def __call__(self, name: str) -> Tensor:
        weight = local(self.parameters[name])
        point = weight
        if self.origin is not None and self.criterion.compares:
            point = self.origin[name].to(weight.device)
        return self.criterion.score(name, weight, point)


class _PointwiseScores(_Scores):
    """See `PointwiseScores`."""

    def kept(self, name: str, mask: Tensor) -> tuple[Tensor, Tensor]:
        places = self.criterion.kept(name, mask)
        return places, self.criterion.score_at(name, at(local(self.parameters[name]), places), places)


def by_parameter(state: Any, change: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Any:
    """A criterion's state in which the tensors that dicts hold by the names of parameters are changed.

    Args:
        state: Of dicts, tensors and primitives.
        change: Takes tensors by name; leaves those whose names it does not know.
    """
    if not isinstance(state, Mapping):
        return state
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: by_parameter(value, change) for name, value in state.items()} | change(tensors)


def find_parameters(module: nn.Module, prunable: Prunable, *, frozen: bool) -> Parameters:
    """The parameters to prune; see `select_parameters`."""
    try:
        return select_parameters(module, prunable, frozen=frozen)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error


def find_sharding(trainer: Any, module: nn.Module, processes: Processes) -> Sharding:
    """How the parameters are spread over the processes."""
    try:
        sharding = Sharding.of(module, processes)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    if sharding and of_type(trainer, "WeightAveraging"):
        raise MisconfigurationException(
            "WeightAveraging keeps an average of whole weights, which does not go with a sharded model; "
            "use one device or strategy='ddp' with it"
        )
    return sharding


def starting_masks(
    parameters: Parameters, inherited: Masks, sharding: Sharding, processes: Processes
) -> Masks:
    """All weights; or the masks that a fit before delivered, where the module still is that ticket."""
    masks = full_masks(parameters)
    if inherited.keys() != masks.keys() or any(inherited[n].shape != m.shape for n, m in masks.items()):
        return masks
    inherited = {name: inherited[name].to(mask.device) for name, mask in masks.items()}
    revived = any(
        bool(local(parameters[name])[~mask.to(parameters[name].device)].any())
        for name, mask in sharding.pieces(inherited).items()
    )
    return masks if processes.any(revived) else inherited


def check_criterion(criterion: Criterion, parameters: Mapping[str, nn.Parameter]) -> None:
    """Score every tensor once.

    Raises:
        MisconfigurationException: A score has the wrong shape or kind, or is NaN.
    """
    for name, parameter in parameters.items():
        probe = local(parameter)
        scores = criterion.score(name, probe, probe)
        made = isinstance(scores, Tensor) and scores.shape == probe.shape and not scores.is_complex()
        if not made or scores.isnan().any():
            raise MisconfigurationException(
                f"criterion must return real scores of the weight's shape without NaN; for `{name}` "
                f"{tuple(probe.shape)} it returned {scores!r:.100}"
            )
