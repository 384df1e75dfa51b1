"""Spent tests: what the guard said of each candidate of a run, in a file beside its checkpoints.

A checkpoint knows the tests that were made before it. Resuming from an earlier one must not give a test again, to
another candidate: so each test is also kept in a file, and a run that comes to it once more must come with the same
decisions, of which the verdict is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_classprune import files
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.trainer.processes import Processes


class SpentTests:
    """The guard tests of one run. All processes call its methods alike.

    Args:
        folder: Where the file lies.
        run: What tells this run from others that used the folder.
        processes: The first one reads and writes, and all learn of its errors.
    """

    def __init__(self, folder: str | os.PathLike[str], run: str, processes: Processes) -> None:
        self._folder, self._run, self._processes = Path(folder), run, processes
        self._tests: dict[str, dict[str, Any]] = {}
        self._was_saved = False  # a run of which no checkpoint exists cannot be resumed, and leaves no file

    @property
    def any_refused(self) -> bool:
        """Whether a candidate was not accepted."""
        return any(test["verdict"] != "accepted" for test in self._tests.values())

    def take(self, number: int, outcomes: Outcomes | None, verdict: str, level: float) -> None:
        """A test is made, before its verdict is told to anybody.

        Args:
            number: Of the test in its run, from 0.
            outcomes: What the candidate decided on the guard's cases; None if its scores were NaN.
            verdict: What follows from that.
            level: Of the test, or for each of those that are made together.

        Raises:
            MisconfigurationException: This test was made already, of other decisions or beside other tests.
        """
        test = {"decisions": _digest(outcomes), "verdict": verdict, "level": level}
        known = self._tests.setdefault(str(number), test)
        if known != test:
            same = known["decisions"] == test["decisions"]
            how = (
                "at another level or beside other candidates"
                if same
                else "of a candidate that decided otherwise"
            )
            raise MisconfigurationException(
                f"guard test {number + 1} of this run was made already ({self._path}), {how}, and was "
                f"{known['verdict']}: from this checkpoint the run came to another network, by other data, other "
                "code or a device that rounds otherwise, or to other limits. A test is made once; resume from the last "
                "checkpoint, or begin a new run, with other guard data if it is to have a new chance"
            )
        self._write()

    def a_checkpoint_is_written(self) -> None:
        """From now on the tests are kept beside it."""
        if not self._was_saved:
            self._was_saved = True
            self._write()

    @property
    def _path(self) -> Path:
        return self._folder / f"tests-{self._run}.json"

    def _write(self) -> None:
        if self._was_saved and self._tests:
            content = json.dumps(self._tests, indent=1) + "\n"
            self._processes.on_first(lambda: files.write_text(self._path, content))

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        tests = {number: dict(test) for number, test in self._tests.items()}
        return {"folder": os.fspath(self._folder), "run": self._run, "tests": tests}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, and what the file says of tests made since; see `Processes`."""
        self._run, self._was_saved = state["run"], True
        saved_folder = Path(state["folder"])
        found: list[dict[str, Any]] = []
        if self._processes.rank == 0:
            # A copy of the run's folder does not make a second run.
            paths = dict.fromkeys((self._path, saved_folder / self._path.name))
            found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
            if saved_folder.is_dir() and not self._path.is_file():
                self._folder = saved_folder
        found = self._processes.first(found)
        if state["tests"] and not found:
            rank_zero_warn(
                f"{self._path.name}, the file of this run's guard tests, is not beside its checkpoints any more: tests "
                "that were made after this checkpoint are not known, and a run that makes them again proves less"
            )
        tests: dict[str, dict[str, Any]] = {}
        for known in (state["tests"], *found):
            tests = {number: dict(test) for number, test in known.items()} | tests
        self._tests = tests


def _digest(outcomes: Outcomes | None) -> str:
    """SHA-256 of what was decided."""
    told = hashlib.sha256()
    for name, value in sorted((outcomes.state_dict() if outcomes is not None else {}).items()):
        content = (
            value.contiguous().cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
        )
        told.update(f"{name} {len(content)} ".encode() + content)
    return told.hexdigest()
