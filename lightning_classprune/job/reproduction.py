"""Whether what an export writes down, raw inputs and how to normalise them, gives what the run itself counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import nn

from lightning_classprune.export.checks import Reader, in_memory, tested
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.run_folder import RunFolder

Counts = Mapping[str, Mapping[str, Any]]
#: Share of the test cases by which a class' counts may differ where a run computed in another precision.
ROUNDING = 0.01
#: Test cases of which one may lie so near the boundary that the last bit of an input decides it.
TIES = 10_000


def check_reproduced(
    network: nn.Module,
    offsets: Mapping[str, float],
    data: SplitDataModule,
    run: RunFolder,
    *,
    is_delivered: bool,
) -> None:
    """Refuse an export whose module, given raw inputs, does not count what the run counted on its test part.

    Args:
        network: As exported.
        offsets: Bias that it does not contain, by class.
        data: Set up.
        run: Whose network it is.
        is_delivered: It is the one that `test.json` counts.

    Raises:
        ValueError: The data give other inputs than `raw` and `normalization` say, or are no longer the run's.
    """
    names = data.class_names
    offset = DecisionOffset(offsets, names)
    as_trained = in_memory(Deployed(network, None, {}, offset))
    as_exported = in_memory(Deployed(network, data.normalization, {}, offset))
    readers: dict[str, Reader] = {"trained": as_trained, "raw": lambda x: as_exported(data.raw(x))}
    counts = tested(readers, data.test_dataloader(), names)
    compare(counts["trained"], counts["raw"], data, run, is_delivered=is_delivered)


def compare(
    trained: Counts, raw: Counts, data: SplitDataModule, run: RunFolder, *, is_delivered: bool
) -> None:
    """Refuse what does not count alike through raw inputs, or not what `test.json` says; as `check_reproduced`.

    Args:
        trained: Counts of the test part by class, of inputs as in training.
        raw: The same of raw ones.
        data: Set up.
        run: Whose network it is.
        is_delivered: It is the one that `test.json` counts.
    """
    samples = sum(counts["support"] for counts in trained.values())
    if wrong := different(raw, trained, samples // TIES):
        raise ValueError(
            f"{type(data).__name__}: through `raw` and `normalization` the network decides the test part otherwise "
            f"than it was trained to: {wrong}. Exported files would take such inputs, so nothing was written; use "
            "(x / 255 - mean) / std from uint8 pixels, or (x - mean) / std from features, and say which"
        )
    test = run.test()
    if not is_delivered or test is None:
        return
    allowed = 0 if computes_alike(run.config()) else max(1, int(ROUNDING * samples))
    if wrong := different(trained, test["classes"], allowed):
        raise ValueError(
            f"{run.path}: the network does not give what test.json says: {wrong}. Were the data, the checkpoint or the "
            "package changed since the run? Nothing was written"
        )


def different(ours: Counts, theirs: Counts, allowed: int) -> str:
    """The first class whose counts are not alike, in words; empty where all are. Cases must be as many in any case."""
    if list(ours) != list(theirs):
        return f"classes {list(ours)} and not {list(theirs)}"
    for name, one in ours.items():
        other = theirs[name]
        for key, what, margin in (
            ("support", "cases", 0),
            ("fn", "missed", allowed),
            ("fp", "false alarms", allowed),
        ):
            if abs(one[key] - other[key]) > margin:
                return f"{name!r} has {one[key]} {what} and not {other[key]}"
    return ""


def computes_alike(config: DictConfig) -> bool:
    """Whether the run computed as an export does: in single precision, on a CPU."""
    return config.trainer.accelerator == "cpu" and str(config.trainer.precision).startswith(("32", "64"))
