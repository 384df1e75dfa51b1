"""Kill a run at random moments, resume it from the last file on disk, and compare it with the uninterrupted run.

    python -m benchmarks.kill_resume [--each 5] [--seed 0] [--out benchmarks/results]

The job is that of tests/support/killed_job.py: eight judged attempts of two epochs with two refusals, dropout,
OneCycle, shuffling and ModelCheckpoint. `--each` moments of every kind are drawn from the seed; a process dies of
SIGKILL, or gets SIGTERM or SIGINT. Compared bit for bit: weights, masks, ledger (apart from `seconds`), error budget,
name of the best file. Then what writes files beside training is killed (`benchmarks.kill_files`). Writes
kill_resume.json and .md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import kill_files
from benchmarks.support import command_line, markdown, named, one_thread, versions, write
from tests.support import killed_job
from tests.support.compare import differences, without_seconds

SERVER = multiprocessing.get_context("forkserver")
KINDS = (
    "inside a round",
    "at a round's end",
    "during judging",
    "after a refusal",
    "while a checkpoint is written",
    "while a ticket, the ladder's list or a hash is written",
)
OUTSIDE = "at a random time, from outside"
SENT = {f"{name} at a random time": getattr(signal, name) for name in ("SIGTERM", "SIGINT")}


def draw(kind: str, counts: dict[str, int], seconds: float, rng: random.Random) -> str:
    """A moment of this kind, as `killed_job.py` understands it; `seconds:x` from outside."""
    rounds = counts["begun"] // 2
    if kind == "inside a round":
        return f"batch:{rng.randint(1, counts['batch'])}"
    if kind == "at a round's end":
        event, end = rng.choice(("verdict", "saved", "begun")), rng.randint(1, rounds - 1)
        return f"{event}:{2 * end + (event == 'begun')}"
    if kind == "during judging":
        return f"judged:{rng.randint(2, counts['judged'])}"
    if kind == "after a refusal":
        return f"refused:{rng.randint(1, counts['refused'])}"
    if kind == "while a checkpoint is written":
        event = rng.choice(("write", "rename"))
        return f"{event}:{rng.randint(1, counts[event])}"
    if kind.startswith("while a ticket"):
        return f"place:{rng.randint(1, counts['place'])}"
    return f"seconds:{rng.uniform(0.3, 0.8) * seconds:.3f}"


def run_job(folder: Path, moment: str, strategy: str, sent: int = signal.SIGKILL) -> int | None:
    """The exit code of one process that trains in `folder`, and gets a signal from outside if the moment says so."""
    folder.mkdir(exist_ok=True)
    outside = moment.startswith("seconds")
    process = SERVER.Process(target=_quiet, args=(str(folder), "" if outside else moment, strategy))
    process.start()
    if outside:
        process.join(timeout=float(moment.split(":")[1]))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, sent)
    process.join(timeout=180)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _quiet(*arguments: str) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    killed_job.run(*arguments)


def outcome(folder: Path) -> dict[str, Any]:
    found = torch.load(folder / "result-0.pt", weights_only=False)
    return {key: found[key] for key in ("weights", "masks", "budget", "best")} | {
        "ledger": without_seconds(found["ledger"])
    }


def epochs_saved(folder: Path) -> int:
    """Epochs in the newest file, 0 if there is none."""
    last = folder / "files" / "last.ckpt"
    return int(torch.load(last, weights_only=True)["epoch"]) + 1 if last.exists() else 0


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    one_thread()
    SERVER.set_forkserver_preload(["lightning.pytorch", "pytorch_lightning", "torchmetrics", "scipy.stats"])
    rng = random.Random(options.seed)
    trials = []
    started = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        for strategy, kinds, each in (
            ("auto", (*KINDS, OUTSIDE, *SENT), options.each),
            ("ddp_fork", KINDS, 1),
        ):
            whole, again = Path(temporary) / f"whole-{strategy}", Path(temporary) / f"again-{strategy}"
            assert run_job(whole, "", strategy) == 0
            begun = time.time()  # the first one waited for the server of processes
            assert run_job(again, "", strategy) == 0
            seconds = time.time() - begun
            assert not differences(outcome(whole), outcome(again))
            drawn: set[str] = set()
            counts = torch.load(Path(temporary) / "whole-auto" / "result-0.pt", weights_only=False)["counts"]
            if strategy != "auto":  # each process sees half of the batches
                counts = counts | {
                    "batch": counts["batch"] // 2,
                    "judged": counts["judged"] // 2,
                    "refused": counts["refused"] // 2,
                    "write": counts["write"] // 2,
                    "rename": counts["rename"] // 2,
                    "place": counts["place"] // 2,
                }
            for kind in kinds:
                for _ in range(each):
                    while (moment := draw(kind, counts, seconds, rng)) in drawn:
                        pass
                    drawn.add(moment)
                    folder = Path(temporary) / f"trial-{len(trials)}"
                    sent = SENT.get(kind, signal.SIGKILL)
                    code = run_job(folder, moment, strategy, sent)
                    killed = bool(code) if kind in SENT else code == (-sent if strategy == "auto" else 1)
                    saved = epochs_saved(folder)
                    (folder / "result-0.pt").unlink(missing_ok=True)
                    resumed = run_job(folder, "", strategy)
                    found = ["it did not end"] if resumed else differences(outcome(whole), outcome(folder))
                    trials.append(
                        {
                            "processes": 1 if strategy == "auto" else 2,
                            "kind": kind,
                            "moment": moment,
                            "killed": killed,
                            "epochs_saved": saved,
                            "identical": not found,
                            "differences": found[:3],
                        }
                    )
                    print(trials[-1], flush=True)
        of_files = kill_files.trials(Path(temporary) / "files", max(1, options.each // 2), rng)
    report(trials, of_files, options.seed, time.time() - started, options.out)


def report(
    trials: list[dict[str, Any]], of_files: list[dict[str, Any]], seed: int, seconds: float, out: Path
) -> None:
    head = {"seed": seed, "seconds": round(seconds), **versions()}
    write(out / "kill_resume.json", [json.dumps(head | {"trials": trials, "files": of_files}, indent=1)])
    lines = [
        "# Killed and resumed",
        "",
        f"`python -m benchmarks.kill_resume --seed {seed}`: a run of 16 epochs (eight judged attempts, two refused) is "
        "killed with SIGKILL at a random moment and resumed with `ckpt_path='last'`. Identical: weights, masks, ledger "
        "apart from `seconds`, error budget and best file equal those of the uninterrupted run bit for bit.",
        f"CPU, {named(versions())}; {seconds:.0f} s in all.",
        "",
    ]
    table = []
    for processes in (1, 2):
        for kind in (*KINDS, OUTSIDE, *SENT):
            rows = [t for t in trials if t["kind"] == kind and t["processes"] == processes]
            if rows:
                table.append(
                    {"processes": processes, "killed": kind, "trials": len(rows)}
                    | {"killed in time": sum(t["killed"] for t in rows)}
                    | {"identical": sum(t["identical"] for t in rows)}
                    | {"epochs on disk then": ", ".join(str(t["epochs_saved"]) for t in rows)}
                )
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
