"""`python -m lightning_classprune.job.own_process RUN_DIR`: a sweep's job that needs several processes (see `jobs`)."""

from __future__ import annotations

import os
import sys
import threading

from lightning_classprune.job import jobs
from lightning_classprune.job.app import run
from lightning_classprune.job.run_folder import RunFolder


def main() -> None:
    """Do the job, and end at once when the sweep that holds the other end of standard input is gone."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    jobs.resume(RunFolder.open(sys.argv[1]), run)


def _end_with_the_sweep() -> None:
    os.read(sys.stdin.fileno(), 1)  # sys.stdin.read() would hold a lock that the interpreter's end wants
    os._exit(1)


if __name__ == "__main__":
    main()
