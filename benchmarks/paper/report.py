"""Tables and figures from the files that the jobs left.

    python -m benchmarks.paper.report outputs/paper [--out benchmarks/results/paper] [--no-guard]

Writes results.csv (a row an arm, seed and density), comparisons.csv (paired differences with intervals), factors.csv
(which part of the gradual arms does it), guard.csv (the replayed guard), verdicts.csv (the guard part's own verdicts),
README.md and figures. What there is is reported; arms with fewer than ten seeds are marked.
"""

from __future__ import annotations

import csv
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.paper.factorial import factor_rows
from benchmarks.paper.figures import against_density, roc, strip
from benchmarks.paper.files import Job, read_jobs
from benchmarks.paper.tables import (
    REFERENCE,
    SEEDS,
    Bootstrap,
    Row,
    by_arm,
    comparison_rows,
    drawn,
    guard_rows,
    guarded_rows,
    mcnemar_rows,
    result_rows,
    shown_density,
)
from benchmarks.support import RESULTS, command_line, markdown, named, write

# Minutes an arm; class-blind misses too much to rise by a tolerance.
REPLAYED = ("weighted", "weighted_ranking")
FIGURES = {  # measure -> name of the file, axis
    "fn": ("fn", "false negatives at the default threshold"),
    "fn_at_fpr_1": ("fn_at_fpr_1", "false negatives at 1% FPR"),
    "fn_at_fpr_5": ("fn_at_fpr_5", "false negatives at 5% FPR"),
    "auc_roc": ("auc", "AUC"),
}
SHOWN = (
    "measured density",
    "fn",
    "fp",
    "fn_offset",
    "fp_offset",
    "fn_at_fpr_1",
    "fn_at_fpr_5",
    "auc_roc",
    "auc_pr",
    "balanced_accuracy",
)


def main() -> None:
    parser = command_line(__doc__, RESULTS / "paper")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--no-guard", action="store_true", help="leave the replayed guard out: minutes less")
    options = parser.parse_args()
    jobs = read_jobs(options.runs)
    options.out.mkdir(parents=True, exist_ok=True)
    results, comparisons, factors, guards, verdicts, text = [], [], [], [], [], head(jobs)
    for data in dict.fromkeys(job.data for job in jobs):
        arms = by_arm(jobs, data)
        order = drawn(arms)
        arms = {arm: arms[arm] for arm in (*order, *sorted(arms.keys() - set(order)))}
        full = {a: s for a, s in arms.items() if len(next(iter(s.values())).densities) > 2}
        mine = result_rows(arms)
        boot = Bootstrap(arms)
        compared = comparison_rows(boot, data)
        parts = factor_rows(boot, data, shown_density(arms))
        judged = [r for arm, seeds in full.items() for r in guarded_rows(arm, seeds, data, 0.05)]
        replayed = (
            []
            if options.no_guard
            else [r for arm, seeds in full.items() if arm in REPLAYED for r in guard_rows(arm, seeds, data)]
        )
        figures(arms, mine, judged, options.out, data)
        text += section(data, arms, mine, compared, parts, judged, replayed)
        factors += parts
        results, comparisons = results + mine, comparisons + compared
        guards, verdicts = guards + replayed, verdicts + judged
    for name, rows in (
        ("results", results),
        ("comparisons", comparisons),
        ("factors", factors),
        ("guard", guards),
        ("verdicts", verdicts),
    ):
        if rows:
            write_csv(rows, options.out / f"{name}.csv")
    write(options.out / "README.md", text)


def head(jobs: list[Job]) -> list[str]:
    """Return what was run: command, hardware, versions."""
    versions = sorted({named(job.about["versions"]) for job in jobs})
    machines = sorted({job.about["machine"] for job in jobs})
    hours = sum(job.about["seconds"] for job in jobs) / 3600
    return [
        "# The paper's experiment",
        "",
        "`python -m benchmarks.paper -m data.root=FOLDER data=… arm=… seed=…`, then",
        "`python -m benchmarks.paper.report RUNS`. Settings: tuning.md and benchmarks/paper/conf.",
        "",
        f"{len(jobs)} jobs, {hours:.1f} hours in all, on {'; '.join(machines)}; {'; '.join(versions)}; "
        f"report: Python {platform.python_version()}, {os.cpu_count()} CPUs. "
        f"Seeds: {', '.join(map(str, sorted({job.seed for job in jobs})))}.",
        "",
        "Test split, touched by no choice. Differences: means over seeds, arm minus class-blind at the same density;",
        "95% intervals from a two-level bootstrap over seeds and images (1,000 resamples). FN at 1% FPR: threshold",
        "read from that network's own test ROC. *: fewer than ten seeds. fn_offset, fp_offset: decided at the highest",
        "threshold with at most the misses of the arm's own dense network, both on the guard part.",
        "",
    ]


def section(
    data: str,
    arms: dict[str, dict[int, Job]],
    results: list[Row],
    compared: list[Row],
    factors: list[Row],
    judged: list[Row],
    replayed: list[Row],
) -> list[str]:
    """Return the tables of one data set."""
    job = next(iter(next(iter(arms.values())).values()))
    config = job.about["config"]
    sides = sorted({pixels(one) for seeds in arms.values() for one in seeds.values()})
    density = shown_density(arms)
    lines = [
        f"## {data}",
        "",
        f"{', '.join(f'{side}x{side}' for side in sides)} pixels; "
        f"training samples a class {config['facts']['class_counts']}; "
        f"test {results[0]['positives']} positives, {results[0]['negatives']} negatives; "
        f"{config['epochs']} epochs a round, "
        f"{config['model']['_target_'].split('.')[-1]}.",
        "",
        f"### At {density:.2%} density",
        "",
    ]
    rows = []
    for arm, seeds in arms.items():
        at = [r for r in results if r["arm"] == arm and r["density"] == density]
        if at:
            name = arm if len(seeds) >= SEEDS else f"{arm}*"
            shown = {key: float(np.mean([r[key] for r in at])) for key in SHOWN if key in at[0]}
            rows.append({"arm": name, "seeds": len(at), **shown})
    lines += [markdown(rows), ""] if rows else []
    for title, against, kind in (
        (
            "Against class-blind at the same density",
            REFERENCE,
            ("fn", "fpr", "fn_offset", "fp_offset", "fn_at_fpr_1", "fn_at_fpr_5", "auc_roc"),
        ),
        ("Against the arm's own dense network", "own dense", ("fn_at_fpr_1", "auc_roc")),
    ):
        rows = [
            {"arm": r["arm"], "measure": r["measure"], "seeds": r["seeds"]}
            | {"reference": r["reference mean"], "arm's": r["arm mean"]}
            | told(r)
            for r in compared
            if r["density"] == density and r["against"] == against and r["measure"] in kind
        ]
        lines += [f"{title}, at {density:.2%}:", "", markdown(rows), ""] if rows else []
    rows = [
        {"measure": r["measure"], "factor": r["factor"], "seeds": r["seeds"]}
        | {"without": r["without"], "with": r["with"]}
        | told(r)
        for r in factors
    ]
    title = "Which part does it: cells with a factor against those without, of eight arms, with and without offset"
    lines += [f"{title}, at {density:.2%}:", "", markdown(rows), ""] if rows else []
    rows = mcnemar_rows(results, drawn(arms), density)
    title = "Exact McNemar against class-blind, on the same positives"
    lines += [f"{title}, at {density:.2%} (others: results.csv):", "", markdown(rows), ""] if rows else []
    lines += [
        f"![{label}]({name}-{data}.png)"
        for measure, (name, label) in FIGURES.items()
        if measure in results[0]
    ]
    lines += [f"![ROC](roc-{data}.png)", f"![verdicts](verdicts-{data}.png)", ""]
    lines += ["### Guarded", "", markdown(list(delivered(judged))), ""] if judged else []
    edge = [r for r in replayed if r["tolerance"] == 0.05]
    if edge:
        keys = ("arm", "truth", "positives", "rule", "seeds", "harmful rounds", "rounds delivered")
        rows = [
            {key: r[key] for key in keys}
            | {"false accepts": f"{r['false accepts']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"}
            for r in edge
        ]
        lines += [
            "### The guard's false accepts, replayed; tolerance .05 (others: guard.csv)",
            "",
            markdown(rows),
            "",
        ]
    return lines


def told(row: Row) -> Row:
    """Return a difference with its interval, as it is and relative."""
    relative = f"{row['ratio']:+.0%} [{row['ratio_low']:+.0%}, {row['ratio_high']:+.0%}]"
    return {
        "difference": f"{row['mean']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]",
        "relative": "-" if math.isnan(row["ratio"]) else relative,  # of nothing
    }


def pixels(job: Job) -> int:
    """Return the height and width of a job's images."""
    facts = job.about["config"]["facts"]
    return math.isqrt(facts["in_features"] // facts["in_channels"])


def delivered(judged: list[Row]) -> Iterable[Row]:
    """Yield, an arm, what the exact rule at .05 would have delivered from the guard part."""
    for arm in dict.fromkeys(row["arm"] for row in judged):
        mine = [row for row in judged if row["arm"] == arm]
        seeds = sorted({row["seed"] for row in mine})
        last = [
            min((r for r in mine if r["seed"] == s and r["stands"]), key=lambda r: r["density"])
            for s in seeds
        ]
        sparsity = [1 - row["density"] for row in last]
        yield {
            "arm": arm,
            "tolerance": mine[0]["tolerance"],
            "guard positives": mine[0]["positives"],
            "seeds": len(seeds),
            "sparsity delivered, median": float(np.median(sparsity)),
            "least": min(sparsity),
            "most": max(sparsity),
            "runs with a refusal": sum(any(not r["stands"] for r in mine if r["seed"] == s) for s in seeds),
            "delivered, harmful on test": sum(row["rise on test"] >= row["tolerance"] for row in last),
        }


def figures(
    arms: dict[str, dict[int, Job]], results: list[Row], judged: list[Row], out: Path, data: str
) -> None:
    """Draw one data set's figures into `out`."""
    shown = drawn(arms)
    rows = [row for row in results if row["arm"] in shown]
    for measure, (name, label) in FIGURES.items():
        if measure in rows[0]:
            against_density(rows, measure, label, out / f"{name}-{data}.png")
    roc({arm: arms[arm] for arm in shown}, shown_density(arms), out / f"roc-{data}.png")
    if rounds := [row for row in judged if row["arm"] in shown]:
        strip(rounds, out / f"verdicts-{data}.png")


def write_csv(rows: list[Row], file: Path) -> None:
    """Write rows whose keys may differ."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


if __name__ == "__main__":
    main()
