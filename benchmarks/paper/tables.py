"""The numbers of the paper's experiment, from its jobs' files: rows of plain values, one kind a function."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.guard_replay import clustered, exact_rule, harmful, point_rule, replay_each, truth, worlds
from benchmarks.paper.files import Job
from benchmarks.paper.measures import (
    Floats,
    Scored,
    found_at_fpr,
    mcnemar,
    measures,
    paired_difference,
    resamples,
    with_offset,
)

Row = dict[str, Any]
REFERENCE = "blind"
CORE = (REFERENCE, "weighted", "weighted_ranking")
SEEDS = 10  # an arm with fewer is marked
SPARSE = 0.01  # the largest density that tables show
RESAMPLES = 1000
GUARD_SIZES = (76, 200, 600)
TOLERANCES = (0.02, 0.05, 0.10)
DRAWS = 10_000
RETRIES = 2


def by_arm(jobs: list[Job], data: str) -> dict[str, dict[int, Job]]:
    """Return the jobs of a data set: arm -> seed -> job."""
    found: dict[str, dict[int, Job]] = defaultdict(dict)
    for job in jobs:
        if job.data == data:
            found[job.label][job.seed] = job
    return dict(found)


def drawn(arms: dict[str, dict[int, Job]]) -> list[str]:
    """Return the arms that figures show: the core's three, then all others with enough seeds; all if there are none."""
    others = [arm for arm, seeds in arms.items() if arm not in CORE and len(seeds) >= SEEDS]
    return [*(arm for arm in CORE if arm in arms), *others] or list(arms)


def shown_density(arms: dict[str, dict[int, Job]]) -> float:
    """Return the largest density of at most 1% that all arms have, or else most of them.

    In a trial run that did not get so far: the smallest that most of them have.
    """
    owners = Counter(density for seeds in arms.values() for density in densities_of(seeds))
    sparse = {d: count for d, count in owners.items() if d <= SPARSE}
    if sparse:
        return max(sparse, key=lambda d: (sparse[d], d))
    return min(owners, key=lambda d: (-owners[d], d))


def densities_of(seeds: dict[int, Job]) -> set[float]:
    """Return all nominal densities of an arm."""
    return {float(density) for job in seeds.values() for density in job.densities}


def names_for(negatives: int) -> list[str]:
    """Return the measures to report: FN at 5% FPR only where 1% is fewer than ten negatives."""
    every = [
        "fn",
        "recall",
        "fp",
        "fpr",
        "fn_offset",
        "fp_offset",
        "fn_at_fpr_1",
        "fn_at_fpr_5",
        "auc_roc",
        "auc_pr",
        "balanced_accuracy",
    ]
    return [name for name in every if name != "fn_at_fpr_5" or negatives < 1000]


def measured(scored: Scored, offset: Scored, weights: Floats | None = None) -> dict[str, Floats]:
    """Return the measures of a network, and its misses and false alarms with a decision offset."""
    moved = measures(offset, weights)
    return measures(scored, weights) | {"fn_offset": moved["fn"], "fp_offset": moved["fp"]}


def with_offsets(job: Job) -> list[Scored]:
    """Return every round's network on test, decided at its own threshold for as few misses as the dense network's.

    Read from the guard part, where the dense one decides without an offset; the test part has no say.
    """
    guard = job.scored("guard")
    misses = int((guard[0].positive & ~guard[0].found).sum())
    return [with_offset(on_test, own, misses) for on_test, own in zip(job.scored("test"), guard, strict=True)]


def result_rows(arms: dict[str, dict[int, Job]]) -> list[Row]:
    """Return one row an arm, seed and density: the measures on test, and exact McNemar against class-blind."""
    rows = []
    for arm, seeds in arms.items():
        for seed, job in seeds.items():
            other = arms.get(REFERENCE, {}).get(seed)
            networks = zip(job.densities, job.scored("test"), with_offsets(job), strict=True)
            for k, (density, scored, offset) in enumerate(networks):
                found = measured(scored, offset)
                positive = scored.positive
                row: Row = {"data": job.data, "arm": arm, "seed": seed, "density": float(density)}
                row["measured density"] = float(job.arrays["density"][k])
                row |= {"positives": int(positive.sum()), "negatives": int((~positive).sum())}
                row |= {name: float(found[name][0]) for name in names_for(row["negatives"])}
                if other is not None and arm != REFERENCE and density in other.densities:
                    blind = other.scored("test")[list(other.densities).index(density)]
                    for kind, ours, theirs in (
                        ("", scored.found, blind.found),
                        ("_at_fpr_1", found_at_fpr(scored, 0.01), found_at_fpr(blind, 0.01)),
                    ):
                        more, fewer, p = mcnemar(theirs[positive], ours[positive])
                        row |= {f"only_arm_misses{kind}": more, f"only_blind_misses{kind}": fewer}
                        row |= {f"mcnemar_p{kind}": p}
                rows.append(row)
    return rows


def mcnemar_rows(results: list[Row], arms: Iterable[str], density: float) -> list[Row]:
    """Return, an arm and seed, how many positives only one of arm and class-blind misses, and the exact p-value."""
    return [
        {"arm": r["arm"], "seed": r["seed"]}
        | {
            f"{name}{at}": r[f"{key}{kind}"]
            for kind, at in (("", ""), ("_at_fpr_1", " at 1% FPR"))
            for name, key in (
                ("only arm misses", "only_arm_misses"),
                ("only blind misses", "only_blind_misses"),
                ("p", "mcnemar_p"),
            )
        }
        for arm in arms
        for r in results
        if r["arm"] == arm and r["density"] == density and "mcnemar_p" in r
    ]


class Bootstrap:
    """Every job's measures on test and on the same resamples of its images, computed once."""

    def __init__(self, arms: dict[str, dict[int, Job]]) -> None:
        job = next(iter(next(iter(arms.values())).values()))
        positive = job.scored("test")[0].positive
        weights = resamples(positive, RESAMPLES, np.random.default_rng(0))
        self.names = names_for(int((~positive).sum()))
        self.point: dict[tuple[str, float, int], dict[str, float]] = {}
        self.boot: dict[tuple[str, float, int], dict[str, np.ndarray]] = {}
        for arm, seeds in arms.items():
            for seed, job in seeds.items():
                networks = zip(job.densities, job.scored("test"), with_offsets(job), strict=True)
                for density, scored, offset in networks:
                    key = (arm, float(density), seed)
                    self.point[key] = {n: float(v[0]) for n, v in measured(scored, offset).items()}
                    self.boot[key] = measured(scored, offset, weights)

    def compare(self, arm: tuple[str, float], reference: tuple[str, float], data: str) -> list[Row]:
        """Return a row a measure for (arm, density) against (arm, density), over the seeds that both have."""
        seeds = [s for *key, s in self.point if tuple(key) == arm and (*reference, s) in self.point]
        rows = []
        for name in self.names if seeds else []:
            a, r = (np.array([self.point[(*key, s)][name] for s in seeds]) for key in (arm, reference))
            ab, rb = (np.stack([self.boot[(*key, s)][name] for s in seeds]) for key in (arm, reference))
            difference = paired_difference(a, r, ab, rb, np.random.default_rng(1))
            rows.append(
                {"data": data, "arm": arm[0], "density": arm[1], "against": reference[0]}
                | {"reference density": reference[1], "measure": name, "seeds": len(seeds)}
                | {"arm mean": a.mean(), "reference mean": r.mean()}
                | vars(difference)
            )
        return rows


def comparison_rows(boot: Bootstrap, data: str) -> list[Row]:
    """Return paired differences on test: each arm to class-blind at its density, and to its own dense network."""
    rows = []
    for arm, density in dict.fromkeys(key[:2] for key in boot.point):
        if arm != REFERENCE:
            rows += boot.compare((arm, density), (REFERENCE, density), data)
        if density < 1:
            rows += [row | {"against": "own dense"} for row in boot.compare((arm, density), (arm, 1.0), data)]
    return rows


def guard_rows(arm: str, seeds: dict[int, Job], data: str) -> list[Row]:
    """Return the replayed guard: one row a tolerance, guard size, rule and truth (measured, or shifted to the edge)."""
    chains = [job.missed("guard", "test") for _, job in sorted(seeds.items())]
    densities = next(iter(seeds.values())).densities
    rows = []
    for delta in TOLERANCES:
        for world, networks in worlds(chains, delta).items():
            for n in GUARD_SIZES:
                for rule, accepts, retries in (
                    ("exact", exact_rule, 0),
                    ("point", point_rule, 0),
                    ("point, retries", point_rule, RETRIES),
                ):
                    found = replay_each(networks, n, delta, accepts, retries, DRAWS)
                    rate = np.array([f.violates for f in found])
                    low, high = clustered(rate)
                    delivered = float(np.mean([f.delivered for f in found]))
                    rows.append(
                        {"data": data, "arm": arm, "tolerance": delta, "truth": world, "positives": n}
                        | {"rule": rule, "seeds": len(found), "pool": chains[0].shape[1]}
                        | {"harmful rounds": harmful(networks, delta), "false accepts": rate.mean()}
                        | {"low": low, "high": high, "rounds delivered": delivered}
                        | {"density delivered": after(densities, delivered)}
                        | {"share with a refusal": np.mean([f.refused for f in found])}
                    )
    return rows


def after(densities: np.ndarray, rounds: float) -> float:
    """Return the density after so many rounds, a fraction counting within a step: 1.5 of (1, 1/2, 1/4) is 2^-1.5."""
    return float(np.exp(np.interp(rounds, np.arange(len(densities)), np.log(densities))))


def guarded_rows(arm: str, seeds: dict[int, Job], data: str, delta: float) -> list[Row]:
    """Return, for each seed and round, the exact rule's word on the guard part, in sequence, and the truth on test."""
    rows = []
    for seed, job in sorted(seeds.items()):
        guard, test = job.missed("guard"), job.missed("test")
        b, a = (guard & ~guard[0]).sum(1), (~guard & guard[0]).sum(1)
        passes = exact_rule(b, a, guard.shape[1], delta)
        stands = np.concatenate([[True], np.logical_and.accumulate(passes[1:])])
        for k, density in enumerate(job.densities):
            rows.append(
                {"data": data, "arm": arm, "seed": seed, "density": float(density), "tolerance": delta}
                | {"newly missed": int(b[k]), "newly found": int(a[k]), "positives": guard.shape[1]}
                | {"proven": bool(passes[k]) or k == 0, "stands": bool(stands[k])}
                | {"rise on test": float(truth(test)[k])}
            )
    return rows
