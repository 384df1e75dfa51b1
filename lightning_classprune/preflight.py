"""Preflight: what is checked of model, data and limits before the first batch, so that no training is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_classprune.channel_units import ChannelUnits, prunable_groups
from lightning_classprune.channels import find_channels
from lightning_classprune.companions import of_type
from lightning_classprune.criteria import Criterion
from lightning_classprune.example import find_example
from lightning_classprune.granularity import Parameters, SingleWeights, Units
from lightning_classprune.guard_data import (
    GuardData,
    Source,
    find_guard_loaders,
    is_validation_data,
    shard_guard_data,
)
from lightning_classprune.horizon import Horizon, Limits, reaches
from lightning_classprune.masks import Masks, full_masks, local
from lightning_classprune.outcomes import Outcomes
from lightning_classprune.processes import Processes
from lightning_classprune.prunable import Prunable, named_parameters, select_parameters
from lightning_classprune.rewinding import Rewind
from lightning_classprune.rounds import Plan
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import Sharding
from lightning_classprune.two_four import TwoOfFour, two_four_weights


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


def find_units(
    settings: Settings, trainer: Any, module: nn.Module, parameters: Parameters, sharding: Sharding
) -> Units:
    """What the run cuts, by `granularity`.

    Raises:
        MisconfigurationException: The model is sharded, nothing can be cut in such units, or, for channels, there is
            no example input or the network cannot be followed on it.
    """
    if settings.granularity == "weight":
        return SingleWeights(parameters, settings.scope, sharding)
    if sharding:
        raise MisconfigurationException(
            f"granularity={settings.granularity!r} needs whole weights, and FSDP2 cuts them into pieces; "
            "use one device or strategy='ddp', or granularity='weight'"
        )
    if settings.granularity == "2:4":
        fitting = two_four_weights(module, parameters)
        if not fitting:
            raise MisconfigurationException(
                "granularity='2:4': no prunable linear layer or convolution has a number of inputs that four divides"
            )
        _report("2:4", f"{len(fitting)} weights", [name for name in parameters if name not in fitting])
        return TwoOfFour(fitting)
    try:
        found = find_channels(module, find_example(trainer, module))
    except ValueError as error:
        raise MisconfigurationException(f"granularity='channel': {error}") from error
    groups, held = prunable_groups(module, found.groups, parameters)
    stays = [f"{name} ({why})" for name, why in found.stays.items()]
    stays += [f"{name} (not prunable, or coupled with a layer that is not)" for name in held]
    if not groups:
        raise MisconfigurationException(
            f"granularity='channel': no channel can leave this network; {'; '.join(stays)}"
        )
    units = ChannelUnits(groups, named_parameters(module), settings.scope)
    _report("channel", f"{units.total} channels in {len(groups)} groups", stays)
    return units


def _report(granularity: str, what: str, stays: list[str]) -> None:
    dense = f"; dense stay {', '.join(stays)}" if stays else ""
    rank_zero_info(f"granularity={granularity!r}: {what} can be pruned{dense}")


def make_plan(settings: Settings, masks: Masks, units: Units) -> Plan:
    """The plan in whole units.

    Raises:
        MisconfigurationException: The target is below what is pruned already, or more than can be.
    """
    total, what = units.total, units.name
    zeros = units.zeros()
    target, name = settings.target(total), f"target_sparsity={settings.target_sparsity}"
    if zeros > target and not units.pruned(masks):
        raise MisconfigurationException(
            f"{name} is below the module's current sparsity: {zeros} of {total} prunable {what} are zero already "
            f"({zeros / total:.4f}); raise the target"
        )
    if target > units.most:
        places = "tensors, and every tensor" if what == "weights" else "groups of channels, and every group"
        raise MisconfigurationException(
            f"{name} leaves {total - target} of {total} {what} for {total - units.most} {places} "
            f"must keep at least one; at most {units.most / total:.6f} is possible here"
        )
    return Plan(
        total, target, settings.prune_fraction, settings.max_rounds, settings.retries, settings.schedule
    )


def check_criterion(criterion: Criterion, parameters: Mapping[str, nn.Parameter]) -> None:
    """Score every tensor once.

    Raises:
        MisconfigurationException: A score has the wrong shape or kind, or is NaN.
    """
    for name, parameter in parameters.items():
        probe = local(parameter)
        scores = criterion(probe, probe)
        made = isinstance(scores, torch.Tensor) and scores.shape == probe.shape and not scores.is_complex()
        if not made or torch.isnan(scores).any():
            raise MisconfigurationException(
                f"criterion must return real scores of the weight's shape without NaN; for `{name}` "
                f"{tuple(probe.shape)} it returned {scores!r:.100}"
            )


def check_length_left(limits: Limits, horizon: Horizon, epochs: int, steps: int) -> None:
    """Refuse a checkpoint after which round 0 has nothing to train."""
    if horizon.is_over(epochs, steps):
        raise MisconfigurationException(
            f"the checkpoint has finished max_epochs={limits.max_epochs}, max_steps={limits.max_steps}, so round 0 has "
            "nothing left to train; judge its weights as the dense network with baseline='current' (and rewind='lr' or "
            "'none'), or raise the limit"
        )


def check_rewind_point(trainer: Any, rewind: Rewind, limits: Limits, foreign_epochs: int | None) -> None:
    """Refuse a rewind point that round 0 never passes.

    Args:
        trainer: The trainer at the start of training.
        rewind: The setting.
        limits: The limits of one round.
        foreign_epochs: Epochs behind a checkpoint without our state from which the run starts, or None.
    """
    kind, at = rewind.kind, rewind.at
    if foreign_epochs is not None:
        behind = {"epoch": foreign_epochs, "step": trainer.global_step}.get(kind, 0)
        if at < behind:
            raise MisconfigurationException(
                f"rewind='{kind}:{at}' lies before the checkpoint, which is at {kind} {behind}; use rewind='init' "
                "to rewind to the checkpoint"
            )
    if kind in ("epoch", "step") and not reaches(trainer, limits, kind, at):
        raise MisconfigurationException(
            f"rewind='{kind}:{at}' is not inside a round, which ends at max_epochs={limits.max_epochs}, "
            f"max_steps={limits.max_steps}; use a smaller number"
        )


def find_guard_data(trainer: Any, argument: Any, processes: Processes) -> GuardData:
    """This process' share of the guard data.

    Raises:
        MisconfigurationException: There is none, or it cannot be counted exactly.
    """
    found, error = None, None
    try:
        found = find_guard_loaders(trainer, argument)
    except Exception as caught:
        error = caught
    processes.raise_together(error)
    if found is None:
        raise MisconfigurationException(
            "guard_dataloader: there is neither guard nor validation data to judge with; "
            "pass guard_dataloader=..., give the datamodule a guard_dataloader(), or add validation data"
        )
    loaders, source = found
    _warn_of_selection(trainer, source, is_validation_data(trainer, loaders))
    try:
        return shard_guard_data(loaders, source, processes.rank, processes.world_size)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error


def check_guard_data(outcomes: Outcomes | None) -> None:
    """Refuse guard data of which not even one batch has samples.

    Args:
        outcomes: Of the first batch; None if the scores are NaN.

    Raises:
        MisconfigurationException: There are none.
    """
    if outcomes is not None and not len(outcomes.target):
        raise MisconfigurationException("guard_dataloader: the guard data is empty, nothing can be judged")


def _warn_of_selection(trainer: Any, source: Source, same: bool) -> None:
    monitors = {type(c).__name__ for c in of_type(trainer, "ModelCheckpoint") if c.monitor}
    monitors |= {"EarlyStopping" for c in of_type(trainer, "EarlyStopping") if c.monitor}
    monitors |= {"ReduceLROnPlateau" for c in trainer.lr_scheduler_configs if c.reduce_on_plateau}
    if source != "validation" and not (same and monitors):
        return
    why = (
        "is not given, so the validation data is the guard"
        if source == "validation"
        else "is validation data"
    )
    drives = f" and drives {', '.join(sorted(monitors))}" if monitors else ""
    rank_zero_warn(
        f"guard_dataloader {why}{drives}. Data that chooses the weights must not judge them: the verdict's error "
        "level no longer holds. Give the guard a split of its own."
    )
