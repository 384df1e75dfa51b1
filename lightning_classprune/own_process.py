"""`python -m lightning_classprune.own_process RUN_DIR`: a sweep's job that needs several processes (see `jobs`)."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from lightning_classprune import jobs
from lightning_classprune.app import run


def main() -> None:
    """Do the job, and end at once when the sweep that holds the other end of standard input is gone."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    jobs.resume(Path(sys.argv[1]), run)


def _end_with_the_sweep() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
