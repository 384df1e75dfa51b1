"""`classprune-export`: what a run delivered, as files to deploy."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from lightning_classprune import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run; returns the exit status: 2 with one line on stderr for what cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="classprune-export",
        description="Write the network that a run delivered as files to deploy, each verified, with a card.",
    )
    parser.add_argument("source", help="run folder, or a checkpoint of an accepted round in it")
    parser.add_argument("--out", help="where the files go (default: export/ in the run folder)")
    parser.add_argument(
        "--dense", action="store_true", help="export the dense network if nothing was accepted"
    )
    parser.add_argument(
        "--values", choices=("fp32", "fp16"), default="fp32", help="type of the stored weights"
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=("all", "latency", "size", "mcu"),
        default="all",
        help="write only the fastest files, the smallest, or C99 for a microcontroller (default: all but C)",
    )
    parser.add_argument("--no-plain", action="store_true", help="leave out plain.onnx, the dense file")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="a file of eight bits too (for mcu: C in eight bits), calibrated on the training data",
    )
    parser.add_argument(
        "--fold",
        metavar="K|SHARE",
        type=lambda text: int(text) if text.isdigit() else float(text),
        help="a file with similar channels merged too, until so many of each group are left",
    )
    parser.add_argument(
        "--max-fn-rate",
        metavar="CLASS=RATE",
        type=_class_and_rate,
        help="put a decision threshold into model.onnx that keeps this rate of misses, certified at 95%%",
    )
    parser.add_argument(
        "--trust", action="store_true", help="the folder may run any code, such as your own modules"
    )
    parser.add_argument("--version", action="version", version=f"lightning-classprune {__version__}")
    given = parser.parse_args(arguments)
    # Loads torch: not for help, --version or a wrong command line.
    from lightning_classprune.job.closed_pipe import outlive_readers
    from lightning_classprune.job.configuration import see_working_directory
    from lightning_classprune.job.export_run import export_run
    from lightning_classprune.job.lock import FolderInUse

    outlive_readers()
    see_working_directory()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half written is removed
    try:
        facts = export_run(
            given.source,
            given.out,
            dense=given.dense,
            values=given.values,
            purpose=given.purpose,
            plain=not given.no_plain,
            int8=given.int8,
            fold=given.fold,
            max_fn_rate=None if given.max_fn_rate is None else dict([given.max_fn_rate]),
            trust=given.trust,
        )
    except (ValueError, OSError, ModuleNotFoundError, FolderInUse) as error:
        print(f"classprune-export: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("classprune-export: interrupted, nothing was written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(facts["claim"])
    for name, entry in facts["artefacts"].items():
        print(f"{entry['bytes'] / 1000:10,.1f} kB  {name}")
    print(facts["advice"])
    print(f"The card says what each of them is and does: {facts['folder']}/card.md")
    return 0


def _class_and_rate(text: str) -> tuple[str, float]:
    name, _, rate = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not CLASS=RATE, such as defective=0.1")
    return name, float(rate)


if __name__ == "__main__":
    sys.exit(main())
