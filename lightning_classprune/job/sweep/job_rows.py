"""A sweep's jobs, one row each: what it tried, how it ended, what it delivered."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_classprune.job.config_file import read_yaml
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row


@dataclass(frozen=True)
class Errors:
    """Errors of one network with one class on one split."""

    missed: int
    positives: int
    alarms: int
    negatives: int

    @property
    def miss_rate(self) -> float | None:
        """In [0, 1]; None without positives."""
        return self.missed / self.positives if self.positives else None

    @property
    def alarm_rate(self) -> float | None:
        """In [0, 1]; None without negatives."""
        return self.alarms / self.negatives if self.negatives else None


@dataclass(frozen=True)
class ClassErrors:
    """One protected class, dense and as delivered; None where not counted."""

    guard_dense: Errors
    guard: Errors
    test_dense: Errors | None = None
    test: Errors | None = None


@dataclass(frozen=True)
class Job:
    """One run folder of a sweep.

    Attributes:
        name: Its folder, relative to the sweep's.
        overrides: What its command changed, as text.
        state: `running` (or killed), `interrupted`, `finished`, `failed`, or `unreadable`.
        error: Why it failed or cannot be read.
        sparsity: Of the delivered network, 0..1; None while unfinished.
        classes: Errors of the protected classes; empty while unfinished.
        accepted: Attempted rounds that were accepted; `refused` counts the others, `unproven` ones too.
        report: What to look at, relative to the sweep's folder.
    """

    name: str
    overrides: Mapping[str, str]
    seed: str | None
    state: str
    error: str | None = None
    objective: Any = None
    sparsity: float | None = None
    classes: Mapping[str, ClassErrors] = field(default_factory=dict)
    accepted: int = 0
    refused: int = 0
    verdict: str | None = None
    epochs: int = 0
    seconds: float = 0.0
    report: str | None = None

    @property
    def miss_rate(self) -> float:
        """Of the delivered network on guard data, the worst class, in [0, 1]."""
        return _worst(one.guard.miss_rate for one in self.classes.values())

    @property
    def alarm_rate(self) -> float:
        """The same of its false alarms."""
        return _worst(one.guard.alarm_rate for one in self.classes.values())

    @property
    def dense_rates(self) -> tuple[float, float]:
        """Both rates of the dense network."""
        dense = [one.guard_dense for one in self.classes.values()]
        return _worst(one.miss_rate for one in dense), _worst(one.alarm_rate for one in dense)


def read_jobs(sweep_dir: str | os.PathLike[str]) -> list[Job]:
    """Return the jobs whose run folders lie anywhere below `sweep_dir`, in the order of their overrides.

    Raises:
        ValueError: There is no run folder.
    """
    root = Path(sweep_dir)
    jobs = [_job(status.parent, root) for status in root.rglob("status.json")]
    if not jobs:
        raise ValueError(
            f"{root}: no run folder below it; give the folder of a sweep, such as multirun/<date>/<time>"
        )
    return sorted(jobs, key=lambda job: [_natural(f"{k}={v}") for k, v in sorted(job.overrides.items())])


def _job(path: Path, root: Path) -> Job:
    name = path.relative_to(root).as_posix()
    overrides: dict[str, str] = {}
    try:
        overrides = _overrides(path)
        return _known(RunFolder(path), name, overrides)
    except Exception as error:  # one broken folder must not hide the others
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Job(name, overrides, overrides.get("seed"), state="unreadable", error=reason)


def _known(folder: RunFolder, name: str, overrides: dict[str, str]) -> Job:
    folder.verify(("config.yaml", "ledger.jsonl", "status.json", "test.json"))
    rows, status = folder.ledger(), folder.status()
    dense, final = dense_row(rows), delivered_row(rows)
    seed = overrides.get("seed")
    if seed is None and folder.config_file.is_file():
        seed = str(folder.config().get("seed"))
    finished = status["state"] == "finished"
    tried = [row for row in rows if row["verdict"] != "baseline"]
    drawn = next((file for file in ("report.html", "ledger.png") if (folder.path / file).is_file()), None)
    return Job(
        name,
        overrides,
        seed,
        state=status["state"],
        error=status.get("error"),
        objective=status.get("objective"),
        sparsity=(float(final["sparsity"]) if final else 0.0) if finished else None,
        classes=_classes(dense, final, folder.test()) if finished else {},
        accepted=sum(row["verdict"] == "accepted" for row in tried),
        refused=sum(row["verdict"] != "accepted" for row in tried),
        verdict=rows[-1]["verdict"] if rows else None,
        epochs=sum(int(row["epochs"]) for row in rows),
        seconds=sum(float(row["seconds"]) for row in rows),
        report=f"{name}/{drawn}" if drawn else None,
    )


def _classes(dense: Row | None, final: Row | None, test: Mapping[str, Any] | None) -> dict[str, ClassErrors]:
    if dense is None or final is None:
        return {}
    return {
        name: ClassErrors(
            _of_guard(dense["classes"][name]),
            _of_guard(counts),
            _of_test(test, "dense", name),
            _of_test(test, "classes", name),
        )
        for name, counts in final["classes"].items()
        if name in dense["classes"]
    }


def _of_guard(counts: ClassCounts) -> Errors:
    return Errors(counts["fn"], counts["support"], counts["fp"], counts["negatives"])


def _of_test(test: Mapping[str, Any] | None, network: str, name: str) -> Errors | None:
    if test is None or name not in test.get(network, {}):
        return None
    counts = test[network][name]
    return Errors(counts["fn"], counts["support"], counts["fp"], test["samples"] - counts["support"])


def _worst(rates: Iterable[float | None]) -> float:
    """The largest of those that are known; 0 where none is."""
    return max((rate for rate in rates if rate is not None), default=0.0)


def _overrides(path: Path) -> dict[str, str]:
    file = path / ".hydra" / "overrides.yaml"
    lines = read_yaml(file) if file.is_file() else []
    pairs = [str(line).lstrip("+").partition("=") for line in lines] if isinstance(lines, list) else []
    return {key: value for key, _, value in pairs}


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """Sort key that puts 9 before 10 and 0.1 after 0.05."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(bool(i % 2), float(part) if i % 2 else 0.0, part) for i, part in enumerate(parts)]
