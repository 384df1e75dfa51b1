"""The ladder: every accepted ticket of a run in a file of its own, and the list that a device picks from by budget."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
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
        entries = self.entries()
        others = [entry for entry in entries if entry["round"] != row["round"]]
        path = self.folder / file_name(row["round"])
        with files.replacing(path) as part:
            size = save_ticket(part, state, masks, card=card)
            # Listed nowhere: of a run that was killed before it wrote the list, or somebody's own.
            if len(others) == len(entries) and os.path.lexists(path) and not _equal(path, part):
                aside = self._aside([path.name])
                rank_zero_warn(f"ladder: {path} is not in {LIST}; it is kept as {aside / path.name}")
        entry = {"file": path.name, "bytes": size, "verdict": row["verdict"], **_told(row)}
        self._write([*others, entry])

    def check_usable(self) -> None:
        """Make the folder, and write there.

        Raises:
            ValueError: That is not possible.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"Files.ladder={os.fspath(self.folder)!r} cannot be written to ({error}); give a folder that can"
            ) from error
        files.sweep(self.folder)

    def is_of(self, rows: Collection[Mapping[str, Any]]) -> bool:
        """Whether what is listed may be of the run with these accepted rows: nothing says otherwise.

        Raises:
            ValueError: It is not a ladder.
        """
        told = {row["round"]: _told(row) for row in rows}
        entries = self.entries()
        return (bool(told) or not entries) and all(
            _told(entry) == told[entry["round"]] for entry in entries if entry["round"] in told
        )

    def forget(self) -> None:
        """List nothing; the files stay."""
        if self.entries():
            self._write([])

    def set_aside(self) -> Path:
        """Move the list and what it lists into a new folder within this one, and return that."""
        listed = [entry["file"] for entry in self.entries()]
        return self._aside([name for name in (*listed, LIST) if os.path.lexists(self.folder / name)])

    def _aside(self, names: Collection[str]) -> Path:
        number = 1
        while True:
            aside = self.folder / f"earlier-{number}"
            try:
                aside.mkdir()
            except FileExistsError:
                number += 1
                continue
            break
        for name in names:
            (self.folder / name).rename(aside / name)
        return aside

    def go_on(self, rounds: Collection[int], earlier: str | os.PathLike[str] | None) -> None:
        """Hold these rounds only: those that the ledger of a run that begins, or goes on, knows as accepted.

        A killed run may have written more, which are to be trained again. Files that are not listed are let alone.

        Args:
            rounds: The accepted rounds so far.
            earlier: The folder in which the run kept its ladder before; its files are copied if it is another one.
        """
        if earlier is not None and Path(earlier).resolve() != self.folder.resolve():
            before, listed = Ladder(earlier), self.entries()
            kept = before._of(rounds)
            for entry in kept:
                with files.replacing(self.folder / entry["file"]) as part:
                    shutil.copyfile(before.folder / entry["file"], part)
        else:
            listed = self.entries()
            kept = self._of(rounds)
        if kept or listed:
            self._write(kept)
        for name in {entry["file"] for entry in listed} - {entry["file"] for entry in kept}:
            (self.folder / name).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What `ladder.json` lists, by round; nothing where there is none.

        Raises:
            ValueError: It is not a ladder.
        """
        path = self.folder / LIST
        if not path.is_file():
            return []
        try:
            entries = _checked(files.read_json(path))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{path} is not a list of tickets ({error}); remove it or put it back"
            ) from error
        return sorted(entries, key=lambda entry: int(entry["round"]))

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
            if entry["round"] in rounds and _is_plain(self.folder / entry["file"])
        ]

    def _write(self, entries: list[Entry]) -> None:
        listed = [
            entry | {"sha256": _hash(entry)}
            for entry in sorted(entries, key=lambda entry: int(entry["round"]))
        ]
        files.write_text(self.folder / LIST, json.dumps(listed, indent=2, allow_nan=False) + "\n")


def file_name(number: int) -> str:
    """What the ticket of a round is called."""
    return f"round={number:02d}.safetensors"


def _told(row: Mapping[str, Any]) -> Entry:
    """What a ladder says of a row of the ledger."""
    counts = {
        name: {key: one.get(key) for key in ("recall", "fn", "support")}
        for name, one in row["classes"].items()
    }
    return {"round": row["round"], "sparsity": row.get("sparsity"), "classes": counts}


def _checked(content: Any) -> list[Entry]:
    """A list whose entries name tickets in their own folder only.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(content, list):
        raise ValueError("it holds no list")
    for entry in content:
        if not isinstance(entry, dict) or not is_count(entry.get("round")):
            raise ValueError("an entry has no round")
        if entry.get("file") != file_name(entry["round"]):
            raise ValueError(
                f"the file of round {entry['round']} is {str(entry.get('file'))[:80]!r}, "
                f"not {file_name(entry['round'])!r}"
            )
        classes = entry.get("classes")
        good = isinstance(classes, dict) and all(
            isinstance(one, dict) and is_recall(one.get("recall")) for one in classes.values()
        )
        if not good or not is_count(entry.get("bytes")):
            raise ValueError(f"round {entry['round']} lacks its bytes or its classes' recall")
        if entry.get("sha256") != _hash(entry):
            raise ValueError(f"what it says of round {entry['round']} was changed")
    if len({entry["round"] for entry in content}) < len(content):
        raise ValueError("a round is listed twice")
    return content


def _hash(entry: Entry) -> str:
    """SHA-256 of what an entry says."""
    said = {key: value for key, value in entry.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def is_count(value: Any) -> bool:
    """Whether a value read from JSON is a number of things."""
    return type(value) is int and 0 <= value < 2**53


def is_recall(value: Any) -> bool:
    """Whether a value read from JSON is a recall, or None for none."""
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _equal(path: Path, other: Path) -> bool:
    return path.is_file() and path.read_bytes() == other.read_bytes()


def _is_plain(path: Path) -> bool:
    # What a link leads to lies elsewhere.
    return path.is_file() and not path.is_symlink()


def lowest_recall(entry: Mapping[str, Any]) -> float:
    """The lowest recall of the protected classes; 0 where one had no positives, so nothing is known."""
    return min((one["recall"] or 0.0 for one in entry["classes"].values()), default=0.0)
