"""`python -m lightning_classprune.job.own_process RUN_DIR [--trust]`: a sweep's job of several processes."""

from __future__ import annotations

import os
import sys
import threading

from lightning_classprune.job import jobs
from lightning_classprune.job.app import run
from lightning_classprune.job.closed_pipe import outlive_readers
from lightning_classprune.job.lock import FolderInUse
from lightning_classprune.job.run_folder import RunFolder


def main() -> None:
    """Do the job, and end at once when the sweep that holds the other end of standard input is gone."""
    outlive_readers()
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        jobs.resume(RunFolder.open(sys.argv[1]), run, trust="--trust" in sys.argv[2:])
    except FolderInUse as error:
        print(error, file=sys.stderr)
        sys.exit(jobs.IN_USE)


def _end_with_the_sweep() -> None:
    os.read(sys.stdin.fileno(), 1)  # sys.stdin.read() would hold a lock that the interpreter's end wants
    os._exit(1)


if __name__ == "__main__":
    main()
