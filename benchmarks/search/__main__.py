"""How soon a search finds how sparse a network the guard accepts: schedules side by side, seed by seed.

    python -m benchmarks.search run --data elpv --runs RUNS [--seeds 4 5 6 7 8] [--arms ...]
    python -m benchmarks.search run --data derma --root FOLDER --runs RUNS
    python -m benchmarks.search report --runs RUNS [--out benchmarks/results]

Every arm has the same data, guard, tolerance (.05), confidence (.95) and target (1% density, or 2% by its name). A run
leaves one JSON `RUNS/<data>/<arm>-<seed>.json` and is skipped where that exists. `report` writes search.md and .png.

All numbers of the delivered network are of the test split, which nothing else reads. "Epochs" are all epochs of the job
up to the end of the delivered round, the dense round and abandoned rounds included; what is trained after that to
be refused is in "all epochs". Seeds 1 to 3 and 101 to 104 were looked at while the schedule was made. Seconds are
processor time of one thread, shared out among the rounds by their wall time, so that what else the machine does
hardly shows.
"""

from __future__ import annotations

from benchmarks.search.arms import ARMS
from benchmarks.search.report import report
from benchmarks.search.runs import command_line, quieten, run_all
from benchmarks.support import one_thread


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args()
    one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
    else:
        run_all(given.data, given.root, given.seeds, given.arms, given.runs)


if __name__ == "__main__":
    main()
