"""`classprune-sweep SWEEP_DIR`: writes the summary of a sweep anew."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_classprune import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Write summary.csv, .md, .html and .png into the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="classprune-sweep", description=main.__doc__)
    parser.add_argument("sweep_dir", type=Path, help="such as multirun/<date>/<time>")
    parser.add_argument("--version", action="version", version=f"lightning-classprune {__version__}")
    folder: Path = parser.parse_args(arguments).sweep_dir
    # Loads torch: not for help, --version or a wrong command line.
    from lightning_classprune.job.sweep.summary import write_summary
    from lightning_classprune.job.sweep.sweep import tally

    try:
        jobs = write_summary(folder)
    except ValueError as error:
        parser.error(str(error))
    print(f"{tally(jobs)}. Summary: {folder / 'summary.html'}")


if __name__ == "__main__":
    main()
