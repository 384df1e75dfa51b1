"""Python commands in processes of their own that need not load Lightning first, which takes five seconds.

They are forked from a server that has imported what others wrote and nothing of ours. How an interpreter starts, and
how a launcher starts its processes, they cannot show: tests of that use `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "lightning.pytorch.cli",
        "pytorch_lightning",
        "torchmetrics",
        "scipy.stats",
        "hydra",
        "matplotlib.figure",
    ]
)


@dataclass(frozen=True)
class Started:
    """A command that runs.

    Attributes:
        words: What `python` would have been given.
        process: It can be killed, and waited for.
        said: The files with its standard output and error, if they do not go elsewhere.
    """

    words: tuple[str, ...]
    process: ForkServerProcess
    said: tuple[Path, Path]

    def done(self) -> subprocess.CompletedProcess[str]:
        """What has come of it; its files are gone then."""
        out, err = (path.read_text(encoding="utf-8") if path.is_file() else "" for path in self.said)
        shutil.rmtree(self.said[0].parent)
        code = self.process.exitcode
        return subprocess.CompletedProcess(self.words, -1 if code is None else code, out, err)


def start(
    *words: str, folder: Path, environment: Mapping[str, str] | None = None, terminal: str | None = None
) -> Started:
    """Begin `python WORDS` in a folder.

    Args:
        words: `-m MODULE`, `-c CODE` or a script, and its arguments.
        folder: Where.
        environment: What it has beside this process' variables.
        terminal: The device that it writes to, if it is to have one.
    """
    place = Path(tempfile.mkdtemp(prefix="classprune-test-"))
    said = (place / "out", place / "err")
    outputs = [terminal or str(path) for path in said]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | dict(environment or {})
    process = SERVER.Process(target=_become, args=(words, str(folder), variables, outputs))
    process.start()
    return Started(words, process, said)


def run(
    *words: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    terminal: str | None = None,
    timeout: int = 240,
) -> subprocess.CompletedProcess[str]:
    """What comes of `python WORDS`; see `start`. After so many seconds it is killed."""
    started = start(*words, folder=folder, environment=environment, terminal=terminal)
    started.process.join(timeout)
    started.process.kill()
    started.process.join()
    return started.done()


def run_twice(
    *words: str, folder: Path, environment: Mapping[str, str] | None = None, timeout: int = 240
) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """The same command as the two processes of one distributed job, started as torchrun or a cluster does.

    If one ends badly the other, which would wait for it, is killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    job = dict(environment or {}) | place
    first, second = (start(*words, folder=folder, environment=job | {"LOCAL_RANK": rank}) for rank in "01")
    both, deadline = (first.process, second.process), time.monotonic() + timeout
    while any(one.exitcode is None for one in both) and time.monotonic() < deadline:
        if any(one.exitcode for one in both):
            time.sleep(1)  # the other one may be about to say why
            break
        time.sleep(0.02)
    for one in both:
        one.kill()
        one.join()
    return first.done(), second.done()


def check(*processes: subprocess.CompletedProcess[str]) -> None:
    """All have ended well."""
    told = [f"{one.args}: {one.returncode}\n{one.stdout[-2000:]}{one.stderr[-4000:]}" for one in processes]
    assert not any(one.returncode for one in processes), "\n".join(told)


def _become(
    words: Sequence[str], folder: str, environment: Mapping[str, str], outputs: Sequence[str]
) -> None:
    """Do what the interpreter does with its arguments."""
    assert "lightning_classprune" not in sys.modules  # else it is not what an interpreter would begin with
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    paths = environment["PYTHONPATH"].split(os.pathsep)
    kind, *arguments = words
    if kind == "-m":
        sys.path[:0] = [folder, *paths]
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[:0] = ["", *paths]
        sys.argv = ["-c", *arguments[1:]]
        exec(arguments[0], {"__name__": "__main__"})
    else:
        sys.path[:0] = [str(Path(kind).absolute().parent), *paths]
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")
