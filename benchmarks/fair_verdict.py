"""How often the guard accepts what is harmful: whole runs of made-up networks, judged by the package's own code.

    python -m benchmarks.fair_verdict [--runs 2000] [--out benchmarks/results]

Scores are normal: a dense network misses .32 of the positives and calls .14 of the negatives (as on elpv); a
candidate's scores have a correlation of .9 with the dense network's, of the rest none, half or .98 is common to all
candidates of a run. What is the package's: `Search.at_end` with the decision offset (`choose_offset`, the chance of
proof), `Decisions`, `Judge`, `judge_once` with Holm's procedure, the error budget of a fixed sequence. What is not:
training, and that p-values are kept for tables that come again (they depend on the table alone).

* **At the limit**: on validation data a candidate is as good as the dense network, apart from drift; whatever offset is
  chosen there, its guard scores come from a population in which the true rise *at that offset* equals the limit: of
  misses, of false alarms, or of both. That is the worst that the guard can meet. All six candidates are kept,
  whatever validation data say; the first K of them are a run with K candidates.
* **Through the corner**: one population for validation and guard data, whose ROC curve runs through the point at which
  both rises equal their limits, so that every offset is harmful.
* **Each round**: the fixed sequence of judging="round".
* **A worse ROC**: one population; candidates drift (sd .28) and validation data may abandon them, as in a run.
* **Grouped**: blocks of two to six identical cases, redrawn as blocks, counted as if they were cases.

Intervals are those of Clopper & Pearson. Writes fair_verdict.md and fair_verdict.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmarks import support
from lightning_classprune import files
from lightning_classprune.guard import region, statistics, verdict
from lightning_classprune.guard.classification import Classes
from lightning_classprune.guard.dense import unfit
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.offset import Labels
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.statistics import exact_p_value
from lightning_classprune.guard.task import Columns
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.job.measures import exact_interval
from lightning_classprune.rounds.judgement import judge_once
from lightning_classprune.rounds.search import Look, Search
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes

Floats = NDArray[np.float64]
ALPHA = 0.05
MISSED, CALLED = 0.32, 0.14  # shares of the dense network's positives and negatives
AGREES = 0.9  # correlation with the dense network's scores
DRIFT = 0.28  # standard deviation of a candidate's slide along its ROC curve
CANDIDATES = 6
NUMBERS, FEW = tuple(range(1, CANDIDATES + 1)), (1, 3, 6)
SIZES, TOLERANCES = ((205, 450), (76, 300)), (0.05, 0.10)
COMMON = {"independent": 0.0, "half": 0.5, "nearly equal": 0.98}
SIDES = {"misses": (True, False), "false alarms": (False, True), "both": (True, True)}
SICK = "sick"
SEED = 20261
HOPELESS = float(ndtri(0.25))  # a score


class GivenColumns(Evaluator):
    """The evaluator of networks that are nothing but what they say: the module *is* its columns."""

    def columns(self, trainer: Any, module: Any, data: Any, limit: int | None = None) -> Columns | None:
        columns: Columns = module
        return columns


@dataclass
class Known:
    """Outcomes whose pairs with the dense network were counted once, by `Decisions`, for they are asked for often."""

    counted: tuple[Evidence, Evidence]

    def pairs(self, dense: Any, name: str) -> tuple[Evidence, Evidence]:
        return self.counted


@dataclass(frozen=True, kw_only=True)
class World:
    """Sizes and limits.

    Attributes:
        positives: Of the guard; validation data have two fifths of it.
        negatives: The same.
        tolerance: Allowed rise of the FN rate.
        max_fp_rise: Of the false-alarm rate; None: not guarded.
        common: Share of what is not the dense network's that all candidates have in common.
        offset: Whether one is chosen.
        grouped: Share of blocks that hold two to six identical cases instead of one.
    """

    positives: int = 205
    negatives: int = 450
    tolerance: float = 0.05
    max_fp_rise: float | None = 0.10
    common: float = 0.5
    offset: bool = True
    grouped: float = 0.0
    evaluator: GivenColumns = field(
        default_factory=lambda: GivenColumns(
            Classes(("well", SICK), [1], 0.0), default_predict, Processes(0, 1)
        )
    )

    @property
    def protected(self) -> tuple[Protected, ...]:
        return (Protected(1, SICK, FNTolerance(rate=self.tolerance), self.max_fp_rise),)

    def search(self, dense: Decisions) -> Search:
        """That of a run whose dense network decided so on validation data."""
        return Search(
            self.evaluator,
            self.protected,
            None,  # type: ignore[arg-type]  # the evaluator has no use for data
            with_offset=self.offset,
            labels={SICK: Labels(self.positives, self.negatives)},
            dense=dense,
        )

    def judge(self, dense: Decisions) -> Judge:
        return Judge(self.evaluator, self.protected, ErrorBudget(ALPHA, 0, CANDIDATES), dense, dense)


@dataclass(frozen=True)
class Part:
    """Standard normal scores of one part of the data: of the dense network `(n,)`, of candidates `(K, n)`."""

    target: NDArray[np.bool_]
    dense: Floats
    candidates: Floats

    def decided_by(self, world: World, scores: Floats, offsets: dict[str, float] | None = None) -> Decisions:
        return world.evaluator.task.outcomes(self.columns(scores), offsets or {})  # type: ignore[return-value]

    def columns(self, scores: Floats) -> Columns:
        return torch.from_numpy(self.target.astype(np.int64)), torch.from_numpy(scores)

    def scores(self, standard: Floats, of_positives: float, of_negatives: float) -> Floats:
        """With these means."""
        return standard + np.where(self.target, of_positives, of_negatives)

    def dense_scores(self) -> Floats:
        return self.scores(self.dense, -ndtri(MISSED), ndtri(CALLED))


def draw(world: World, positives: int, negatives: int, rng: np.random.Generator) -> Part:
    """One part of the data of one run."""
    cases = np.concatenate(
        [
            np.repeat(np.arange(len(sizes)) + first, sizes)
            for first, sizes in (
                (0, blocks(positives, world.grouped, rng)),
                (positives, blocks(negatives, world.grouped, rng)),
            )
        ]
    )
    own = rng.standard_normal((CANDIDATES + 2, positives + negatives))[:, cases]
    dense, common, own = own[0], own[1], own[2:]
    rest = np.sqrt(world.common) * common + np.sqrt(1 - world.common) * own
    candidates = AGREES * dense + np.sqrt(1 - AGREES**2) * rest
    return Part(np.arange(positives + negatives) < positives, dense, candidates)


def blocks(cases: int, grouped: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sizes of blocks that hold so many cases together; the last one is cut off."""
    sizes = np.where(rng.random(cases) < grouped, rng.integers(2, 7, size=cases), 1)
    ends = np.minimum(np.cumsum(sizes), cases)
    found = np.diff(ends, prepend=0)
    return found[found > 0]


def validation(world: World, rng: np.random.Generator) -> Part:
    return draw(world, round(world.positives * 0.4), round(world.negatives * 0.4), rng)


def guard(world: World, rng: np.random.Generator) -> Part:
    return draw(world, world.positives, world.negatives, rng)


def looks(world: World, part: Part, worse: float, drift: Floats, levels: Sequence[float]) -> list[Look]:
    """What validation data say of each candidate.

    Args:
        world: Sizes and limits.
        part: The validation data.
        worse: How much less far apart a candidate's positives and negatives are, in standard deviations.
        drift: Of each candidate's scores.
        levels: That each candidate may expect to be judged at.
    """
    search = world.search(part.decided_by(world, part.dense_scores()))
    means = -ndtri(MISSED) - worse / 2, ndtri(CALLED) + worse / 2
    return [
        search.at_end(None, part.columns(part.scores(standard, *(m + d for m in means))), level)
        for standard, d, level in zip(part.candidates, drift, levels, strict=True)
    ]


def means_at_limit(offset: float, world: World, sides: tuple[bool, bool]) -> tuple[float, float]:
    """Means of positives and negatives at which the true rises with this offset are the limits, or nothing."""
    assert world.max_fp_rise is not None
    missed = MISSED + world.tolerance * sides[0]
    called = CALLED + world.max_fp_rise * sides[1]
    return -ndtri(missed) - offset, ndtri(called) - offset


def true_rises(offset: float, means: tuple[float, float]) -> tuple[float, float]:
    """True rises of the FN and of the false-alarm rate of a candidate with such means."""
    return float(ndtr(-means[0] - offset)) - MISSED, float(ndtr(means[1] + offset)) - CALLED


def counted(world: World, part: Part, dense: Decisions, scores: Floats, look: Look) -> Known:
    return Known(part.decided_by(world, scores, look.offsets).pairs(dense, SICK))


def at_the_limit(
    world: World, runs: int, seed: int, sides: Sequence[str], numbers: Sequence[int]
) -> dict[str, dict[int, int]]:
    """By side at the limit and number of candidates, the first so many, how many runs accept a harmful one."""
    wrong = {side: dict.fromkeys(numbers, 0) for side in sides}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        found = looks(
            world, validation(world, rng), 0.0, DRIFT * rng.standard_normal(CANDIDATES), holm_levels()
        )
        part = guard(world, rng)
        dense = part.decided_by(world, part.dense_scores())
        judge = world.judge(dense)
        for side in sides:
            seen = []
            for standard, look in zip(part.candidates, found, strict=True):
                means = means_at_limit(look.offsets.get(SICK, 0.0), world, SIDES[side])
                seen.append(counted(world, part, dense, part.scores(standard, *means), look))
            for k in numbers:
                wrong[side][k] += any_accepted(judge, seen[:k])
    return wrong


def holm_levels() -> list[float]:
    return [ALPHA / (k + 1) for k in range(CANDIDATES)]


def any_accepted(judge: Judge, seen: Sequence[Known]) -> bool:
    return any(one.accepted for one in judge_once(judge, seen, ALPHA))  # type: ignore[arg-type]


def through_the_corner(world: World, runs: int, seed: int, numbers: Sequence[int]) -> dict[int, int]:
    """As `at_the_limit`, where validation and guard data are of one population."""
    assert world.max_fp_rise is not None
    wrong = dict.fromkeys(numbers, 0)
    # The distance of the means at which the curve passes through the corner; the offset slides along it.
    apart = -ndtri(MISSED + world.tolerance) - ndtri(CALLED + world.max_fp_rise)
    worse = float(-ndtri(MISSED) - ndtri(CALLED) - apart)
    means = -ndtri(MISSED) - worse / 2, ndtri(CALLED) + worse / 2
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        found = looks(world, validation(world, rng), worse, np.zeros(CANDIDATES), holm_levels())
        part = guard(world, rng)
        dense = part.decided_by(world, part.dense_scores())
        judge = world.judge(dense)
        seen = [
            counted(world, part, dense, part.scores(standard, *means), look)
            for standard, look in zip(part.candidates, found, strict=True)
        ]
        for k in numbers:
            wrong[k] += any_accepted(judge, seen[:k])
    return wrong


def each_round(world: World, harmless: int, sides: tuple[bool, bool], runs: int, seed: int) -> int:
    """How many fixed sequences, in which so many harmless candidates come first, accept one at the limit."""
    wrong = 0
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        val, part = validation(world, rng), guard(world, rng)
        drift = DRIFT * rng.standard_normal(CANDIDATES)
        dense = part.decided_by(world, part.dense_scores())
        judge = world.judge(dense)
        for k in range(CANDIDATES):
            only = replace(val, candidates=val.candidates[k : k + 1])
            level = judge.budget.level()
            assert level is not None
            look = looks(world, only, 0.0, drift[k : k + 1], [level])[0]
            limits = sides if k >= harmless else (False, False)
            means = means_at_limit(look.offsets.get(SICK, 0.0), world, limits)
            scores = part.scores(part.candidates[k], *means)
            if not judge.verdict(counted(world, part, dense, scores, look)).accepted:  # type: ignore[arg-type]
                break
            if k >= harmless:
                wrong += 1
                break
    return wrong


@dataclass(frozen=True)
class Delivery:
    """Of runs with candidates of one population: shares, and means where something was accepted."""

    accepted: int
    harmful: int
    kept: float
    fn_rise: float
    fp_rise: float


def as_in_a_run(world: World, worse: float, at_end: bool, runs: int, seed: int, limits: World) -> Delivery:
    """Runs of five candidates that validation data may abandon; the last that is accepted is delivered.

    Args:
        world: What is guarded.
        worse: See `looks`.
        at_end: Judged at the end, with Holm's procedure; else each round, to the first refusal.
        runs: Number of runs.
        seed: Of the draws.
        limits: What harmful is told by, also where `world` does not guard it.
    """
    assert limits.max_fp_rise is not None
    accepted, harmful, kept = 0, 0, []
    rises: list[tuple[float, float]] = []
    base = -ndtri(MISSED) - worse / 2, ndtri(CALLED) + worse / 2
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        val, part = validation(world, rng), guard(world, rng)
        drift = DRIFT * rng.standard_normal(CANDIDATES)
        dense = part.decided_by(world, part.dense_scores())
        judge = world.judge(dense)
        seen: list[Known] = []
        truth: list[tuple[float, float]] = []
        for k in range(CANDIDATES - 1):
            level = ALPHA / (len(seen) + 1) if at_end else ALPHA
            look = looks(
                world, replace(val, candidates=val.candidates[k : k + 1]), worse, drift[k : k + 1], [level]
            )[0]
            if look.reason is not None:
                continue
            means = base[0] + drift[k], base[1] + drift[k]
            seen.append(counted(world, part, dense, part.scores(part.candidates[k], *means), look))
            truth.append(true_rises(look.offsets.get(SICK, 0.0), means))
        kept.append(len(seen))
        if at_end:
            stands = [one.accepted for one in judge_once(judge, seen, ALPHA)]  # type: ignore[arg-type]
        else:
            stands = list(itertools.takewhile(bool, (judge.verdict(one).accepted for one in seen)))  # type: ignore[arg-type]
        good = [truth[i] for i, ok in enumerate(stands) if ok]
        accepted += bool(good)
        harmful += any(fn >= limits.tolerance or fp >= limits.max_fp_rise for fn, fp in good)
        rises += good[-1:]
    mean = np.mean(rises, axis=0) if rises else (float("nan"), float("nan"))
    return Delivery(accepted, harmful, float(np.mean(kept)), float(mean[0]), float(mean[1]))


def constant(world: World, always: bool, as_dense: bool, runs: int, seed: int) -> int:
    """How many runs accept anything, where every candidate calls every case positive, or none; or the dense one does.

    A candidate of a constant dense network is that network itself, which changes no decision.
    """
    found = 0
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        val, part = validation(world, rng), guard(world, rng)
        says = 1.0 if always else -1.0
        flat = np.full(len(part.target), says)
        dense = part.decided_by(world, flat if as_dense else part.dense_scores())
        judge = world.judge(dense)
        own = dense.pairs(dense, SICK)
        judge.unfit = {SICK: why} if (why := unfit(*own)) else {}
        if as_dense:
            look = Look()
        else:
            search = world.search(val.decided_by(world, val.dense_scores()))
            look = search.at_end(None, val.columns(np.full(len(val.target), says)), ALPHA)
        found += any_accepted(judge, [counted(world, part, dense, flat, look)] * CANDIDATES)
    return found


# -- the tables --


def share(k: int, n: int) -> str:
    """A share with its exact interval."""
    low, high = exact_interval(k, n)
    return f"{k / n:.4f} [{low:.4f}, {high:.4f}]"


@cache
def beyond_doubt(n: int, delta: float) -> bool:
    """Whether every table whose score lies above `HOPELESS` has a p-value above alpha: it rises with the score."""
    tables = region.Region(HOPELESS, n, delta)
    return region.largest_probability(tables, n, delta)[0] > ALPHA


@cache
def quick_p_value(newly_missed: int, newly_found: int, n: int, delta: float) -> float:
    """The exact p-value, by its table; 1 where it is above alpha for sure, or decides only what a failure is called."""
    hopeless = statistics.tango_z(newly_missed, newly_found, n, delta) > HOPELESS
    if delta < 0 or (hopeless and beyond_doubt(n, delta)):
        return 1.0
    return exact_p_value(newly_missed, newly_found, n, delta)


def quick() -> None:
    """Keep p-values by their table, and spare what decides nothing: bounds, advice, whether a failure is a refusal."""
    statistics.exact_p_value = quick_p_value
    statistics.positives_needed = lambda *_: 1
    verdict.BOUND_UP_TO = 0


def level_rows(runs: int) -> list[dict[str, Any]]:
    """At the limit: one row a world and side, how many runs err for each number of candidates."""
    rows = []
    for (n, others), tolerance, (name, common) in itertools.product(SIZES, TOLERANCES, COMMON.items()):
        if tolerance != TOLERANCES[0] and name != "half":
            continue
        world = World(positives=n, negatives=others, tolerance=tolerance, common=common)
        for side, wrong in at_the_limit(world, runs, SEED, list(SIDES), NUMBERS).items():
            rows.append(
                {"positives / negatives": f"{n} / {others}", "tolerance": f"{tolerance:.2f}", "errors": name}
                | {"at the limit": side}
                | {f"K = {k}": errs for k, errs in wrong.items()}
            )
        print(rows[-3:], flush=True)
    return rows


def corner_rows(runs: int) -> list[dict[str, Any]]:
    """Through the corner, by sizes and tolerance."""
    rows = []
    for (n, others), tolerance in itertools.product(SIZES, TOLERANCES):
        wrong = through_the_corner(
            World(positives=n, negatives=others, tolerance=tolerance), runs, SEED + 1, FEW
        )
        row = {"positives / negatives": f"{n} / {others}", "tolerance": f"{tolerance:.2f}"}
        rows.append(row | {f"K = {k}": share(errs, runs) for k, errs in wrong.items()})
    return rows


def round_rows(runs: int) -> list[dict[str, Any]]:
    """The fixed sequence, by sizes and the harmless candidates that come first."""
    return [
        {"positives / negatives": f"{n} / {others}", "harmless ones first": harmless}
        | {
            side: share(
                each_round(World(positives=n, negatives=others), harmless, limits, runs, SEED + 2), runs
            )
            for side, limits in SIDES.items()
        }
        for (n, others), harmless in itertools.product(SIZES, (0, 2))
    ]


def roc_rows(runs: int) -> list[dict[str, Any]]:
    """What three ways of judging make of networks as good as the dense one, and of worse ones."""
    rows = []
    world, alone = World(), World(max_fp_rise=None, offset=False)
    for worse in (0.0, 0.4):
        for about, what, at_end in (
            ("misses alone, no offset, each round", alone, False),
            ("both sides, offset, each round", world, False),
            ("both sides, offset, at the end", world, True),
        ):
            of = as_in_a_run(what, worse, at_end, runs, SEED + 3, world)
            rows.append(
                {
                    "worse by": f"{worse:.1f} sd",
                    "guard": about,
                    "something accepted": share(of.accepted, runs),
                }
                | {"something harmful accepted": share(of.harmful, runs), "kept of 5": f"{of.kept:.2f}"}
                | {"true FN rise": f"{of.fn_rise:+.3f}", "true FP rise": f"{of.fp_rise:+.3f}"}
            )
    return rows


def constant_rows(runs: int) -> list[dict[str, Any]]:
    """Networks that call all cases, or none."""
    return [
        {"positives / negatives": f"{n} / {others}", "network": "dense" if as_dense else "every candidate"}
        | {"calls": "all" if always else "none"}
        | {
            "runs that accept": share(
                constant(World(positives=n, negatives=others), always, as_dense, runs, SEED + 4), runs
            )
        }
        for (n, others), as_dense, always in itertools.product(SIZES, (False, True), (True, False))
    ]


def grouped_rows(runs: int) -> list[dict[str, Any]]:
    """By the share of blocks that hold more than one case."""
    rows = []
    for grouped in (0.25, 0.5, 1.0):
        wrong = at_the_limit(World(grouped=grouped), runs, SEED + 5, ["misses"], FEW)["misses"]
        rows.append(
            {"share of blocks of 2 to 6": f"{grouped:.2f}"}
            | {f"K = {k}": share(errs, runs) for k, errs in wrong.items()}
        )
    return rows


def report(
    rows: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]], runs: int, out: Path, seconds: float
) -> None:
    """Write the tables."""
    numbers = [f"K = {k}" for k in NUMBERS]
    shown = [{key: f"{v / runs:.4f}" if key in numbers else v for key, v in row.items()} for row in rows]
    worst = max((row[key], key, row) for row in rows for key in numbers)
    above = sum(exact_interval(row[key], runs)[0] > ALPHA for row in rows for key in numbers)
    width = exact_interval(round(ALPHA * runs), runs)
    text = [
        "# How often the guard accepts what is harmful",
        "",
        "`python -m benchmarks.fair_verdict --help` explains how this was made. Confidence .95; allowed rise of the",
        f"false-alarm rate .10; {runs:,} runs a cell (half as many for each round and for the ROC, a tenth for",
        f"constant networks), seeds {SEED} to {SEED + 5}, {seconds:.0f} processor seconds on one thread. Exact 95%",
        f"intervals; of {ALPHA:.0%} found in {runs:,} runs it is [{width[0]:.4f}, {width[1]:.4f}].",
        "",
        '## Every candidate at the limit, judging="end"',
        "",
        "Share of runs with K candidates that accept any; the first K of the same six, so columns are not independent.",
        f"Largest: {share(worst[0], runs)} ({worst[1]}, {worst[2]['positives / negatives']}, tolerance "
        f"{worst[2]['tolerance']}, errors {worst[2]['errors']}, {worst[2]['at the limit']} at the limit). Cells whose "
        f"interval lies above .05: {above} of {len(rows) * len(numbers)}.",
        "",
        support.markdown(shown),
        "",
        "## Through the corner: every offset is harmful",
        "",
        support.markdown(tables["corner"]),
        "",
        '## judging="round", the fixed sequence',
        "",
        "Share of runs that accept a candidate at the limit (of misses, of false alarms, of both).",
        "",
        support.markdown(tables["round"]),
        "",
        "## Networks with a worse ROC",
        "",
        "Five candidates of one quality that drift along their ROC curves; 205 / 450, tolerance .05. Harmful: a true",
        "rise at or beyond .05 of misses or .10 of false alarms. The true rises are means over what is delivered.",
        "",
        support.markdown(tables["roc"]),
        "",
        "## Networks that call all or none",
        "",
        "As candidates of a dense network that is one; and as the dense network, whose candidates change nothing.",
        "",
        support.markdown(tables["constant"]),
        "",
        "## Grouped data: here the level does not hold",
        "",
        "Misses at the limit, 205 / 450, tolerance .05. The test counts cases and takes them for independent; where a",
        "share of the blocks holds two to six identical cases, harmful networks are accepted more often than promised.",
        "Give the guard one case of each block.",
        "",
        support.markdown(tables["grouped"]),
    ]
    support.write(out / "fair_verdict.md", text)
    files.write_text(
        out / "fair_verdict.json",
        json.dumps({"runs": runs, "versions": support.versions(), "level": rows, **tables}, indent=1) + "\n",
    )


def parser() -> argparse.ArgumentParser:
    made = support.command_line(__doc__)
    made.add_argument("--runs", type=int, default=2000, help="runs a cell (default: %(default)s)")
    return made


def main() -> None:
    given = parser().parse_args()
    support.one_thread()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    quick()
    started = time.process_time()
    tables = {"constant": constant_rows(given.runs // 10), "grouped": grouped_rows(given.runs)}
    tables |= {"corner": corner_rows(given.runs)}
    tables |= {"roc": roc_rows(given.runs // 2), "round": round_rows(given.runs // 2)}
    print(json.dumps(tables, indent=1), flush=True)
    rows = level_rows(given.runs)
    report(rows, tables, given.runs, given.out, time.process_time() - started)


if __name__ == "__main__":
    main()
