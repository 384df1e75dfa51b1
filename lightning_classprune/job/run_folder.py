"""The run folder: the names of what a job leaves behind, how it is written and how it is read again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightning_classprune import files
from lightning_classprune.export.environment import environment
from lightning_classprune.guard.objects import Found
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.checked import Status, check
from lightning_classprune.job.config_file import read_config
from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.lock import held
from lightning_classprune.job.objects.answers import found_arrays, found_from
from lightning_classprune.job.objects.pictures import (
    ObjectPictures,
    read_object_pictures,
    write_object_pictures,
)
from lightning_classprune.job.report.pictures import Pixels, read_pictures, write_pictures
from lightning_classprune.job.samples_file import read_samples
from lightning_classprune.job.scores_file import AnyAnswers, read_scores
from lightning_classprune.job.trust import check_targets
from lightning_classprune.ledger.rows import Row
from lightning_classprune.ledger.text import read_jsonl

# A status always has this many bytes, so that one can be written where a disk is full.
_STATUS = 2048
_FULL = (errno.ENOSPC, errno.EDQUOT)
# The key of hashes.json that says the hash of all the others.
_WHOLE = "all of these"

_NETWORKS = ("dense", "delivered")

#: What report, summary and export read, besides the checkpoint and the tickets.
CLAIMED = (
    "config.yaml",
    "environment.json",
    "guard.npz",
    "guard_pictures.npz",
    "layers.json",
    "ledger.jsonl",
    "object_pictures.npz",
    "samples.csv",
    "scores.npz",
    "status.json",
    "test.json",
)


@dataclass(frozen=True)
class RunFolder:
    """One job's folder.

    | file | what |
    |---|---|
    | `config.yaml` | the composed configuration, resolved, with the data's facts |
    | `environment.json` | versions, machine, git state, command |
    | `status.json` | `state` (running, interrupted, finished, failed), `error`, `objective` |
    | `samples.csv` | which sample, such as a file, each number of a split is, and its class; of objects its unit |
    | `ledger.jsonl` | one row a judged round, rewritten at every verdict |
    | `guard.npz` | targets, or objects, and decisions of the dense and the delivered network on the guard data |
    | `layers.json` | kept and total weights of each prunable parameter, as delivered |
    | `guard_pictures.npz` | thumbnails of guard images whose decision changed, for the report |
    | `object_pictures.npz` | of objects: guard pictures in which some are found otherwise, and new false alarms |
    | `scores.npz` | decisions and margins of both networks on the guard and the test split |
    | `test.json` | counts of the test split, and of the `dense` network's classes |
    | `accepted.ckpt` | the delivered network; its `state_dict` loads in the plain model |
    | `tickets/` | every accepted ticket, packed, with `ladder.json` |
    | `hashes.json` | SHA-256 of what a claim rests on, and of what report and summary are built from |
    | `report.html` | all of it on one page, which `classprune-report` builds anew |
    | `checkpoints/last.ckpt` | what a killed job goes on from, with its SHA-256 beside it |
    | `.lock` | held by the process that works here |
    """

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Return the folder of a job that was started there.

        Raises:
            ValueError: It is none.
        """
        folder = cls(Path(path))
        if not folder.config_file.is_file():
            raise ValueError(
                f"{path} is not a run folder: it has no {folder.config_file.name}; give the folder of one job, "
                "such as outputs/<date>/<time> or one numbered folder of a sweep"
            )
        return folder

    @property
    def config_file(self) -> Path:
        """`config.yaml`."""
        return self.path / "config.yaml"

    @property
    def ledger_file(self) -> Path:
        """`ledger.jsonl`."""
        return self.path / "ledger.jsonl"

    @property
    def accepted(self) -> Path:
        """`accepted.ckpt`."""
        return self.path / "accepted.ckpt"

    @property
    def tickets(self) -> Path:
        """`tickets/`."""
        return self.path / "tickets"

    @property
    def report(self) -> Path:
        """`report.html`."""
        return self.path / "report.html"

    @property
    def pictures_file(self) -> Path:
        """`guard_pictures.npz`."""
        return self.path / "guard_pictures.npz"

    @property
    def object_pictures_file(self) -> Path:
        """`object_pictures.npz`."""
        return self.path / "object_pictures.npz"

    @property
    def scores_file(self) -> Path:
        """`scores.npz`."""
        return self.path / "scores.npz"

    @property
    def samples_file(self) -> Path:
        """`samples.csv`."""
        return self.path / "samples.csv"

    @property
    def last_checkpoint(self) -> Path | None:
        """What an unfinished job can go on from, if there is anything."""
        last = self.path / "checkpoints" / "last.ckpt"
        return last if last.is_file() else None

    # -- reading --

    def config(self) -> DictConfig:
        """The job's whole configuration, to be looked at.

        Raises:
            ValueError: It cannot be read.
        """
        return read_config(self.config_file)

    def trusted_config(self, *, trust: bool) -> DictConfig:
        """The same, to be done: of objects whose code may run here.

        Args:
            trust: Whoever made the folder is trusted with anything.

        Raises:
            ValueError: It cannot be read, or names an object that is no part of a job.
        """
        config = self.config()
        if not trust:
            check_targets(config, self.config_file)
        return config

    def ledger(self) -> list[Row]:
        """The rows judged so far; none before the first verdict.

        Raises:
            ValueError: A line is broken; names it.
        """
        if not self.ledger_file.is_file():
            return []
        with _naming(self.ledger_file):
            rows = read_jsonl(self.ledger_file)
        for number, row in enumerate(rows, start=1):
            check(row, Row, f"{self.ledger_file}, line {number}")
        return rows

    def status(self) -> dict[str, Any]:
        """`state`, `error` and `objective`; a job that was killed still says running.

        Raises:
            ValueError: It cannot be read.
        """
        status = self._json("status.json") or {"state": "running"}
        check(status, Status, str(self.path / "status.json"))
        if "state" not in status:
            raise ValueError(f"{self.path / 'status.json'} says no state")
        return {"error": None, "objective": None} | status

    def environment(self) -> dict[str, Any] | None:
        """What `environment.environment()` said when the job began."""
        return self._json("environment.json")

    def test(self) -> dict[str, Any] | None:
        """Counts of the test split, of a finished job."""
        return self._json("test.json")

    def guard(self) -> dict[str, Decisions] | dict[str, Found]:
        """Decisions of the `dense` and the `delivered` network on the guard data; empty before the job's end."""
        if not (self.path / "guard.npz").is_file():
            return {}
        with (
            _naming(self.path / "guard.npz") as path,
            np.load(path, allow_pickle=False) as arrays,
        ):
            if "rule" in arrays:
                return {name: found_from(arrays, arrays[name]) for name in _NETWORKS}
            target, classes = torch.from_numpy(arrays["target"]).long(), int(arrays["num_classes"])
            return {
                name: Decisions(target, torch.from_numpy(arrays[name]).long(), classes) for name in _NETWORKS
            }

    def layers(self) -> list[dict[str, Any]]:
        """Name, shape, kept and total weights of each prunable parameter; empty before the job's end."""
        content = self._json("layers.json")
        if content is None:
            return []
        check(content.get("layers"), list[dict[str, Any]], f"{self.path / 'layers.json'}: layers")
        return list(content["layers"])

    def pictures(self) -> dict[int, Pixels]:
        """Thumbnails by guard index; none for a table."""
        if not self.pictures_file.is_file():
            return {}
        with _naming(self.pictures_file) as path:
            return read_pictures(path)

    def object_pictures(self) -> ObjectPictures | None:
        """Guard pictures in which objects are found otherwise; None where samples have a class."""
        if not self.object_pictures_file.is_file():
            return None
        with _naming(self.object_pictures_file) as path:
            return read_object_pictures(path)

    def scores(self) -> dict[str, dict[str, AnyAnswers]]:
        """What both networks say of guard and test split; empty before the job's end."""
        if not self.scores_file.is_file():
            return {}
        with _naming(self.scores_file) as path:
            return read_scores(path)

    def samples(self) -> dict[str, list[Sample]]:
        """What the samples of each split are called, and their classes; empty where that is not known."""
        if not self.samples_file.is_file():
            return {}
        names = [str(name) for name in self.config().facts.class_names]
        with _naming(self.samples_file) as path:
            return read_samples(path, names)

    def hashes(self) -> dict[str, str]:
        """SHA-256 by file; empty before the job's end.

        Raises:
            ValueError: They cannot be read, or were changed.
        """
        hashes, path = self._json("hashes.json"), self.path / "hashes.json"
        if hashes is None:
            return {}
        check(hashes, dict[str, str], str(path))
        if hashes.pop(_WHOLE, None) != _whole(hashes):
            raise ValueError(
                f"{path} was changed or damaged since the job ended: it does not fit its own SHA-256; put it back, or "
                "remove it if the change is meant"
            )
        return hashes

    def verify(self, names: Collection[str]) -> None:
        """Compare files of a job that has ended with their hashes, as far as both are there.

        Raises:
            ValueError: One was changed; names it.
        """
        hashes = self.hashes()
        for name in names:
            path = self.path / name
            if name in hashes and path.is_file() and files.sha256(path) != hashes[name]:
                raise ValueError(
                    f"{path} was changed or damaged since the job ended: its SHA-256 is not the one in hashes.json; "
                    "put it back, or remove hashes.json if the change is meant"
                )

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.is_file():
            return None
        with _naming(path):
            content = files.read_json(path)
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__} where names and values are expected")
            return content

    # -- writing, which the first process does for all --

    def held(self) -> AbstractContextManager[None]:
        """Work here alone; `lock.FolderInUse` where another process does."""
        return held(self.path / ".lock")

    @rank_zero_only
    def begin(self, config: DictConfig, *, resumed: bool = False) -> None:
        """Note what runs here, with what, and that it runs; a resumed job's first environment stays."""
        for folder in (self.path, self.tickets, self.path / "checkpoints"):
            files.sweep(folder)
        (self.path / "hashes.json").unlink(missing_ok=True)  # of an earlier job
        files.write_text(self.config_file, OmegaConf.to_yaml(config, resolve=True))
        first, now = self.environment() if resumed else None, environment()
        again = [] if first is None else [*first.get("resumed", []), now]
        self.write_json("environment.json", (first or now) | {"resumed": again})
        self.write_status("running")

    @rank_zero_only
    def write_status(self, state: str, *, error: str | None = None, objective: Any = None) -> None:
        """Say how the job stands, on a full disk too."""
        if error is not None and self._is_full():
            error = f"{error[: _STATUS // 4]} (the disk of {self.path} is full)"
        content = {"state": state, "error": error, "objective": objective}
        text = json.dumps(content, indent=2) + "\n"
        file = self.path / "status.json"
        try:
            files.write_text(file, text.ljust(_STATUS))
        except OSError as failed:
            if failed.errno not in _FULL or not file.is_file():
                raise
            with file.open("r+", encoding="utf-8") as there:  # in the room that it has
                there.write(text.ljust(_STATUS))
                there.truncate()

    def _is_full(self) -> bool:
        return self.path.is_dir() and shutil.disk_usage(self.path).free < 2 * _STATUS

    @rank_zero_only
    def write_guard(self, outcomes: Mapping[str, Decisions] | Mapping[str, Found]) -> None:
        """Keep what the verdicts rest on: decisions of the `dense` and the `delivered` network, sample by sample."""
        if not outcomes:
            return
        arrays: dict[str, Any] = {}
        for name, one in outcomes.items():
            if isinstance(one, Found):
                arrays |= found_arrays(one) | {name: one.value.to(torch.int32).numpy()}
            else:
                arrays |= {
                    "target": one.target.to(torch.int16).numpy(),
                    "num_classes": np.int64(one.num_classes),
                    name: one.predicted.to(torch.int16).numpy(),
                }
        with files.replacing(self.path / "guard.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @rank_zero_only
    def write_pictures(self, thumbnails: Mapping[int, Pixels]) -> None:
        """Keep thumbnails for the report, instead of those of an earlier job in this folder."""
        if thumbnails:
            write_pictures(self.pictures_file, thumbnails)
        else:
            self.pictures_file.unlink(missing_ok=True)

    @rank_zero_only
    def write_object_pictures(self, pictures: ObjectPictures) -> None:
        """Keep pictures for the report, instead of those of an earlier job in this folder."""
        if pictures.pixels:
            write_object_pictures(self.object_pictures_file, pictures)
        else:
            self.object_pictures_file.unlink(missing_ok=True)

    @rank_zero_only
    def write_hashes(self) -> None:
        """Note the SHA-256 of every file that a claim rests on, and of those that are read again."""
        claimed = [self.accepted, *(self.path / name for name in CLAIMED)]
        there = [path for path in [*claimed, *sorted(self.tickets.glob("*.safetensors"))] if path.is_file()]
        hashes = {path.relative_to(self.path).as_posix(): files.sha256(path) for path in there}
        self.write_json("hashes.json", hashes | {_WHOLE: _whole(hashes)})

    @rank_zero_only
    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one small file."""
        files.write_text(self.path / name, json.dumps(content, indent=2) + "\n")


def _whole(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[Path]:
    """Let an error of reading `path` name it, and read no archive that would fill the memory."""
    try:
        if path.suffix == ".npz":
            files.check_archive(path)
        yield path
    except Exception as error:  # readers of archives raise what they like
        if str(path) in str(error):
            raise ValueError(" ".join(str(error).split())) from error
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {told}); was it cut short?"
        ) from error
