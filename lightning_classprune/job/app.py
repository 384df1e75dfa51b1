"""The ready-made job: a Hydra application that trains, prunes, judges and reports."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning_utilities.core.rank_zero import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, open_dict
from rich.console import Console

import lightning_classprune
from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job import jobs
from lightning_classprune.job.classifier import Classifier
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.final_test import ClassCounts
from lightning_classprune.job.ledger_file import LedgerFile
from lightning_classprune.job.objective import Objective
from lightning_classprune.job.report.pictures import thumbnails
from lightning_classprune.job.report.report_run import write_report
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.figure import figure
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.rows import Row
from lightning_classprune.ledger.text import achievement, table, write_jsonl
from lightning_classprune.pruning.masks import layer_counts
from lightning_classprune.tickets.loading import load_ticket


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
    try:
        objective, interrupted = _run(cfg, folder, resume, closing)
    except BaseException as error:
        folder.write_status("failed", error=f"{type(error).__name__}: {error}")
        if folder.config_file.is_file():
            publish(folder)
        raise
    folder.write_status("interrupted" if interrupted else "finished", objective=objective)
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
    counts = ClassCounts(data.class_names)
    trainer: Trainer = instantiate(cfg.trainer, callbacks=[*callbacks, counts])
    checkpoint = (folder.last_checkpoint if resume else None) or cfg.ckpt_path
    fit: Callable[..., None] = trainer.fit
    if closing:
        if pruning is None:
            raise ValueError("this job prunes nothing, so there is nothing to judge")
        fit = partial(pruning.judge, trainer)
    fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    rows = [] if pruning is None else pruning.ledger
    if trainer.is_global_zero and pruning is not None and rows:
        # Of classes, which is what this job does.
        decisions = cast(dict[str, Decisions], pruning.guard_outcomes)
        write_jsonl(rows, folder.ledger_file)
        folder.write_guard(decisions)
        folder.write_json("layers.json", {"layers": layer_counts(pruning.masks)})
        with harmless("ledger.png"):
            figure(rows).savefig(folder.path / "ledger.png")
        with harmless(folder.pictures_file.name):
            folder.write_pictures(thumbnails(data, decisions, cfg.facts.protected))
    trainer.save_checkpoint(folder.accepted, weights_only=False)
    trainer.test(module, datamodule=data, verbose=False, weights_only=True)
    results = counts.results
    first = folder.tickets / "round=00.safetensors"
    if first.is_file():
        dense = build_module(cfg)
        load_ticket(first, dense)
        trainer.test(dense, datamodule=data, verbose=False, weights_only=True)
        results = results | {"dense": counts.results["classes"]}
    if trainer.is_global_zero:
        folder.write_json("test.json", results)
        tell(rows, results, folder.path)
    objective: Objective = instantiate(cfg.objective)(rows)
    return objective, pruning is not None and pruning.awaits_judgement


def describe(cfg: DictConfig) -> SplitDataModule:
    """Return the job's data, and fill in `cfg.facts`, what they say."""
    data: SplitDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    with open_dict(cfg):
        cfg.facts = facts(data, cfg.protect)
    return data


def facts(data: SplitDataModule, protect: Mapping[str | int, Any]) -> dict[str, Any]:
    """Return what the model, the loss and the callback need to know about the data.

    Raises:
        ValueError: `protect` names a class that the data do not have.
    """
    names = data.class_names
    protected = [names.index(key) if key in names else key for key in protect]
    for key in protected:
        if not isinstance(key, int) or not 0 <= key < len(names):
            raise ValueError(
                f"protect: {key!r} is not a class of these data; classes: {dict(enumerate(names))}"
            )
    return {
        "class_names": names,
        "num_classes": data.num_classes,
        "class_counts": data.class_counts,
        "in_channels": data.in_channels,
        "in_features": data.in_features,
        "protected": protected,
    }


def build_module(cfg: DictConfig) -> LightningModule:
    """Return the LightningModule of `cfg`'s model, loss, optimizer and scheduler; `cfg.facts` must be filled in."""
    return Classifier(
        network=instantiate(cfg.model),
        loss=instantiate(cfg.loss),
        num_classes=cfg.facts.num_classes,
        optimizer=instantiate(cfg.optimizer),
        **instantiate(cfg.scheduler),
    )


@rank_zero_only
def publish(folder: RunFolder) -> None:
    """Write the report and say where it is."""
    with harmless(folder.report.name):
        Console().print(f"Report: {write_report(folder)}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def harmless(name: str) -> Iterator[None]:
    """Turn an error of what only illustrates a run into a warning: a picture is not worth a network."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(
            f"{name} could not be written ({type(error).__name__}: {error}); the run itself is not affected"
        )


def tell(rows: list[Row], test: dict[str, Any], folder: Path) -> None:
    """Print the ledger, the counts of the test split, and what was achieved."""
    console = Console(width=max(shutil.get_terminal_size(fallback=(100, 24)).columns, 80))
    if rows:
        console.print(table(rows))
    for name, counts in test["classes"].items():
        before = f" (dense {test['dense'][name]['fn']})" if "dense" in test else ""
        console.print(f"Test, {name}: missed {counts['fn']} of {counts['support']}{before}", markup=False)
    console.print(achievement(rows), markup=False)
    if advice := recommendation(rows):
        console.print(advice, markup=False)
    console.print(f"Run folder: {folder}", markup=False, soft_wrap=True)


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
