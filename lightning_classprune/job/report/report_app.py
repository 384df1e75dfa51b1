"""`classprune-report RUN_DIR`: the report of a run, written anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_classprune import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `report.html` into the run folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser("classprune-report", description="Rebuild the report of a run.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run folder of one classprune job")
    parser.add_argument("--version", action="version", version=f"lightning-classprune {__version__}")
    folder = parser.parse_args(arguments).run_dir
    # Loads torch: not for help, --version or a wrong command line.
    from lightning_classprune.job.report.report_run import write_report
    from lightning_classprune.job.run_folder import RunFolder

    try:
        print(write_report(RunFolder.open(folder)))
    except (ValueError, OSError) as error:
        print(f"classprune-report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
