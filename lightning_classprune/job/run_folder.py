"""The run folder: the names of what a job leaves behind, how it is written and how it is read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightning_classprune import files
from lightning_classprune.export.environment import environment
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.report.pictures import Pixels, read_pictures, write_pictures
from lightning_classprune.job.samples_file import read_samples
from lightning_classprune.job.scores_file import read_scores
from lightning_classprune.ledger.rows import Row
from lightning_classprune.ledger.text import read_jsonl


@dataclass(frozen=True)
class RunFolder:
    """One job's folder.

    | file | what |
    |---|---|
    | `config.yaml` | the composed configuration, resolved, with the data's facts |
    | `environment.json` | versions, machine, git state, command |
    | `status.json` | `state` (running, interrupted, finished, failed), `error`, `objective` |
    | `samples.csv` | which sample, such as a file, each number of a split is |
    | `ledger.jsonl` | one row a judged round, rewritten at every verdict |
    | `guard.npz` | targets and decisions of the dense and the delivered network on the guard data |
    | `layers.json` | kept and total weights of each prunable parameter, as delivered |
    | `guard_pictures.npz` | thumbnails of guard images whose decision changed, for the report |
    | `scores.npz` | decisions and margins of both networks on the guard and the test split |
    | `test.json` | counts of the test split, and of the `dense` network's classes |
    | `accepted.ckpt` | the delivered network; its `state_dict` loads in the plain model |
    | `tickets/` | every accepted ticket, packed, with `ladder.json` |
    | `hashes.json` | SHA-256 of what a claim rests on |
    | `report.html` | all of it on one page, which `classprune-report` builds anew |
    | `checkpoints/last.ckpt` | what a killed job goes on from |
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
        """The job's whole configuration."""
        config = OmegaConf.load(self.config_file)
        assert isinstance(config, DictConfig)
        return config

    def ledger(self) -> list[Row]:
        """The rows judged so far; none before the first verdict.

        Raises:
            ValueError: A line is broken; names it.
        """
        return read_jsonl(self.ledger_file) if self.ledger_file.is_file() else []

    def status(self) -> dict[str, Any]:
        """`state`, `error` and `objective`; a job that was killed still says running."""
        return self._json("status.json") or {"state": "running", "error": None, "objective": None}

    def environment(self) -> dict[str, Any] | None:
        """What `environment.environment()` said when the job began."""
        return self._json("environment.json")

    def test(self) -> dict[str, Any] | None:
        """Counts of the test split, of a finished job."""
        return self._json("test.json")

    def guard(self) -> dict[str, Decisions]:
        """Decisions of the `dense` and the `delivered` network on the guard data; empty before the job's end."""
        if not (self.path / "guard.npz").is_file():
            return {}
        with (
            _naming(self.path / "guard.npz") as path,
            np.load(path, allow_pickle=False) as arrays,
        ):
            target, classes = torch.from_numpy(arrays["target"]).long(), int(arrays["num_classes"])
            return {
                name: Decisions(target, torch.from_numpy(arrays[name]).long(), classes)
                for name in ("dense", "delivered")
            }

    def layers(self) -> list[dict[str, Any]]:
        """Name, shape, kept and total weights of each prunable parameter; empty before the job's end."""
        content = self._json("layers.json")
        return [] if content is None else list(content["layers"])

    def pictures(self) -> dict[int, Pixels]:
        """Thumbnails by guard index; none for a table."""
        if not self.pictures_file.is_file():
            return {}
        with _naming(self.pictures_file) as path:
            return read_pictures(path)

    def scores(self) -> dict[str, dict[str, Answers]]:
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
        """SHA-256 by file; empty before the job's end."""
        return self._json("hashes.json") or {}

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.is_file():
            return None
        with _naming(path):
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content

    # -- writing, which the first process does for all --

    @rank_zero_only
    def begin(self, config: DictConfig, *, resumed: bool = False) -> None:
        """Note what runs here, with what, and that it runs; a resumed job's first environment stays."""
        files.write_text(self.config_file, OmegaConf.to_yaml(config, resolve=True))
        first, now = self.environment() if resumed else None, environment()
        again = [] if first is None else [*first.get("resumed", []), now]
        self.write_json("environment.json", (first or now) | {"resumed": again})
        self.write_status("running")

    @rank_zero_only
    def write_status(self, state: str, *, error: str | None = None, objective: Any = None) -> None:
        """Say how the job stands."""
        self.write_json("status.json", {"state": state, "error": error, "objective": objective})

    @rank_zero_only
    def write_guard(self, outcomes: Mapping[str, Decisions]) -> None:
        """Keep what the verdicts rest on: decisions of the `dense` and the `delivered` network, sample by sample."""
        if not outcomes:
            return
        dense = outcomes["dense"]
        arrays: dict[str, Any] = {n: one.predicted.to(torch.int16).numpy() for n, one in outcomes.items()}
        with files.replacing(self.path / "guard.npz") as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                target=dense.target.to(torch.int16).numpy(),
                num_classes=np.int64(dense.num_classes),
                **arrays,
            )

    @rank_zero_only
    def write_pictures(self, thumbnails: Mapping[int, Pixels]) -> None:
        """Keep thumbnails for the report, instead of those of an earlier job in this folder."""
        if thumbnails:
            write_pictures(self.pictures_file, thumbnails)
        else:
            self.pictures_file.unlink(missing_ok=True)

    @rank_zero_only
    def write_hashes(self) -> None:
        """Note the SHA-256 of every file that a claim rests on."""
        claimed = [
            self.accepted,
            self.ledger_file,
            self.path / "guard.npz",
            self.scores_file,
            self.samples_file,
        ]
        there = [path for path in [*claimed, *sorted(self.tickets.glob("*.safetensors"))] if path.is_file()]
        self.write_json(
            "hashes.json",
            {
                path.relative_to(self.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in there
            },
        )

    @rank_zero_only
    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one small file."""
        files.write_text(self.path / name, json.dumps(content, indent=2) + "\n")


@contextmanager
def _naming(path: Path) -> Iterator[Path]:
    """Let an error of reading `path` name it."""
    try:
        yield path
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); was it cut short?"
        ) from error
