"""Kept tickets: the candidates of a run that the guard judges at the end, each in a file of its own until then.

Checkpoints hold the list, with a hash of every network, so that what is judged is what was kept. A file that says that
a run was judged lies beside them: a judgement is final, whichever checkpoint the run is resumed from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune import files
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.keeper import as_saved
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.tickets.ticket_file import digest, read_ticket, save_ticket
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding


@dataclass(frozen=True)
class Kept:
    """One candidate that is to be judged.

    Attributes:
        file: Its name in the folder.
        sha256: Of the network.
        place: Of its row in the ledger.
        offsets: Its decision offsets, by class.
        chance: What validation data said of it, by class.
    """

    file: str
    sha256: str
    place: int
    offsets: dict[str, float]
    chance: dict[str, float]

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return asdict(self)


class KeptTickets:
    """The kept candidates of one run.

    Args:
        folder: Where their files lie.
        run: What tells this run from others that used the folder.
        processes: The first one writes, and all learn of its errors.

    Attributes:
        dense: The dense network, which is delivered where nothing else is.
        candidates: In the order in which they were kept.
        replaced: Those that were, before the networks of a nested round took their place.
    """

    def __init__(self, folder: str, run: str, processes: Processes) -> None:
        self.folder = Path(folder)
        self.run = run
        self._processes = processes
        self.dense: Kept | None = None
        self.candidates: list[Kept] = []
        self.replaced: list[Kept] = []
        self._saved_folder = self.folder  # of the run that is resumed
        self._files: list[str] = []

    def keep(
        self,
        ticket: Ticket,
        place: int,
        chance: Mapping[str, float],
        sharding: Sharding,
        module: nn.Module,
    ) -> None:
        """Write a ticket, the first one as the dense network; all processes call this.

        Args:
            ticket: As it would be judged.
            place: Of its row in the ledger.
            chance: What validation data said of it.
            sharding: That of the module.
            module: The network.
        """
        state, masks = as_saved(module, sharding.saved(ticket.tensors), ticket.masks)
        file = self._name(place)
        self._processes.on_first(lambda: save_ticket(self.folder / file, state, masks))
        sha256 = digest(state, masks) if self._processes.rank == 0 else ""
        one = Kept(file, self._processes.first(sha256), place, dict(ticket.offsets), dict(chance))
        if self.dense is None:
            self.dense = one
        else:
            self.candidates.append(one)

    def give_way(self) -> None:
        """Those that are kept from here on take the place of the candidates so far."""
        self.replaced, self.candidates = [*self.replaced, *self.candidates], []

    @property
    def _ever(self) -> list[Kept]:
        return [*self.replaced, *self.candidates]

    def load(self, one: Kept) -> tuple[dict[str, Tensor], Masks]:
        """The whole tensors and masks of a kept network, on every process.

        Raises:
            MisconfigurationException: Its file is gone, or is not the one that was kept.
        """
        path = self.folder / one.file
        try:
            ticket = read_ticket(path)
        except (FileNotFoundError, ValueError) as error:
            raise MisconfigurationException(
                f"a candidate that was kept cannot be judged: {error}; put its file back"
            ) from error
        if ticket.sha256 != one.sha256:
            raise MisconfigurationException(
                f"{path} is not the network that was kept (its SHA-256 differs), so it is not judged"
            )
        return ticket.state, ticket.masks

    def _name(self, place: int) -> str:
        return f"kept-round={place:02d}-{self.run}.safetensors"

    # -- the judgement is final --

    @property
    def _marks(self) -> tuple[Path, Path]:
        """What says that the run was judged; the second so that it is known where somebody removed the first."""
        name = f"judged-{self.run}.json"
        return self.folder / name, self.folder / f".{name}"

    def refuse_if_judged(self) -> None:
        """Refuse to go on with a run that was judged, or whose guard was opened for other candidates.

        A judgement that was interrupted may be made again if it is the same one: of the same networks.

        Raises:
            MisconfigurationException: It was.
        """
        found: list[tuple[str, dict[str, Any]]] = []
        if self._processes.rank == 0:
            # A copy of the run folder does not make a second run.
            folders = (self.folder, self._saved_folder)
            marks = {folder / mark.name for folder in folders for mark in self._marks}
            found = [(os.fspath(mark), _read_mark(mark)) for mark in sorted(marks) if mark.exists()]
        found = self._processes.first(found)
        final = [mark for mark, said in found if said["done"] or not self._are_of(said["kept"])]
        if not final:
            return
        raise MisconfigurationException(
            f"this run was judged ({final[0]}): a judgement is final, so it is neither resumed nor judged again; "
            "begin a new run, with other guard data if it is to have a new chance"
        )

    def _are_of(self, kept: list[str]) -> bool:
        """Whether what was kept is the first of those networks, so that a run that goes on may come to the same."""
        return [one.sha256 for one in self._ever] == kept[: len(self._ever)]

    def open_guard(self, its_files: Sequence[str] = ()) -> None:
        """Say for which networks the guard is opened, before its first look.

        Args:
            its_files: SHA-256 of the files of the candidates that are judged too.

        Raises:
            MisconfigurationException: It was opened for others.
        """
        networks = [one.sha256 for one in self.candidates]
        self.refuse_if_judged()
        for mark in self._marks:
            known = _read_mark(mark) if mark.exists() else None
            if known is not None and (known["networks"], known["files"]) != (networks, list(its_files)):
                raise MisconfigurationException(
                    f"the guard was opened for other candidates of this run ({mark}): a judgement is final"
                )
        self._files = list(its_files)
        self._write_mark(networks, done=False)

    def close_guard(self) -> None:
        """Say that all verdicts were given."""
        self._write_mark([one.sha256 for one in self.candidates], done=True)

    def _write_mark(self, networks: list[str], *, done: bool) -> None:
        told = {"networks": networks, "files": self._files, "done": done}
        if self.replaced:
            told["kept"] = [one.sha256 for one in self._ever]
        content = json.dumps(told) + "\n"

        def write() -> None:
            for mark in self._marks:
                files.write_text(mark, content)

        self._processes.on_first(write)

    def discard(self) -> None:
        """Remove the files of all candidates; what was accepted has files of its own."""

        def remove() -> None:
            for one in (*self._ever, *([self.dense] if self.dense else [])):
                (self.folder / one.file).unlink(missing_ok=True)

        self._processes.on_first(remove)

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {
            "folder": os.fspath(self.folder),
            "run": self.run,
            "dense": self.dense.state_dict() if self.dense else None,
            "candidates": [one.state_dict() for one in self.candidates],
            "replaced": [one.state_dict() for one in self.replaced],
            "files": self._files,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; the files are looked for in this run's folder first.

        Raises:
            MisconfigurationException: It names files that are none of a run's.
        """
        self.run = state["run"]
        self.dense = Kept(**state["dense"]) if state["dense"] else None
        self.candidates = [Kept(**one) for one in state["candidates"]]
        self.replaced = [Kept(**one) for one in state.get("replaced", [])]
        self._files = list(state.get("files", []))
        for one in (*self._ever, *([self.dense] if self.dense else [])):
            if not re.fullmatch(r"\w+", self.run) or one.file != self._name(one.place):
                raise MisconfigurationException(
                    f"the checkpoint names {one.file!r} as a candidate that was kept, which is no name of one"
                )
        self._saved_folder = Path(state["folder"])
        there = self.dense is not None and (self.folder / self.dense.file).is_file()
        if not there and self._saved_folder.is_dir():
            self.folder = self._saved_folder


def _read_mark(path: Path) -> dict[str, Any]:
    try:
        said = files.read_json(path)
        if not isinstance(said["networks"], list) or not isinstance(said["done"], bool):
            raise ValueError("it does not say of which networks")
    except (ValueError, TypeError, KeyError) as error:
        raise MisconfigurationException(
            f"{path} says that this run was judged, and cannot be read ({error}); put it back"
        ) from error
    mark: dict[str, Any] = {"files": [], "kept": said["networks"]} | said
    return mark
