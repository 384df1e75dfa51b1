"""Killing what writes files beside training: export, report, a sweep's summary, and a second process in a run folder.

Part of `benchmarks.kill_resume`. Each process is ended by a signal at a random time of its work. A trial is good if
what is found then is the old file or the whole new one, the same command gives what an uninterrupted one gives, and
after that nothing temporary lies about.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_classprune.job import app, export_app
from lightning_classprune.job.lock import FolderInUse
from lightning_classprune.job.report.report_run import write_report
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.sweep.summary import write_summary
from lightning_classprune.tickets.ticket_file import read_ticket
from tests.support.app_job import LENIENT, config

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
Found = dict[str, Any]


def export(root: Path) -> int:
    return export_app.main([str(root / "run")])


def report(root: Path) -> int:
    write_report(RunFolder.open(root / "run"))
    return 0


def summary(root: Path) -> int:
    write_summary(root)
    return 0


def exported(root: Path) -> Found:
    """What an export says and holds, without what differs from one to the next."""
    folder = root / "run" / "export"
    if not folder.exists():
        return {}
    card = json.loads((folder / "card.json").read_text())
    for entry in card["artefacts"].values():
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]
    return {"files": sorted(card["artefacts"]), "ticket": read_ticket(folder / "ticket.safetensors").sha256}


def written(*names: str) -> Callable[[Path], Found]:
    return lambda root: {name: (root / name).read_bytes() for name in names if (root / name).exists()}


#: Kind -> the work, and what it leaves.
KINDS: dict[str, tuple[Callable[[Path], int], Callable[[Path], Found]]] = {
    "during export": (export, exported),
    "during report": (report, written("run/report.html")),
    "during sweep summary": (summary, written("summary.csv", "summary.md", "summary.html")),
}


def in_process(work: Callable[[], Any], sent: signal.Signals | None = None, after: float = 0.0) -> int:
    """The exit code of a forked process that does some work, and gets a signal after so many seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background work is without
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = work() or 0
        os._exit(code)
    if sent is not None:
        time.sleep(after)
        os.kill(child, sent)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trials(
    root: Path, each: int, rng: random.Random, tell: Callable[[dict[str, Any]], None], done: int
) -> None:
    """Every kind and signal, `each` times, and two processes in one folder as often.

    Args:
        root: A folder that is not there yet.
        each: Trials of a kind and signal.
        rng: Draws the moments.
        tell: Gets every trial as it ends.
        done: That many are not made again.
    """
    number = 0
    if done >= (len(KINDS) * len(SIGNALS) + 1) * each:
        return
    quiet(lambda: app.run(config(root / "good" / "run", *LENIENT)))
    for kind, (work, found) in KINDS.items():
        whole = root / "whole"
        shutil.copytree(root / "good", whole)
        started = time.time()
        assert in_process(lambda work=work, whole=whole: work(whole)) == 0  # type: ignore[misc]
        seconds, before, expected = time.time() - started, found(root / "good"), found(whole)
        shutil.rmtree(whole)
        for sent in SIGNALS:
            for _ in range(each):
                number += 1
                if number <= done:
                    continue
                copy = root / "copy"
                shutil.copytree(root / "good", copy)
                moment = rng.uniform(0.05, 0.9) * seconds
                code = in_process(lambda work=work, copy=copy: work(copy), sent, moment)  # type: ignore[misc]
                there = found(copy)
                halves = all(there[name] in (before.get(name), expected[name]) for name in there)
                again = in_process(lambda work=work, copy=copy: work(copy))  # type: ignore[misc]
                left = [path.name for path in copy.rglob("*.part")]
                good = halves and again == 0 and found(copy) == expected and not left
                told = {"kind": kind, "moment": f"{sent.name} after {moment:.2f} s"}
                tell(told | {"killed": code != 0, "good": good, "left": left})
                shutil.rmtree(copy)
    for trial in range(max(done - number, 0), each):
        tell(_two_processes(root / f"two-{trial}", root / "good", rng))


def _two_processes(root: Path, good: Path, rng: random.Random) -> dict[str, Any]:
    """One trains; another one begins or goes on in its folder, and is told who is there; the first ends as if alone."""

    def train() -> int:
        app.run(config(root / "run", *LENIENT))
        return 0

    def intrude() -> int:
        try:
            app.run(config(root / "run", *LENIENT), resume=rng.random() < 0.5)
        except FolderInUse as error:
            return 0 if f"process {first}" in str(error) else 3
        return 4

    first = os.fork()
    if first == 0:
        os._exit(_quietly(train))
    while not (root / "run" / "status.json").is_file():
        time.sleep(0.01)
    moment = rng.uniform(0, 1)
    time.sleep(moment)
    refused = in_process(intrude)
    ended = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    ledgers = [RunFolder(folder / "run").ledger() for folder in (root, good)]
    same = [[{**row, "seconds": 0} for row in rows] for rows in ledgers]
    found = {"kind": "two processes", "moment": f"after {moment:.2f} s", "killed": True}
    return found | {"good": refused == 0 and ended == 0 and same[0] == same[1], "left": []}


def _quietly(work: Callable[[], int]) -> int:
    code = 1
    with contextlib.suppress(BaseException):
        quiet(work)
        code = 0
    return code


def quiet(work: Callable[[], Any]) -> None:
    """Do some work, and print nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        work()
