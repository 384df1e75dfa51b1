"""The ladder: every accepted ticket of a run in a file of its own, and the list that a device picks from by budget."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_classprune import files
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.ticket_file import save_ticket

Entry = dict[str, Any]

LIST = "ladder.json"


class Ladder:
    """A folder with `round=NN.safetensors` of every accepted round, and `ladder.json`, which describes them.

    Args:
        folder: Made when the first ticket is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def add(
        self, row: Mapping[str, Any], state: Mapping[str, Tensor], masks: Masks, card: Mapping[str, Any]
    ) -> None:
        """Write the ticket of an accepted round; the same round again takes the place of its file.

        Args:
            row: The round's row of the ledger.
            state: Parameters and buffers as they were judged.
            masks: True = kept.
            card: What the file is to say of itself.

        Raises:
            ValueError: The ladder that is there is broken, or the network cannot be packed.
        """
        others = [entry for entry in self.entries() if entry["round"] != row["round"]]
        path = self.folder / f"round={row['round']:02d}.safetensors"
        size = save_ticket(path, state, masks, card=card)
        counts = {
            name: {key: one[key] for key in ("recall", "fn", "support")}
            for name, one in row["classes"].items()
        }
        entry = {
            "file": path.name,
            "bytes": size,
            "round": row["round"],
            "sparsity": row["sparsity"],
            "verdict": row["verdict"],
            "classes": counts,
        }
        self._write([*others, entry])

    def go_on(self, rounds: Collection[int], earlier: str | os.PathLike[str] | None) -> None:
        """Hold these rounds only: those that the ledger of a run that begins, or goes on, knows as accepted.

        A killed run may have written more, which are to be trained again, and a folder may be used a second time.

        Args:
            rounds: The accepted rounds so far.
            earlier: The folder in which the run kept its ladder before; its files are copied if it is another one.
        """
        if earlier is not None and Path(earlier).resolve() != self.folder.resolve():
            before = Ladder(earlier)
            kept = before._of(rounds)
            for entry in kept:
                with files.replacing(self.folder / entry["file"]) as part:
                    shutil.copyfile(before.folder / entry["file"], part)
        else:
            kept = self._of(rounds)
        if kept or (self.folder / LIST).exists():
            self._write(kept)
        for path in set(self.folder.glob("round=*.safetensors")) - {self.folder / e["file"] for e in kept}:
            path.unlink()

    def entries(self) -> list[Entry]:
        """What `ladder.json` lists, by round; nothing where there is none.

        Raises:
            ValueError: It is not a ladder.
        """
        path = self.folder / LIST
        if not path.is_file():
            return []
        try:
            entries: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
            return sorted(entries, key=lambda entry: int(entry["round"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is not a list of tickets ({error}); remove it or put it back"
            ) from error

    def pick(self, max_bytes: int | None = None, min_recall: float | None = None) -> Path:
        """The file to load: within `max_bytes` the one of the best recall, else the smallest with `min_recall`.

        Recall is the lowest of the protected classes on the guard data. With neither limit, the last accepted.

        Raises:
            ValueError: A limit is out of range, or no ticket keeps it; lists what there is.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes={max_bytes!r} is out of range: 1 or more")
        if min_recall is not None and not 0 <= min_recall <= 1:
            raise ValueError(f"min_recall={min_recall!r} is out of range: 0 to 1")
        entries = self.entries()
        if not entries:
            raise ValueError(f"{self.folder} holds no ladder: it has no {LIST}, or nothing is listed there")
        fitting = [
            entry
            for entry in entries
            if (max_bytes is None or entry["bytes"] <= max_bytes)
            and (min_recall is None or lowest_recall(entry) >= min_recall)
        ]
        if not fitting:
            wanted = [f"max_bytes={max_bytes}"] * (max_bytes is not None)
            wanted += [f"min_recall={min_recall}"] * (min_recall is not None)
            there = "; ".join(
                f"{e['file']}: {e['bytes']} bytes, recall {lowest_recall(e):.4g}" for e in entries
            )
            raise ValueError(f"no ticket in {self.folder} keeps {' and '.join(wanted)}; there are {there}")
        if max_bytes is not None:
            chosen = max(fitting, key=lambda entry: (lowest_recall(entry), -entry["bytes"]))
        elif min_recall is not None:
            chosen = min(fitting, key=lambda entry: entry["bytes"])
        else:
            chosen = fitting[-1]
        return self.folder / str(chosen["file"])

    def _of(self, rounds: Collection[int]) -> list[Entry]:
        return [
            entry
            for entry in self.entries()
            if entry["round"] in rounds and (self.folder / entry["file"]).is_file()
        ]

    def _write(self, entries: list[Entry]) -> None:
        listed = sorted(entries, key=lambda entry: int(entry["round"]))
        files.write_text(self.folder / LIST, json.dumps(listed, indent=2, allow_nan=False) + "\n")


def lowest_recall(entry: Mapping[str, Any]) -> float:
    """The lowest recall of the protected classes; 0 where one had no positives, so nothing is known."""
    return min((one["recall"] or 0.0 for one in entry["classes"].values()), default=0.0)
