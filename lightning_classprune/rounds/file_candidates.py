"""File candidates: what is deployed of a kept network, made and judged before anyone knows what the guard says.

Each file is a candidate of its own, for it decides otherwise than the network that it is made of. Who makes files is
not known here: `callback` brings a maker along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_classprune import files
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.kept import Kept
from lightning_classprune.trainer.processes import Processes


class FileMaker(Protocol):
    """Makes files of a network, and runs them in its place."""

    def rehearse(self, trainer: Any, module: Any) -> None:
        """Make every kind of file of the network as it is, and keep none; on one process.

        Raises:
            MisconfigurationException: That cannot be; names the mend.
        """
        ...

    def make(
        self,
        trainer: Any,
        module: Any,
        masks: Masks,
        offsets: Mapping[str, float],
        paths: Mapping[str, Path],
    ) -> dict[str, str]:
        """Write files of the network in the module, each whole or not at all; on one process.

        Args:
            trainer: The running trainer.
            module: The network.
            masks: True = kept.
            offsets: Its decision offsets, by class.
            paths: Kind -> the file.

        Returns:
            Kind -> why it could not be made.
        """
        ...

    def calibration(self, path: Path) -> dict[str, Any] | None:
        """What a file was calibrated on, if it was."""
        ...

    def running(self, trainer: Any, module: Any, content: bytes) -> AbstractContextManager[None]:
        """Inside, the module's forward is that of a file with this content."""
        ...


@dataclass(frozen=True)
class MadeFile:
    """A file that waits for its judgement.

    Attributes:
        kind: Of file.
        file: Its name in the folder; empty where it could not be made.
        sha256: Of its content; empty as `file`.
        bytes: Its size.
        calibration: What it was calibrated on, if it was.
        why: It could not be made.
    """

    kind: str
    file: str = ""
    sha256: str = ""
    bytes: int = 0
    calibration: dict[str, Any] | None = None
    why: str = ""


class FileCandidates:
    """The files of the kept networks of one run. All processes call its methods alike.

    Args:
        kinds: Of files, one of each a network.
        maker: Makes and runs them.
        folder: Gives the folder where they lie, and stay.
        processes: The first one makes them.
    """

    def __init__(
        self, kinds: Sequence[str], maker: FileMaker, folder: Callable[[], Path], processes: Processes
    ) -> None:
        self._kinds = tuple(kinds)
        self._maker = maker
        self._folder = folder
        self._processes = processes

    @property
    def per_network(self) -> int:
        """How many candidates a kept network is: itself, and its files."""
        return 1 + len(self._kinds)

    def rehearse(self, trainer: Any, module: Any) -> None:
        """See `FileMaker.rehearse`."""
        self._processes.on_first(lambda: self._maker.rehearse(trainer, module))

    def make(self, trainer: Any, module: Any, kept: Kept, masks: Masks) -> list[MadeFile]:
        """The files of the kept network that the module holds; those that an interrupted judgement made are taken."""
        made: list[MadeFile] = []

        def write() -> None:
            folder = self._folder()
            files.sweep(folder)
            paths = {kind: folder / self._name(kept, kind) for kind in self._kinds}
            missing = {kind: path for kind, path in paths.items() if not path.is_file()}
            failed = self._maker.make(trainer, module, masks, kept.offsets, missing) if missing else {}
            made.extend(self._made(kind, path, failed.get(kind)) for kind, path in paths.items())

        self._processes.on_first(write)
        shared: list[MadeFile] = self._processes.first(made)
        return shared

    def _name(self, kept: Kept, kind: str) -> str:
        # From an earlier checkpoint the same run may come to another network at the same place.
        stem = kept.file.removeprefix("kept-").removesuffix(".safetensors")
        return f"judged-{stem}-{kept.sha256[:8]}-{kind}.onnx"

    def _made(self, kind: str, path: Path, why: str | None) -> MadeFile:
        if why is not None:
            return MadeFile(kind, why=why)
        told = self._maker.calibration(path)
        return MadeFile(kind, path.name, files.sha256(path), os.path.getsize(path), told)

    def decide(
        self, trainer: Any, module: Any, made: MadeFile, ask: Callable[[], Outcomes | None]
    ) -> Outcomes | None:
        """What a file decides on the guard data, each process on its share; None if it has no scores, or NaN.

        Args:
            trainer: The running trainer.
            module: The network.
            made: The file.
            ask: Gives what the module decides, without offsets: they are in the file.
        """
        if not made.file:
            return None
        content: list[bytes] = []
        self._processes.on_first(lambda: content.append((self._folder() / made.file).read_bytes()))
        with self._maker.running(trainer, module, self._processes.first(b"".join(content))):
            return ask()
