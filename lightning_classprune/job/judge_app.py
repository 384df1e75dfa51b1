"""`classprune-judge RUN_DIR`: closes an interrupted run whose guard judges at the end, as it stands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_classprune import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge what the run in the folder that the command line names has kept; returns the exit status."""
    parser = argparse.ArgumentParser(
        "classprune-judge",
        description="Close an interrupted run of Guard(judging='end') as it stands: nothing is trained, the guard "
        "judges the candidates that were kept. A judgement is final.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run folder of one classprune job")
    parser.add_argument(
        "--trust", action="store_true", help="the folder may run any code, such as your own modules"
    )
    parser.add_argument("--version", action="version", version=f"lightning-classprune {__version__}")
    given = parser.parse_args(arguments)
    folder = given.run_dir
    # Loads torch: not for help, --version or a wrong command line.
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_classprune.job import app, jobs
    from lightning_classprune.job.closed_pipe import outlive_readers
    from lightning_classprune.job.configuration import see_working_directory
    from lightning_classprune.job.lock import FolderInUse
    from lightning_classprune.job.run_folder import RunFolder

    outlive_readers()
    see_working_directory()
    try:
        run = RunFolder.open(folder.absolute())
        if run.status()["state"] == "finished":
            raise ValueError(
                f"{folder}: this run was judged, and a judgement is final; there is nothing to do"
            )
        jobs.resume(run, app.close, trust=given.trust)
    except (ValueError, OSError, MisconfigurationException, FolderInUse) as error:
        print(f"classprune-judge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
