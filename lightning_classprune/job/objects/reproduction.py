"""Whether what an export writes down gives the objects that the run itself counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_classprune.export.deployed import Deployed
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.objects.answers import counted
from lightning_classprune.job.reproduction import Counts, compare
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.trainer.eval_mode import in_eval_mode


def check_objects_reproduced(
    network: Any,
    offsets: Mapping[str, float],
    data: SplitDataModule,
    config: DictConfig,
    run: RunFolder,
    *,
    is_delivered: bool,
) -> None:
    """As `reproduction.check_reproduced`, of a network that finds objects.

    Args:
        network: As exported: scores of pictures, read by its own `read`.
        offsets: Bias that it does not contain, by class.
        data: Set up.
        config: The run's.
        run: Whose network it is.
        is_delivered: It is the one that `test.json` counts.

    Raises:
        ValueError: See there; or the network gives a list, which no file can hold.
    """
    names = data.class_names
    task = ObjectTask(
        instantiate(config.task), names, config.facts.protected, 0.0, "one", with_offset=bool(offsets)
    )
    if not isinstance(task_scores := _first_scores(network, data), Tensor):
        raise ValueError(
            f"{run.path}: the network gives a {type(task_scores).__name__} a batch, as torchvision's detectors do, and "
            "what is exported is one tensor of scores; take its ticket from tickets/, which load_ticket puts into the "
            "model"
        )
    as_exported = Deployed(network, data.normalization)
    trained = _counts(task, network, data, offsets, network)
    raw = _counts(task, network, data, offsets, lambda x: as_exported(data.raw(x)))
    compare(trained, raw, data, run, is_delivered=is_delivered)


@torch.no_grad()
def _first_scores(network: nn.Module, data: SplitDataModule) -> Any:
    with in_eval_mode(network):
        return network(next(iter(data.test_dataloader()))[0])


@torch.no_grad()
def _counts(
    task: ObjectTask,
    network: Any,
    data: SplitDataModule,
    offsets: Mapping[str, float],
    scores: Callable[[Tensor], Any],
) -> Counts:
    batches = []
    with in_eval_mode(network):
        for x, targets, units in data.test_dataloader():
            batches.append(task.columns(network.read(scores(x)), targets, units))
    places = torch.cat([torch.full_like(one[0], place) for place, one in enumerate(batches)])
    columns = tuple(torch.cat(column) for column in zip(*batches, strict=True))
    found = task.outcomes(task.numbered(columns, places), offsets)
    counts: Counts = counted(found)["classes"]
    return counts
