"""Class-aware iterative pruning with weight rewinding for PyTorch Lightning.

The door: it names what users import and loads each piece when it is asked for (PEP 562), so that commands which only
talk, such as `classprune --version`, do not wait for torch.
"""

from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from sys import meta_path, modules
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_classprune.callback import ClassAwarePruningCallback
    from lightning_classprune.export.compact import compact
    from lightning_classprune.export.compact_files import load_compact, save_compact
    from lightning_classprune.export.export import export
    from lightning_classprune.export.guard_split import GuardSplit
    from lightning_classprune.export.ladder_costs import measure_ladder
    from lightning_classprune.export.onnx_export import export_onnx
    from lightning_classprune.export.sparse_inference import sparsify_for_inference
    from lightning_classprune.guard import statistics as statistics
    from lightning_classprune.guard import tasks as tasks
    from lightning_classprune.guard.decision_offset import DecisionOffset
    from lightning_classprune.guard.options import Guard
    from lightning_classprune.guard.probes import KNNProbe, LinearProbe
    from lightning_classprune.guard.statistics import chance_at_setup
    from lightning_classprune.guard.thresholds import certify_threshold
    from lightning_classprune.guard.tolerance import FNTolerance
    from lightning_classprune.ledger import figure
    from lightning_classprune.live import LiveView
    from lightning_classprune.losses import (
        ClassBalancedCrossEntropy,
        ClassDependentLoss,
        PairwiseRankingLoss,
    )
    from lightning_classprune.pruning.options import Cut
    from lightning_classprune.rounds.options import Adaptive, Fixed, Gradual
    from lightning_classprune.tickets.joint_file import read_ladder, save_ladder
    from lightning_classprune.tickets.loading import load_ticket
    from lightning_classprune.tickets.options import Files
    from lightning_classprune.tickets.switching import switch_ticket
    from lightning_classprune.tickets.ticket_file import save_ticket

    report = figure
    __version__: str

__all__ = [
    "Adaptive",
    "ClassAwarePruningCallback",
    "ClassBalancedCrossEntropy",
    "ClassDependentLoss",
    "Cut",
    "DecisionOffset",
    "FNTolerance",
    "Files",
    "Fixed",
    "Gradual",
    "Guard",
    "GuardSplit",
    "KNNProbe",
    "LinearProbe",
    "LiveView",
    "PairwiseRankingLoss",
    "certify_threshold",
    "chance_at_setup",
    "compact",
    "export",
    "export_onnx",
    "load_compact",
    "load_ticket",
    "measure_ladder",
    "read_ladder",
    "save_compact",
    "save_ladder",
    "save_ticket",
    "sparsify_for_inference",
    "switch_ticket",
]

# The same once more, for the moment when a name is asked for.
_HOMES = {
    "Adaptive": "rounds.options",
    "ClassAwarePruningCallback": "callback",
    "ClassBalancedCrossEntropy": "losses",
    "ClassDependentLoss": "losses",
    "Cut": "pruning.options",
    "DecisionOffset": "guard.decision_offset",
    "FNTolerance": "guard.tolerance",
    "Files": "tickets.options",
    "Fixed": "rounds.options",
    "Gradual": "rounds.options",
    "Guard": "guard.options",
    "GuardSplit": "export.guard_split",
    "KNNProbe": "guard.probes",
    "LinearProbe": "guard.probes",
    "LiveView": "live",
    "PairwiseRankingLoss": "losses",
    "certify_threshold": "guard.thresholds",
    "chance_at_setup": "guard.statistics",
    "compact": "export.compact",
    "export": "export.export",
    "export_onnx": "export.onnx_export",
    "load_compact": "export.compact_files",
    "load_ticket": "tickets.loading",
    "measure_ladder": "export.ladder_costs",
    "read_ladder": "tickets.joint_file",
    "save_compact": "export.compact_files",
    "save_ladder": "tickets.joint_file",
    "save_ticket": "tickets.ticket_file",
    "sparsify_for_inference": "export.sparse_inference",
    "switch_ticket": "tickets.switching",
}
# Modules that users know by a name of their own.
_MODULES = {"report": "ledger.figure", "statistics": "guard.statistics", "tasks": "guard.tasks"}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lightning-classprune")
    except PackageNotFoundError:  # a source tree that nobody installed
        return "0+unknown"


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name):
        if name == "__version__":
            value = _version()
        elif name in _MODULES:
            value = import_module(f"{__name__}.{_MODULES[name]}")
        elif name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])


class _Door(ModuleType):
    """`export` is a function here and a room of the house: loading the room must not put it in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "export" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[object, ...]:
        return import_module, (self.__name__,)  # as other modules, for launchers that pickle a user's globals


class _OtherNames(MetaPathFinder, Loader):
    """Makes `import lightning_classprune.statistics` find the module in its room: one object under both names.

    A file of that name at the top would be a second door, and would load its room whenever anything is imported.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, last = name.rpartition(".")
        return ModuleSpec(name, self) if package == __name__ and last in _MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        # The import system hands out what stands in sys.modules after this.
        modules[module.__name__] = import_module(f"{__name__}.{_MODULES[module.__name__.rpartition('.')[2]]}")


modules[__name__].__class__ = _Door
meta_path.append(_OtherNames())
