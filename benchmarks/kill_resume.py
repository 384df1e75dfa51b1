"""Kill a run at random moments, resume it from the last file on disk, and compare it with the uninterrupted run.

    python -m benchmarks.kill_resume [--each 5] [--gradual 30] [--seed 0] [--kept FILE] [--out benchmarks/results]

The job is that of tests/support/killed_job.py: eight judged attempts of two epochs with two refusals, dropout,
OneCycle, shuffling and ModelCheckpoint; the same judged once at its end; and one whose masks shrink from step to step.
`--each` moments of every kind are drawn from the seed, `--gradual` of the last; a process dies of SIGKILL, or gets
SIGTERM or SIGINT. Compared bit for bit: weights, masks, ledger (apart from `seconds`), error budget, name of the best
file, list of the ladder. Then what writes files beside training is killed (`benchmarks.kill_files`). With `--kept` each
trial is noted in that file as it ends, and those noted there are not made again. Writes kill_resume.json and .md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import kill_files
from benchmarks.support import command_line, markdown, named, one_thread, versions, write
from tests.support import killed_job
from tests.support.compare import differences, without_seconds

SERVER = multiprocessing.get_context("forkserver")
PLACED = "while a ticket, the ladder's list or a hash is written"
KINDS = (
    "inside a round",
    "at a round's end",
    "during judging",
    "after a refusal",
    "while a checkpoint is written",
    PLACED,
)
OUTSIDE = "at a random time, from outside"
END, SHRINKING = "during the judgement at the end", "in a round whose mask shrinks"
SENT = {f"{name} at a random time": getattr(signal, name) for name in ("SIGTERM", "SIGINT")}


@dataclass(frozen=True)
class Way:
    """A way to train, and what it is killed at.

    Attributes:
        kinds: Of moments.
        each: Trials of a kind.
        strategy: Of the trainer.
        judging: `"round"` or `"end"`.
        search: `"fixed"` or `"gradual"`.
    """

    kinds: tuple[str, ...]
    each: int
    strategy: str = "auto"
    judging: str = "round"
    search: str = "fixed"

    @property
    def processes(self) -> int:
        return 1 if self.strategy == "auto" else 2


def moments(kind: str, counts: dict[str, int], seconds: float, rng: random.Random, each: int) -> list[str]:
    """Different moments of a kind, as `killed_job.py` understands them; `seconds:x` from outside.

    Args:
        kind: Of moments.
        counts: How often each event comes in the whole run.
        seconds: That the whole run takes.
        rng: Draws them.
        each: So many, fewer where the kind has fewer; none where it does not occur.
    """
    rounds = counts["begun"] // 2
    if kind == OUTSIDE or kind in SENT:
        return [f"seconds:{rng.uniform(0.3, 0.8) * seconds:.3f}" for _ in range(each)]
    possible: dict[str, range] = {}
    if kind == "inside a round":
        possible = {"batch": range(1, counts["batch"] + 1)}
    elif kind == SHRINKING:
        possible = {"batch": range(2 * counts["batch"] // counts["begun"] + 1, counts["batch"] + 1)}
    elif kind == "at a round's end":
        possible = {"verdict": range(2, 2 * rounds, 2), "saved": range(2, 2 * rounds, 2)}
        possible |= {"begun": range(3, 2 * rounds, 2)}
    elif kind in ("during judging", END):
        possible = {"judged": range(2, counts["judged"] + 1)}
    elif kind == "after a refusal":
        possible = {"refused": range(1, counts["refused"] + 1)}
    elif kind == "while a checkpoint is written":
        possible = {event: range(1, counts[event] + 1) for event in ("write", "rename")}
    elif kind == PLACED:
        possible = {"place": range(1, counts["place"] + 1)}
    all_of_them = [f"{event}:{n}" for event, numbers in possible.items() for n in numbers]
    return rng.sample(all_of_them, min(each, len(all_of_them)))


def run_job(folder: Path, moment: str, way: Way, sent: int = signal.SIGKILL) -> int | None:
    """The exit code of one process that trains in `folder`, and gets a signal from outside if the moment says so."""
    folder.mkdir(exist_ok=True)
    outside = moment.startswith("seconds")
    arguments = (str(folder), "" if outside else moment, way.strategy, "last", way.judging, way.search)
    process = SERVER.Process(target=_quiet, args=arguments)
    process.start()
    if outside:
        process.join(timeout=float(moment.split(":")[1]))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, sent)
    process.join(timeout=600)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _quiet(*arguments: str) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background work is without
    killed_job.run(*arguments)


def outcome(folder: Path) -> dict[str, Any]:
    found = torch.load(folder / "result-0.pt", weights_only=False)
    return {key: found[key] for key in ("weights", "masks", "budget", "best", "ladder")} | {
        "ledger": without_seconds(found["ledger"])
    }


def epochs_saved(folder: Path) -> int:
    """Epochs in the newest file, 0 if there is none."""
    last = folder / "files" / "last.ckpt"
    return int(torch.load(last, weights_only=True)["epoch"]) + 1 if last.exists() else 0


class Kept:
    """Trials that are done, in a file of a line each.

    Args:
        path: The file; None keeps none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        there = path is not None and path.exists()
        self.found = [json.loads(line) for line in path.read_text().splitlines()] if there else []  # type: ignore[union-attr]

    def add(self, trial: dict[str, Any]) -> None:
        self.found.append(trial)
        print(trial, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(trial) + "\n")

    def has(self, trial: dict[str, Any]) -> bool:
        """Whether a trial of these facts is there."""
        return any(trial.items() <= one.items() for one in self.found)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--gradual", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kept", type=Path, help="a file in which trials are kept, so that they are not made twice"
    )
    options = parser.parse_args()
    one_thread()
    SERVER.set_forkserver_preload(["tests.support.killed_job"])  # which imports what takes long
    kept = Kept(options.kept)
    few = max(1, options.each // 2)
    ways = (
        Way((*KINDS, OUTSIDE, *SENT), options.each),
        Way((END, PLACED), options.each, judging="end"),
        Way((SHRINKING,), options.gradual, search="gradual"),
        Way(KINDS, few, strategy="ddp_fork"),
        Way((END,), few, strategy="ddp_fork", judging="end"),
        Way((SHRINKING,), few, strategy="ddp_fork", search="gradual"),
    )
    absent: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for place, way in enumerate(ways):
            absent += try_out(way, Path(temporary), random.Random(f"{options.seed}-{place}"), kept)
        rng = random.Random(f"{options.seed}-files")
        done = sum("good" in trial for trial in kept.found)
        kill_files.trials(Path(temporary) / "files", few, rng, kept.add, done)
    of_runs, of_files = ([one for one in kept.found if key in one] for key in ("identical", "good"))
    report(of_runs, absent, of_files, options.seed, options.out)


def try_out(way: Way, temporary: Path, rng: random.Random, kept: Kept) -> list[dict[str, Any]]:
    """All trials of a way that are not kept yet; returns the kinds of moments that do not occur in it."""
    name = "-".join((way.strategy, way.judging, way.search))
    whole, again = temporary / f"whole-{name}", temporary / f"again-{name}"
    assert run_job(whole, "", way) == 0
    begun = time.time()  # the first one waited for the server of processes
    assert run_job(again, "", way) == 0
    seconds = time.time() - begun
    assert not differences(outcome(whole), outcome(again))
    counts = torch.load(whole / "result-0.pt", weights_only=False)["counts"]
    absent = []
    for kind in way.kinds:
        told = {"processes": way.processes, "judging": way.judging, "search": way.search, "kind": kind}
        drawn = moments(kind, counts, seconds, rng, way.each)
        if not drawn:
            absent.append(told)
        for number, moment in enumerate(drawn):
            # A time from outside is another one each time; its number tells it apart.
            same = told | ({"number": number} if moment.startswith("seconds") else {"moment": moment})
            if kept.has(same):
                continue
            folder = temporary / "trial"
            sent = SENT.get(kind, signal.SIGKILL)
            code = run_job(folder, moment, way, sent)
            # Lightning ends a run that gets SIGTERM, or an interruption, by itself; nothing is wrong with its end.
            died = code == (-sent if way.processes == 1 else 1)
            killed = not (folder / "result-0.pt").exists() if kind in SENT else died
            saved = epochs_saved(folder)
            (folder / "result-0.pt").unlink(missing_ok=True)
            resumed = run_job(folder, "", way)
            found = ["it did not end"] if resumed else differences(outcome(whole), outcome(folder))
            kept.add(
                {**told, "number": number, "moment": moment, "killed": killed, "epochs_saved": saved}
                | {"identical": not found, "differences": found[:3]}
            )
            shutil.rmtree(folder)
    return absent


def report(
    trials: list[dict[str, Any]],
    absent: list[dict[str, Any]],
    of_files: list[dict[str, Any]],
    seed: int,
    out: Path,
) -> None:
    head = {"seed": seed, **versions()}
    write(
        out / "kill_resume.json",
        [json.dumps(head | {"trials": trials, "absent": absent, "files": of_files}, indent=1)],
    )
    lines = [
        "# Killed and resumed",
        "",
        f"`python -m benchmarks.kill_resume --seed {seed}` (see `--help`): a run is killed at a random moment "
        "and resumed with `ckpt_path='last'`. Identical: weights, masks, ledger apart from `seconds`, error budget, "
        "best file and the ladder's list equal those of the uninterrupted run bit for bit. "
        f"{sum(t['identical'] for t in trials)} of {len(trials)} were, and beside training "
        f"{sum(t['good'] for t in of_files)} of {len(of_files)} good.",
        f"CPU, {named(versions())}.",
        "",
    ]
    table = []
    for processes in (1, 2):
        for kind in (*KINDS, OUTSIDE, *SENT, END, SHRINKING):
            rows = [t for t in trials if t["kind"] == kind and t["processes"] == processes]
            if rows:
                table.append(
                    {"processes": processes, "killed": kind, "trials": len(rows)}
                    | {"killed in time": sum(t["killed"] for t in rows)}
                    | {"identical": sum(t["identical"] for t in rows)}
                    | {"epochs on disk then": ", ".join(str(t["epochs_saved"]) for t in rows)}
                )
    if absent:
        lines += [
            "No such moment occurs: " + "; ".join(f"{one['kind']} ({one['processes']})" for one in absent),
            "",
        ]
    others = [
        {"killed": kind, "trials": len(rows), "killed in time": sum(t["killed"] for t in rows)}
        | {"good": sum(t["good"] for t in rows)}
        for kind in dict.fromkeys(t["kind"] for t in of_files)
        if (rows := [t for t in of_files if t["kind"] == kind])
    ]
    more = [
        "",
        "Beside training, by SIGKILL, SIGTERM and SIGINT in turn. Good: what was found then was the old file or the "
        "whole new one, the same command then gave what an uninterrupted one gives, and nothing temporary was left; of "
        "two processes in one run folder the second was told of the first, which ended as if alone.",
        "",
    ]
    write(out / "kill_resume.md", [*lines, markdown(table), *more, markdown(others)])


if __name__ == "__main__":
    main()
