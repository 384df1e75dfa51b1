"""A sweep as a whole: its settings over seeds, those that no other one beats, and its jobs as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from lightning_classprune.job.sweep.job_rows import Job


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
    def miss_rates(self) -> list[float]:
        """Of its jobs' delivered networks on guard data, 0..1."""
        return [job.miss_rate for job in self.jobs]

    @property
    def alarm_rates(self) -> list[float]:
        """The same of false alarms."""
        return [job.alarm_rate for job in self.jobs]

    @property
    def dense_rates(self) -> tuple[float, float]:
        """Mean miss rate and false-alarm rate of the dense networks."""
        both = [job.dense_rates for job in self.jobs]
        return mean(misses for misses, _ in both), mean(alarms for _, alarms in both)

    @property
    def point(self) -> tuple[float, float, float]:
        """Mean sparsity, miss rate and false-alarm rate."""
        return mean(self.sparsities), mean(self.miss_rates), mean(self.alarm_rates)

    @property
    def pruned(self) -> bool:
        """Whether a pruning step of any of its jobs was accepted."""
        return any(job.accepted for job in self.jobs)


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

    One beats another if it is at least as sparse, has no higher miss rate and no higher false-alarm rate, and is better
    in one of the three. Rates are absolute, so that a poor dense network, which is easily kept up with, earns nothing.
    Means over seeds are compared: the luckiest seed of a setting says little about the setting.
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


def _flat(job: Job, keys: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"job": job.name, **{key: job.overrides.get(key) for key in keys}, "seed": job.seed}
    row |= {"state": job.state, "error": job.error, "objective": job.objective}
    row |= {"sparsity": job.sparsity}
    if job.classes:
        row |= {"miss_rate": job.miss_rate, "alarm_rate": job.alarm_rate}
        row |= dict(zip(("miss_rate_dense", "alarm_rate_dense"), job.dense_rates, strict=True))
    for name, one in job.classes.items():
        for split, dense, now in (
            ("guard", one.guard_dense, one.guard),
            ("test", one.test_dense, one.test),
        ):
            row[f"{split}_fn_dense/{name}"] = dense and dense.missed
            row[f"{split}_fn/{name}"] = now and now.missed
            row[f"{split}_support/{name}"] = now and now.positives
            row[f"{split}_fp_dense/{name}"] = dense and dense.alarms
            row[f"{split}_fp/{name}"] = now and now.alarms
            row[f"{split}_negatives/{name}"] = now and now.negatives
    row |= {"accepted": job.accepted, "refused": job.refused, "last_verdict": job.verdict}
    return row | {"epochs": job.epochs, "seconds": round(job.seconds, 3), "report": job.report}


def _beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2] and one != other
