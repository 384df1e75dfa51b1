"""A sweep as rows: what each job tried, how it ended, what it delivered; and which settings nothing else beats."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from omegaconf import OmegaConf

from lightning_classprune.job.objective import fn_increase
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row


@dataclass(frozen=True)
class ClassMisses:
    """False negatives of one protected class, dense and as delivered; None where not counted."""

    guard_dense: int
    guard: int
    guard_support: int
    test_dense: int | None = None
    test: int | None = None
    test_support: int | None = None


@dataclass(frozen=True)
class Job:
    """One run folder of a sweep.

    Attributes:
        name: Its folder, relative to the sweep's.
        overrides: What its command changed, as text.
        state: `running` (or killed), `finished`, `failed`, or `unreadable`.
        error: Why it failed or cannot be read.
        sparsity: Of the delivered network, 0..1; None while unfinished.
        increase: Worst increase of a protected class' FN rate on guard data, -1..1; None while unfinished.
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
    increase: float | None = None
    classes: Mapping[str, ClassMisses] = field(default_factory=dict)
    accepted: int = 0
    refused: int = 0
    verdict: str | None = None
    epochs: int = 0
    seconds: float = 0.0
    report: str | None = None


@dataclass(frozen=True)
class Setting:
    """The finished jobs that differ in nothing but the seed; `values` are the overrides that vary in the sweep."""

    values: tuple[tuple[str, str], ...]
    jobs: tuple[Job, ...]

    @property
    def label(self) -> str:
        """Its overrides in one line, to be read."""
        return ", ".join(f"{short_key(key)}={short_value(value)}" for key, value in self.values) or "all jobs"

    @property
    def sparsities(self) -> list[float]:
        """Of its jobs, 0..1."""
        return [job.sparsity for job in self.jobs if job.sparsity is not None]

    @property
    def increases(self) -> list[float]:
        """Of its jobs, -1..1."""
        return [job.increase for job in self.jobs if job.increase is not None]

    @property
    def point(self) -> tuple[float, float]:
        """Mean sparsity and mean increase."""
        return mean(self.sparsities), mean(self.increases)

    @property
    def pruned(self) -> bool:
        """Whether a pruning step of any of its jobs was accepted."""
        return any(job.accepted for job in self.jobs)


def read(sweep_dir: str | os.PathLike[str]) -> list[Job]:
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


def varying(jobs: Sequence[Job]) -> list[str]:
    """Return the overrides, but for the seed, that differ between `jobs`."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides if key != "seed")
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def short_key(key: str) -> str:
    """Return `key` without its groups."""
    return re.split("[./]", key)[-1]


def short_value(value: str) -> str:
    """Return `value`, if it is a fraction, in at most four digits."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value) else value


def settings(jobs: Sequence[Job]) -> list[Setting]:
    """Group the finished jobs by everything but the seed, in their order."""
    keys = varying(jobs)
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        if job.state == "finished" and job.sparsity is not None:
            values = tuple((key, job.overrides[key]) for key in keys if key in job.overrides)
            groups.setdefault(values, []).append(job)
    return [Setting(values, tuple(members)) for values, members in groups.items()]


def frontier(candidates: Sequence[Setting]) -> list[Setting]:
    """Return the settings with an accepted step that no other one beats, by rising sparsity.

    One beats another if it is at least as sparse and its FN rate rose no more, and is better in one of the two. Means
    over seeds are compared: the luckiest seed of a setting says little about the setting.
    """
    able = [setting for setting in candidates if setting.pruned]
    kept = [one for one in able if not any(_beats(other.point, one.point) for other in able)]
    return sorted(kept, key=lambda setting: setting.point)


def to_csv(jobs: Sequence[Job]) -> str:
    """Return one line a job; fractions are 0..1, `guard_fn_dense/<class>` is the dense network's."""
    rows = [_flat(job, varying(jobs)) for job in jobs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tally(jobs: Sequence[Job]) -> str:
    """Say in one line how the jobs stand."""
    states = [job.state for job in jobs]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(["finished", *sorted(states)])]
    dense = sum(job.state == "finished" and not job.accepted for job in jobs)
    if dense:
        parts[0] += f" ({dense} without an accepted step)"
    return f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}: {', '.join(parts)}"


def _job(path: Path, root: Path) -> Job:
    name = path.relative_to(root).as_posix()
    overrides: dict[str, str] = {}
    try:
        overrides = _overrides(path)
        return _known(RunFolder(path), name, overrides)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        # One broken folder must not hide the others.
        reason = f"{type(error).__name__}: {error}"
        return Job(name, overrides, overrides.get("seed"), state="unreadable", error=reason)


def _known(folder: RunFolder, name: str, overrides: dict[str, str]) -> Job:
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
        increase=max(fn_increase(rows).values(), default=0.0) if finished else None,
        classes=_classes(dense, final, folder.test() if finished else None),
        accepted=sum(row["verdict"] == "accepted" for row in tried),
        refused=sum(row["verdict"] != "accepted" for row in tried),
        verdict=rows[-1]["verdict"] if rows else None,
        epochs=sum(int(row["epochs"]) for row in rows),
        seconds=sum(float(row["seconds"]) for row in rows),
        report=f"{name}/{drawn}" if drawn else None,
    )


def _classes(dense: Row | None, final: Row | None, test: Mapping[str, Any] | None) -> dict[str, ClassMisses]:
    if dense is None or final is None:
        return {}
    tested = {} if test is None else test["classes"]
    before = {} if test is None else test.get("dense", {})
    return {
        name: ClassMisses(
            guard_dense=dense["classes"][name]["fn"],
            guard=counts["fn"],
            guard_support=counts["support"],
            test_dense=before.get(name, {}).get("fn"),
            test=tested.get(name, {}).get("fn"),
            test_support=tested.get(name, {}).get("support"),
        )
        for name, counts in final["classes"].items()
        if name in dense["classes"]
    }


def _overrides(path: Path) -> dict[str, str]:
    file = path / ".hydra" / "overrides.yaml"
    lines = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else []
    pairs = [str(line).lstrip("+").partition("=") for line in lines] if isinstance(lines, list) else []
    return {key: value for key, _, value in pairs}


def _flat(job: Job, keys: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"job": job.name, **{key: job.overrides.get(key) for key in keys}, "seed": job.seed}
    row |= {"state": job.state, "error": job.error, "objective": job.objective}
    row |= {"sparsity": job.sparsity, "fn_rate_increase": job.increase}
    for name, misses in job.classes.items():
        row[f"guard_fn_dense/{name}"] = misses.guard_dense
        row[f"guard_fn/{name}"] = misses.guard
        row[f"guard_support/{name}"] = misses.guard_support
        row[f"test_fn_dense/{name}"] = misses.test_dense
        row[f"test_fn/{name}"] = misses.test
        row[f"test_support/{name}"] = misses.test_support
    row |= {"accepted": job.accepted, "refused": job.refused, "last_verdict": job.verdict}
    return row | {"epochs": job.epochs, "seconds": round(job.seconds, 3), "report": job.report}


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def _natural(text: str) -> list[tuple[bool, float, str]]:
    """Sort key that puts 9 before 10 and 0.1 after 0.05."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(bool(i % 2), float(part) if i % 2 else 0.0, part) for i, part in enumerate(parts)]
