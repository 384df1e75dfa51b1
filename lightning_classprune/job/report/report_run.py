"""The report of a run, (re)built from the files of its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from omegaconf import DictConfig, OmegaConf

from lightning_classprune import files
from lightning_classprune.job.checked import check
from lightning_classprune.job.report.page import PageData, render
from lightning_classprune.job.run_folder import CLAIMED, RunFolder
from lightning_classprune.ledger.rows import Row


class _Facts(TypedDict):
    """What a page needs to know of the data."""

    class_names: list[str]
    protected: list[int]


def write_report(folder: RunFolder) -> Path:
    """Write the report, whole or not at all, and return its path.

    Raises:
        ValueError: A file of the folder is broken; names it.
    """
    data = page_data(folder)
    try:
        page = render(data)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder.path}: its files do not go together, no page can be made of them ({type(error).__name__}: {told})"
        ) from error
    files.sweep(folder.path)
    files.write_text(folder.report, page)
    return folder.report


def page_data(folder: RunFolder) -> PageData:
    """Return what the folder holds, as far as the run got.

    Raises:
        ValueError: A file is broken; names it.
    """
    rows = folder.ledger()
    for number, row in enumerate(rows, start=1):
        missing = [key for key in Row.__annotations__ if key in Row.__required_keys__ and key not in row]
        if missing:
            raise ValueError(
                f"{folder.ledger_file}, line {number}: not a row of a ledger, it has no {missing}"
            )
    config = folder.config()
    facts = _facts(folder, config)
    data = PageData(
        rows=rows,
        class_names=facts["class_names"],
        protected=facts["protected"],
        status=folder.status(),
        guard=folder.guard(),
        scores=folder.scores(),
        samples=folder.samples(),
        layers=folder.layers(),
        pictures=folder.pictures(),
        object_pictures=folder.object_pictures(),
        test=folder.test(),
        environment=folder.environment(),
        hashes=folder.hashes(),
        config=folder.config_file.read_text(encoding="utf-8"),
        notes=_notes(config),
    )
    folder.verify(CLAIMED)
    return data


def _facts(folder: RunFolder, config: DictConfig) -> _Facts:
    facts: Any = OmegaConf.to_container(config.get("facts") or OmegaConf.create(), resolve=True)
    check(facts, _Facts, f"{folder.config_file}: facts")
    if _Facts.__annotations__.keys() - facts.keys():
        raise ValueError(f"{folder.config_file} has no facts of the data; was it cut short?")
    names, protected = facts["class_names"], facts["protected"]
    if not all(0 <= index < len(names) for index in protected):
        raise ValueError(f"{folder.config_file}: protected classes {protected} of {len(names)}")
    return _Facts(class_names=names, protected=protected)


def _notes(config: DictConfig) -> list[str]:
    targets = [
        str(OmegaConf.select(config, f"{group}._target_")).split(".")[-1] for group in ("data", "model")
    ]
    return [*targets, f"seed {config.get('seed')}"]
