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
from benchmarks.search.runs import answer, command_line, run_all


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    answer(parser.parse_args(), run_all, report)


if __name__ == "__main__":
    main()
