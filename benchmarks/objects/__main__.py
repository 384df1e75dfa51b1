"""The command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import benchmarks.objects as package
from benchmarks.objects.matching import matching
from benchmarks.objects.pruned import job, measured, refusal, report
from benchmarks.objects.unit_tests import tables
from benchmarks.support import RESULTS, command_line, one_thread, write
from lightning_classprune import files
from lightning_classprune.job.run_folder import RunFolder


def main() -> None:
    """The command line."""
    parser = command_line(package.__doc__, RESULTS)
    what = parser.add_subparsers(dest="what", required=True)
    made = what.add_parser("tables")
    made.add_argument("--sims", type=int, default=2000, help="simulations a cell (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    ran = what.add_parser("run", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ran.add_argument("--data", choices=("nuclei", "blood"), required=True, help="which archive")
    ran.add_argument("--root", type=Path, required=True, help="folder of the archives")
    ran.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="one run each")
    ran.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    ran.add_argument(
        "--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="of the job's configuration"
    )
    timed = what.add_parser("matching")
    timed.add_argument("--root", type=Path, help="folder of the archives (default: ellipses are made up)")
    args = parser.parse_args()
    one_thread()
    if args.what == "matching":
        write(args.out / "objects_matching.md", matching(args.root))
        return
    if args.what == "tables":
        files.write_text(args.out / "objects_tests.md", tables(args.sims, args.seed))
        return
    runs = [
        measured(
            args.data,
            job(args.data, args.root, args.runs / f"{args.data}-{seed}", seed, args.overrides),
            seed,
        )
        for seed in args.seeds
    ]
    lines = report(args.data, runs, args.overrides)
    for seed in args.seeds:
        if told := refusal(args.data, RunFolder(args.runs / f"{args.data}-{seed}"), args.out):
            lines += ["", "## A refusal", "", told]
            break
    write(args.out / f"objects_{args.data}.md", lines)


if __name__ == "__main__":
    main()
