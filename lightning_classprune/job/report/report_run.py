"""The report of a run, (re)built from the files of its folder alone."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_classprune import files
from lightning_classprune.job.report.page import PageData, render
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.rows import Row


def write_report(folder: RunFolder) -> Path:
    """Write the report, whole or not at all, and return its path.

    Raises:
        ValueError: A file of the folder is broken; names it.
    """
    files.write_text(folder.report, render(page_data(folder)))
    return folder.report


def page_data(folder: RunFolder) -> PageData:
    """Return what the folder holds, as far as the run got.

    Raises:
        ValueError: A file is broken; names it.
    """
    rows = folder.ledger()
    for number, row in enumerate(rows, start=1):
        missing = [key for key in Row.__annotations__ if key not in row]
        if missing:
            raise ValueError(
                f"{folder.ledger_file}, line {number}: not a row of a ledger, it has no {missing}"
            )
    config = folder.config()
    return PageData(
        rows=rows,
        class_names=[str(name) for name in config.facts.class_names],
        protected=list(config.facts.protected),
        status=folder.status(),
        guard=folder.guard(),
        scores=folder.scores(),
        samples=folder.samples(),
        layers=folder.layers(),
        pictures=folder.pictures(),
        test=folder.test(),
        environment=folder.environment(),
        hashes=folder.hashes(),
        config=folder.config_file.read_text(encoding="utf-8"),
        notes=_notes(config),
    )


def _notes(config: DictConfig) -> list[str]:
    targets = [
        str(OmegaConf.select(config, f"{group}._target_")).split(".")[-1] for group in ("data", "model")
    ]
    return [*targets, f"seed {config.seed}"]
