"""Exporting a run: from its folder, or from one of its checkpoints, to what `export` needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning_utilities.core.rank_zero import rank_zero_info
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_classprune.export.artefact import Values
from lightning_classprune.export.checks import in_memory
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.export import export
from lightning_classprune.export.formats import Purpose
from lightning_classprune.export.guard_split import GuardSplit
from lightning_classprune.export.quantization import CALIBRATION
from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.thresholds import certify_threshold, one_vs_rest
from lightning_classprune.job.app import build_module
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.lock import held
from lightning_classprune.job.objects.reproduction import check_objects_reproduced
from lightning_classprune.job.reproduction import check_reproduced
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.unprotected import lost
from lightning_classprune.ledger.rows import Row, delivered_row
from lightning_classprune.pruning.masks import Masks, unpack
from lightning_classprune.trainer.checkpoint_hashes import check_hash
from lightning_classprune.trainer.loaders import rebuilt, visited_indices
from lightning_classprune.trainer.randomness import seed_process, untouched_randomness

EXAMPLES = 256
PREFIX = "network."


@dataclass(frozen=True)
class Delivered:
    """What a checkpoint holds of a judged network: the plain network, its masks, its ledger, and its decision offsets.

    `offsets` are those that the network does not contain, by class; `dense` is what the dense network decided on the
    guard data, where samples have a class.
    """

    network: nn.Module
    masks: Masks
    ledger: list[Row]
    offsets: dict[str, float]
    dense: Decisions | None = None


def export_run(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    dense: bool = False,
    values: Values = "fp32",
    purpose: Purpose = "all",
    plain: bool = True,
    int8: bool = False,
    fold: float | None = None,
    max_fn_rate: Mapping[str, float] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Export the delivered network of a run of `classprune` and return its card.

    Args:
        source: The run's folder, or a checkpoint in it that was written when a round was accepted.
        folder: Where the files go; `export` in the run folder by default.
        dense: Export the dense network if no pruning step was accepted.
        values: Type of the stored weights.
        purpose: `"all"`, `"latency"`, `"size"` or `"mcu"`, as for `export`.
        plain: False leaves out `plain.onnx`.
        int8: Write a file of eight bits too: the one that the guard judged, else one calibrated on a part of the
            training data that the job's seed draws.
        fold: Write a file with similar channels merged too: channels to leave in each group, a number or a share.
        max_fn_rate: One protected class -> the rate of misses that its decision threshold is to keep, certified at 95%
            confidence on the validation part; the threshold goes into the ONNX files.
        trust: Whoever made the folder may run any code here, such as modules of your own.

    Raises:
        ValueError: The run is not finished, or nothing was accepted and `dense` is false; the checkpoint is not of
            this run, or of a round without a verdict; a class that is unknown, or has too few positives; a file was
            changed; the configuration names what is no part of a job, and `trust` is false; what leaves would decide
            the test part otherwise than the run did.
        FolderInUse: Another process exports this run.
    """
    run, checkpoint = _locate(Path(source), dense)
    config = run.trusted_config(trust=trust)
    run.verify(["config.yaml", checkpoint.name])
    target = run.path / "export" if folder is None else Path(folder)
    with held(run.path / ".export.lock") if folder is None else nullcontext():
        return _export(
            run, checkpoint, config, target, dense, values, purpose, plain, int8, fold, max_fn_rate
        )


def _export(
    run: RunFolder,
    checkpoint: Path,
    config: DictConfig,
    folder: Path,
    dense: bool,
    values: Values,
    purpose: Purpose,
    plain: bool,
    int8: bool,
    fold: float | None,
    max_fn_rate: Mapping[str, float] | None,
) -> dict[str, Any]:
    with _made_from(run.config_file):
        module = build_module(config)
        data: SplitDataModule = instantiate(config.data)
    found = read_delivered(checkpoint, module, dense)
    data.prepare_data()
    data.setup("test")
    is_delivered = checkpoint == run.accepted
    if data.splits.told_by is None:
        check_reproduced(found.network, found.offsets, data, run, is_delivered=is_delivered)
        own = _of_classes(found, data, max_fn_rate)
    else:
        check_objects_reproduced(found.network, found.offsets, data, config, run, is_delivered=is_delivered)
        own = _of_objects(found, config, run.test() if is_delivered else None, max_fn_rate)
    about = own.pop("about", {})
    protected = [data.class_names[index] for index in config.facts.protected]
    if is_delivered and (losses := lost(run.scores(), protected)):
        about = about | {"unprotected": [asdict(one) for one in losses]}
    return export(
        found.network,
        folder,
        torch.cat([x for x, *_ in _raw(data, data.test_dataloader())])[:EXAMPLES],
        masks=found.masks,
        class_names=data.class_names,
        ledger=found.ledger,
        normalization=data.normalization,
        values=values,
        purpose=purpose,
        plain=plain,
        int8=_calibration(data, config.seed) if int8 else None,
        fold=fold,
        judged_in=_judged_in(run, found),
        **own,
        about=about
        | {
            "data": OmegaConf.to_container(config.data, resolve=True),
            "model": OmegaConf.to_container(config.model, resolve=True),
            "seed": config.seed,
            "checkpoint": checkpoint.name,
        },
    )


def _locate(source: Path, dense: bool) -> tuple[RunFolder, Path]:
    """The run and the checkpoint of it that is exported."""
    if source.suffix == ".ckpt":
        if not source.is_file():
            raise ValueError(f"{source} does not exist")
        homes = [home for home in list(source.resolve().parents)[:2] if (home / "config.yaml").is_file()]
        if not homes:
            raise ValueError(
                f"{source} is not in a run folder, so nothing says which network it is of; for a checkpoint of "
                "your own module, load it and call lightning_classprune.export(module, ...)"
            )
        return RunFolder.open(homes[0]), source
    run = RunFolder.open(source)
    status = run.status()
    if status["state"] == "finished":
        return run, run.accepted
    baseline = run.path / "checkpoints" / "accepted-round=00.ckpt"
    if dense and baseline.is_file():
        return run, baseline
    why = f" with {status['error']}" if status["error"] else ""
    raise ValueError(
        f"{source}: the run is not finished ({status['state']}{why}); go on with classprune resume={source}, or export "
        "one of its checkpoints/accepted-round=NN.ckpt"
    )


def read_delivered(checkpoint: Path, module: nn.Module, dense: bool) -> Delivered:
    """Load the judged network of a checkpoint into `module`, a `Classifier`, and return it with its masks and ledger.

    Raises:
        ValueError: It does not fit, holds no accepted step (unless `dense`), or is from the middle of a round.
    """
    check_hash(checkpoint)
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["state_dict"])
        pruning: Mapping[str, Any] = next(
            (
                state
                for key, state in saved["callbacks"].items()
                if key.startswith("ClassAwarePruningCallback")
            ),
            {},
        )
        rows = list(pruning.get("ledger", []))
        decided = pruning.get("dense_outcomes")
        # Those on objects are not of this kind.
        outcomes = Decisions.from_state_dict(decided) if decided and "predicted" in decided else None
        last = delivered_row(rows)
    except Exception as error:  # a damaged file makes its readers raise what they like
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{checkpoint} cannot be loaded into the run's network: {told}") from error
    network: Any = module.network
    if last is None or last["verdict"] == "baseline":
        if not dense:
            raise ValueError(
                f"{checkpoint}: no pruning step was accepted, so this is the dense network; export it with dense=True "
                "(--dense)"
            )
        return Delivered(network, {}, rows, {}, outcomes)
    masks = {name.removeprefix(PREFIX): unpack(bits) for name, bits in pruning["masks"].items()}
    if pruning["rounds"]["finished"] is None and not (pruning["pending"] and rows[-1] is last):
        raise ValueError(
            f"{checkpoint} is from the middle of round {pruning['rounds']['round']}, which has no verdict yet; export "
            "the finished run, or one of checkpoints/accepted-round=NN.ckpt"
        )
    return Delivered(network, masks, rows, dict(pruning.get("offsets", {})), outcomes)


@contextmanager
def _made_from(config_file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{config_file}: model or data cannot be made of it ({type(error).__name__}: {told})"
        ) from error


def _raw(data: SplitDataModule, loader: DataLoader[Any]) -> Iterator[tuple[Any, ...]]:
    """Batches as the exported files take them: before normalisation."""
    for x, *others in loader:
        yield data.raw(x), *others


def _of_classes(
    found: Delivered, data: SplitDataModule, max_fn_rate: Mapping[str, float] | None
) -> dict[str, Any]:
    """What `export` is told of a network whose samples have a class."""
    return {
        "test": _raw(data, data.test_dataloader()),
        "thresholds": _thresholds(found, data, max_fn_rate),
        "offsets": found.offsets,
        "guard": None
        if found.dense is None
        else GuardSplit(list(_raw(data, data.guard_dataloader())), found.dense),
    }


def _of_objects(
    found: Delivered,
    config: DictConfig,
    test: Mapping[str, Any] | None,
    max_fn_rate: Mapping[str, float] | None,
) -> dict[str, Any]:
    """What `export` is told of a network that finds objects: files hold its scores, which are read as objects outside.

    Raises:
        ValueError: A rate to keep is given, which is of samples.
    """
    if max_fn_rate:
        raise ValueError(
            f"max_fn_rate={dict(max_fn_rate)}: a threshold is certified for samples that have a class, and these hold "
            "objects; leave it out"
        )
    threshold = float(config.task.get("score_threshold", 0.5))
    return {
        "about": {
            "scores": "of every pixel; objects are read from them as `read` of the network's class does",
            "score_threshold": {
                name: threshold - found.offsets.get(name, 0.0)
                for name in (config.facts.class_names[index] for index in config.facts.protected)
            },
            "task": OmegaConf.to_container(config.task, resolve=True),
            **({} if test is None else {"test": dict(test)}),
        }
    }


def _calibration(data: SplitDataModule, seed: int) -> Tensor:
    """Training inputs as the exported files take them, drawn by a seed; augmented ones as they come."""
    loader = data.train_dataloader()
    samples, _ = visited_indices(loader)
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    with untouched_randomness():
        seed_process(seed)
        return torch.cat([x for x, *_ in _raw(data, rebuilt(loader, [samples[i] for i in drawn]))])


def _judged_in(run: RunFolder, found: Delivered) -> Path | None:
    """The folder of the run in which the files lie that its guard judged."""
    row = delivered_row(found.ledger)
    names = [one["file"] for one in row.get("files", {}).values() if one["file"]] if row is not None else []
    homes = [home for home in run.path.glob("*/") if any((home / name).is_file() for name in names)]
    return min(homes, default=None)


def _thresholds(
    found: Delivered, data: SplitDataModule, max_fn_rate: Mapping[str, float] | None
) -> dict[int, float] | None:
    """The threshold of the one class that has a rate to keep, certified on the validation part."""
    if not max_fn_rate:
        return None
    if len(max_fn_rate) > 1 or not set(max_fn_rate) <= set(data.class_names):
        raise ValueError(
            f"max_fn_rate={dict(max_fn_rate)}: one class of {data.class_names} can have a threshold"
        )
    ((name, rate),) = max_fn_rate.items()
    index = data.class_names.index(name)
    offset = DecisionOffset(found.offsets, data.class_names)
    read = in_memory(Deployed(found.network, thresholds={}, offset=offset))
    pairs = [(read(x)[0], y) for x, y in data.val_dataloader()]
    margins, target = (torch.cat(part) for part in zip(*pairs, strict=True))
    certified = certify_threshold(*one_vs_rest(margins, target, index), max_fn_rate=rate)
    rank_zero_info(f"decision threshold of {name!r}, on the validation part: {certified.reason}")
    return {index: certified.threshold}
