"""What the search for settings found: a table, and the choice for each arm.

    python -m benchmarks.paper -m stage=tuning data.root=FOLDER runs=outputs/tuning seed=101 \
        arm=blind,weighted,weighted_ranking scheduler=onecycle,cosine optimizer.lr=0.001,0.003,0.01
    python -m benchmarks.paper.tuning outputs/tuning [--out benchmarks/results/paper]

Read from the validation part alone. The criterion, fixed beforehand: the mean AUC-ROC of the protected class over the
networks at 1.6% and 0.4% density, and over seeds.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.paper.files import Job, read_jobs
from benchmarks.paper.measures import measures
from benchmarks.support import RESULTS, command_line, markdown, write

SPARSEST = 2  # rounds that the criterion looks at
NAMES = ("data", "arm", "optimizer.lr", "scheduler", "epochs a round")
VALUES = ("seeds", "AUC", "FN at 1% FPR", "dense AUC")


def setting(job: Job) -> tuple[str, ...]:
    """Return what `NAMES` names."""
    config = job.about["config"]
    arm, *_, schedule = job.label.split(",")
    return job.data, arm, f"{config['optimizer']['lr']:g}", schedule, str(config["epochs"])


def table(jobs: list[Job]) -> list[dict[str, str | float]]:
    """Return one row a setting with the means over its seeds, best first within data set and arm."""
    together: dict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
    for job in jobs:
        found = [measures(scored) for scored in job.scored("val")]
        sparse = [[float(f[key][0]) for f in found[-SPARSEST:]] for key in ("auc_roc", "fn_at_fpr_1")]
        together[setting(job)].append((*map(float, np.mean(sparse, axis=1)), float(found[0]["auc_roc"][0])))
    rows: list[dict[str, str | float]] = [
        dict(zip(NAMES + VALUES, (*key, len(values), *np.mean(values, axis=0).tolist()), strict=True))
        for key, values in together.items()
    ]
    return sorted(rows, key=lambda row: (row["data"], row["arm"], -float(row["AUC"])))


def main() -> None:
    parser = command_line(__doc__, RESULTS / "paper")
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    rows = table(read_jobs(options.runs))
    text = [
        "# Tuning",
        "",
        "Validation part alone; AUC and FN of the protected class are means over the networks at 1.6% and "
        "0.4% density.",
        "Best first within an arm: by AUC, the criterion. An arm runs with its first row.",
        "",
    ]
    write(options.out / "tuning.md", [*text, markdown(rows)])
    seen = set()
    for row in rows:
        if (key := (row["data"], row["arm"])) not in seen:
            print(
                *key,
                f"optimizer.lr={row['optimizer.lr']}",
                f"scheduler={row['scheduler']}",
                f"{row['AUC']:.4f}",
            )
        seen.add(key)


if __name__ == "__main__":
    main()
