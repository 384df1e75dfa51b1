"""Trust: which objects the configuration of somebody else's run folder may make.

A configuration names classes, and to make one is to run its code. Of a folder that may come from anywhere only those
are made that are of use in a job and read nothing but numbers. Judged is the object that a name leads to: names lead
from every package to every other one.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

_OURS = "lightning_classprune"
_TRAINER = (Trainer, Callback, Logger, LightningModule, LightningDataModule)
#: Where a class is defined -> what it must be. Without torchvision's data sets: some unpickle what they find.
CLASSES: dict[str, tuple[type, ...]] = {
    _OURS: (nn.Module, Optimizer, LRScheduler, Dataset, LightningDataModule, Callback, Logger),
    "torch.nn": (nn.Module,),
    "torch.optim": (Optimizer, LRScheduler),
    "torch.utils.data.dataset": (Dataset,),
    "torchvision.models": (nn.Module,),
    "torchvision.ops": (nn.Module,),
    "torchvision.transforms": (object,),
    "torchmetrics.classification": (nn.Module,),
    "torchmetrics.regression": (nn.Module,),
    "lightning.pytorch": _TRAINER,
    "pytorch_lightning": _TRAINER,
}
#: Functions of ours that are made to be named in a configuration.
FUNCTIONS = frozenset(
    {f"{_OURS}.job.models.{name}" for name in ("conv_net", "mlp", "paper_alexnet")}
    | {f"{_OURS}.job.objective.{name}" for name in ("balanced", "sparsity", "sparsity_fn", "weighted")}
    | {f"{_OURS}.job.torchvision_models.torchvision_model"}
    | {f"{_OURS}.job.objects.instance_network.{name}" for name in ("unet", "deeplab")}
    | {f"{_OURS}.job.objects.{name}.{name}" for name in ("centre_detector", "torchvision_detector")}
)
_ROOTS = frozenset(name.partition(".")[0] for name in CLASSES)


def check_targets(config: DictConfig, source: object) -> None:
    """Refuse a configuration that would make anything else than parts of a job.

    Args:
        config: As `read_config` returns it.
        source: Where it is from, for the message.

    Raises:
        ValueError: It would; names the target and what to do.
    """
    for target in _targets(OmegaConf.to_container(config, resolve=True)):
        if not _is_harmless(target):
            raise ValueError(
                f"{source} would run {str(target)[:200]!r}, which is none of the parts that a job is made of; "
                "if it is your own, or you trust whoever made this folder, add --trust (trust=True)"
            )


def _targets(value: Any) -> list[Any]:
    found: list[Any] = []
    if isinstance(value, dict):
        found += [value["_target_"]] if "_target_" in value else []
        value = list(value.values())
    if isinstance(value, list):
        found += [target for one in value for target in _targets(one)]
    return found


def _is_harmless(target: Any) -> bool:
    if not isinstance(target, str):
        return False
    found = _found(target)
    home = getattr(found, "__module__", None)
    if not isinstance(home, str):
        return False
    if isinstance(found, FunctionType):
        return f"{home}.{found.__qualname__}" in FUNCTIONS
    if not inspect.isclass(found):
        return False
    bases = next((bases for name, bases in CLASSES.items() if f"{home}.".startswith(f"{name}.")), ())
    return issubclass(found, bases) or (bool(bases) and home.startswith(f"{_OURS}.") and is_dataclass(found))


def _found(target: str) -> object:
    """What a name leads to, None if to nothing; modules of other packages are not imported on the way."""
    root, *parts = target.split(".")
    if root not in _ROOTS or not all(part.isidentifier() and part != "__main__" for part in parts):
        return None
    found: Any = None
    try:
        found = import_module(root)
        for part in parts:
            if isinstance(found, ModuleType) and not hasattr(found, part):
                import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
    except Exception:  # whatever a module says that does not load here: there is no such part of a job
        return None
    return found
