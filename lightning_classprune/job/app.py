"""The ready-made job: a Hydra application that trains, prunes, judges and reports."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

import lightning_classprune
from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard.protected import by_class
from lightning_classprune.job import jobs
from lightning_classprune.job.beginning import data_line, length_line
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.ending import Ending, harmless
from lightning_classprune.job.kinds import kind_of
from lightning_classprune.job.ledger_file import LedgerFile
from lightning_classprune.job.objective import Objective
from lightning_classprune.job.report.report_run import write_report
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.unprotected import names_of, warning_before
from lightning_classprune.ledger.text import write_jsonl
from lightning_classprune.trainer.versions import safe_loading


def job(cfg: DictConfig) -> Objective:
    """Do one job of a Hydra command; returns what sweepers optimise (see conf/objective)."""
    quieten()
    logging.captureWarnings(True)  # so that the log file has them too
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return jobs.in_sweep(cfg, run, describe)
    return run(cfg)


def run(cfg: DictConfig, *, resume: bool = False, closing: bool = False) -> Objective:
    """Train, prune, judge, report and test as `cfg` says (see conf/config.yaml).

    Fills `cfg.run_dir` (see `RunFolder`); a job that raises leaves its error in `status.json`.

    Args:
        cfg: The composed configuration.
        resume: Go on from the last checkpoint in that folder, if it holds one.
        closing: Train nothing: what an interrupted run kept is judged.

    Returns:
        What `cfg.objective` makes of the ledger: by default the largest accepted sparsity, 0..1.
    """
    quieten()
    folder = RunFolder(Path(cfg.run_dir))
    with folder.held():
        return _run_and_report(cfg, folder, resume, closing)


def _run_and_report(cfg: DictConfig, folder: RunFolder, resume: bool, closing: bool) -> Objective:
    before = folder.status()
    try:
        objective, interrupted = _run(cfg, folder, resume, closing)
    except BaseException as error:
        if closing:  # what cannot be judged is as it was
            folder.write_json("status.json", before)
            raise
        folder.write_status("failed", error=f"{type(error).__name__}: {error}")
        if folder.config_file.is_file():
            publish(folder)
        raise
    folder.write_status("interrupted" if interrupted else "finished", objective=objective)
    if not interrupted:
        folder.write_hashes()
    publish(folder)
    return objective


def close(cfg: DictConfig, *, resume: bool = True) -> Objective:
    """As `run`, of an interrupted job: what it kept is judged, and nothing is trained."""
    return run(cfg, resume=resume, closing=True)


def _run(cfg: DictConfig, folder: RunFolder, resume: bool, closing: bool) -> tuple[Objective, bool]:
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = describe(cfg)
    folder.begin(cfg, resumed=resume)
    module = build_module(cfg)
    callbacks: list[Callback] = [
        instantiate(entry) for entry in cfg.callbacks.values() if entry and "_target_" in entry
    ]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]  # Lightning refuses one then
    pruning = next((c for c in callbacks if isinstance(c, ClassAwarePruningCallback)), None)
    if pruning is not None:
        callbacks.append(LedgerFile(folder, pruning))
    final_test = kind_of(cfg).final_test(cfg, data, pruning)
    trainer: Trainer = instantiate(cfg.trainer, callbacks=[*callbacks, final_test])
    checkpoint = (folder.last_checkpoint if resume else None) or cfg.ckpt_path
    rank_zero_info(data_line(data, cfg.facts.protected))
    rank_zero_info(
        length_line(None if pruning is None else pruning.settings, trainer, len(data.train_dataloader()))
    )
    if pruning is not None and (names := names_of(data.class_names, cfg.facts.protected, cfg.facts.told_by)):
        rank_zero_info(warning_before(names))
    fit: Callable[..., None] = trainer.fit
    if closing:
        if pruning is None:
            raise ValueError("this job prunes nothing, so there is nothing to judge")
        fit = partial(pruning.judge, trainer)
    fit(module, datamodule=data, ckpt_path=checkpoint, **safe_loading(trainer))
    rows = [] if pruning is None else pruning.ledger
    interrupted = pruning is not None and pruning.awaits_judgement
    if trainer.is_global_zero and rows:
        write_jsonl(rows, folder.ledger_file)
    if interrupted:  # nothing is delivered yet, and neither the guard nor the test split may be looked at
        told = (
            f"go on with `classprune resume={folder.path}`, or judge it with `classprune-judge {folder.path}`"
        )
        rank_zero_warn(f"interrupted before the guard judged what was kept; {told}")
    else:
        Ending(cfg, trainer, module, data, pruning, final_test, folder).leave(lambda: build_module(cfg))
    objective: Objective = instantiate(cfg.objective)(rows)
    return objective, interrupted


def describe(cfg: DictConfig) -> SplitDataModule:
    """Return the job's data, and fill in `cfg.facts`, what they say."""
    data: SplitDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    if OmegaConf.is_missing(cfg, "protect"):
        usual = cfg.get("usually_protected") or {}
        if not usual or not set(usual) <= set(data.class_names):
            raise ValueError(ask_for_protect(data.class_names, data.class_counts, data.splits.told_by))
        cfg.protect = usual
    with open_dict(cfg):
        cfg.facts = facts(data, cfg.protect)
    return data


def ask_for_protect(names: Sequence[str], counts: Sequence[int], told_by: str | None = None) -> str:
    """What to write where nothing is protected.

    Args:
        names: Of all classes.
        counts: Of their training samples; the example is the rarest.
        told_by: What tells objects; None where samples have a class. The first class of objects is the background.
    """
    first = 0 if told_by is None else 1
    index = min(range(first, len(names)), key=lambda place: counts[place])
    name = names[index]
    # Hydra takes words and whole numbers for keys, and not 007, 1e5 or 3D.
    key = re.fullmatch(r"[a-z_]\w*|0|[1-9][0-9]*", name, re.ASCII | re.IGNORECASE)
    example = f"protect.{name}=0.05" if key else f"'protect={{{index}: 0.05}}'"
    listed = ", ".join(
        f"{i}: {one!r} ({count} for training)"
        for i, (one, count) in list(enumerate(zip(names, counts, strict=True)))[first:]
    )
    return (
        "protect is missing: say which class must not be missed, by name or index, and how far its miss rate may rise, "
        f"such as {example}; the classes are {listed}"
    )


def facts(data: SplitDataModule, protect: Mapping[str | int, Any]) -> dict[str, Any]:
    """Return what the model, the loss and the callback need to know about the data.

    Raises:
        ValueError: `protect` names a class that the data do not have.
    """
    names = data.class_names
    protected = list(by_class("protect", protect, names))
    return {
        "class_names": names,
        "num_classes": data.num_classes,
        "class_counts": data.class_counts,
        "in_channels": data.in_channels,
        "in_features": data.in_features,
        "protected": protected,
        "told_by": data.splits.told_by,
    }


def build_module(cfg: DictConfig) -> LightningModule:
    """Return the LightningModule of `cfg`'s model, loss, optimizer and scheduler; `cfg.facts` must be filled in."""
    return kind_of(cfg).module(cfg)


@rank_zero_only
def publish(folder: RunFolder) -> None:
    """Write the report and say where it is."""
    with harmless(folder.report.name):
        Console().print(f"Report: {write_report(folder)}", markup=False, highlight=False, soft_wrap=True)


def quieten() -> None:
    """Leave Lightning's start-up notes and tips out of a job's output; its warnings and our own notes stay."""
    for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(f"{package}.utilities.rank_zero").addFilter(_worth_telling)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", module=r"lightning\.")


def _worth_telling(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.pathname.startswith(
        str(Path(lightning_classprune.__file__).parent)
    )
