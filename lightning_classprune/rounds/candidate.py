"""The candidate: the network as it is judged and as it is delivered, which training need not hold as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import reshard


class View(Protocol):
    """One way in which the network that is judged differs from the one in training: averaged, say."""

    def swapped_in(self, module: Any) -> AbstractContextManager[None]:
        """Inside, the module looks so; afterwards as before."""
        ...


@dataclass(frozen=True)
class Candidate:
    """What would be delivered of a module in training.

    Attributes:
        module: The network in training.
        processes: Those that train it.
        views: How it looks, from the inside out.
    """

    module: Any
    processes: Processes
    views: tuple[View, ...]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the module looks as it is delivered."""
        with ExitStack() as stack:
            for view in self.views:
                stack.enter_context(view.swapped_in(self.module))
            yield

    @contextmanager
    def as_judged(self) -> Iterator[None]:
        """As `swapped_in`, equal on all processes: with the first one's buffers."""
        reshard(self.module)
        self.processes.equalize_buffers(self.module)
        with self.swapped_in():
            self.processes.equalize_buffers(
                self.module
            )  # a view has buffers of its own, such as an average's
            yield
