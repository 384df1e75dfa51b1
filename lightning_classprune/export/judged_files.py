"""Files that a running fit makes of its candidates and has judged, each run in the place of the module's forward.

A file takes what the module's forward takes. Where the datamodule says how it normalises, by `normalization` and `raw`,
as that of the job, normalisation is in the file, which then takes raw inputs.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.export.artefact import Values
from lightning_classprune.export.compact import compact
from lightning_classprune.export.deployed import Deployed, Normalization, one_logit
from lightning_classprune.export.int8_format import int8_file
from lightning_classprune.export.onnx_export import Graph, make_graph, texts, write_graph
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.export.quantization import CALIBRATION, calibration_facts
from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.slicing import cpu_copy
from lightning_classprune.trainer.forward import Predict, as_in_validation, predicted
from lightning_classprune.trainer.loaders import is_stream, rebuilt, visited_indices
from lightning_classprune.trainer.randomness import base_seed

_CLAIM = "A candidate of its own: its verdict stands in the ledger and on the card, beside its SHA-256."
_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "torch_pruning")
#: Of an input, relative to the largest: how far from it normalising its raw form may lead.
_CLOSE = 1e-3
#: Share of the channels of each group that a folded file has.
FOLD = 0.75
_BATCH = 64


@dataclass(frozen=True)
class JudgedFiles:
    """Makes and runs the files of one run's candidates.

    Attributes:
        kinds: `"int8"`, `"fp16"`, `"folded"`.
        class_names: Of all classes, in the order of the scores.
        threshold: On raw one-logit scores.
        predict: `(pl_module, batch) -> (scores, target)`.
    """

    kinds: Sequence[str]
    class_names: Sequence[str]
    threshold: float
    predict: Predict

    def check_packages(self) -> None:
        """Refuse a run whose files could not be made.

        Raises:
            MisconfigurationException: A package is missing.
        """
        for package in _PACKAGES:
            try:
                __import__(package)
            except ModuleNotFoundError as error:
                raise MisconfigurationException(
                    f"Files.judged={list(self.kinds)} needs the package {error.name}: "
                    "pip install 'lightning-classprune[onnx,compact]', or use judged=[]"
                ) from error

    def rehearse(self, trainer: Any, module: Any) -> None:
        """See `FileMaker.rehearse`."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                paths = {kind: Path(folder) / f"{kind}.onnx" for kind in self.kinds}
                failed = self.make(trainer, module, {}, {}, paths)
        except ValueError as error:
            raise MisconfigurationException(f"Files.judged={list(self.kinds)}: {error}") from error
        for kind, why in failed.items():
            raise MisconfigurationException(
                f"Files.judged={list(self.kinds)}: no {kind} file can be made of this network: {why}"
            )

    def make(
        self,
        trainer: Any,
        module: Any,
        masks: Masks,
        offsets: Mapping[str, float],
        paths: Mapping[str, Path],
    ) -> dict[str, str]:
        """See `FileMaker.make`.

        Raises:
            ValueError: Inputs cannot be read from the training data.
        """
        seen = self._seen(trainer, module)
        raw, normalization = _normalized(trainer.datamodule, seen.inputs)
        samples = seen.inputs if raw is None else raw(seen.inputs)
        rule = self._rule(module, normalization, offsets, seen.one_logit)
        graph = cache(lambda: _compact(rule, samples[:_BATCH]))
        failed = {}
        for kind, path in paths.items():
            try:
                if kind == "folded":
                    self._write(kind, path, _folded(rule, samples), None, samples)
                else:
                    self._write(kind, path, graph(), masks, samples)
            except ValueError as error:
                failed[kind] = str(error)
        return failed

    def _rule(
        self,
        module: nn.Module,
        normalization: Normalization | None,
        offsets: Mapping[str, float],
        of_one_logit: bool,
    ) -> Deployed:
        """The network as it is deployed."""
        thresholds = {1: self.threshold} if of_one_logit and self.threshold else {}
        offset = DecisionOffset(offsets, self.class_names) if any(offsets.values()) else None
        return Deployed(cpu_copy(module).float(), normalization, thresholds, offset)

    def _write(self, kind: str, path: Path, graph: Graph, masks: Masks | None, samples: Tensor) -> None:
        told = {"class_names": json.dumps(list(self.class_names)), "claim": _CLAIM, "verdict": "null"}
        if kind == "folded":
            told |= {"fold": str(FOLD), "calibration": json.dumps(calibration_facts(samples))}
        values: Values = "fp16" if kind == "fp16" else "fp32"
        metadata = texts(graph.deployed, masks or None, "int8" if kind == "int8" else values, told)
        if kind == "int8":
            int8_file(graph, path, samples, metadata)
        else:
            write_graph(graph, path, values=values, metadata=metadata)

    def calibration(self, path: Path) -> dict[str, Any] | None:
        """See `FileMaker.calibration`."""
        told = OnnxFile(path).metadata.get("calibration")
        found: dict[str, Any] | None = None if told is None else json.loads(told)
        return found

    @contextmanager
    def running(self, trainer: Any, module: Any, content: bytes) -> Iterator[None]:
        """See `FileMaker.running`."""
        file = OnnxFile(content)
        raw: Callable[[Tensor], Tensor] | None = None
        if "normalization" in file.metadata:
            raw = trainer.datamodule.raw

        def forward(x: Tensor) -> Tensor:
            given = x.detach().cpu()
            given = given.float() if given.is_floating_point() else given
            return file(given if raw is None else raw(given))[0].to(x.device)

        with _forward(module, forward):
            yield

    def _seen(self, trainer: Any, module: Any) -> _Seen:
        """What `predict` gives the module's forward of a part of the training data, drawn by the run's seed.

        Raises:
            ValueError: That is no single tensor, or what it returns is not what is decided by.
        """
        loader = _training_loader(trainer)
        visited, _ = visited_indices(loader)
        drawn = torch.randperm(len(visited), generator=torch.Generator().manual_seed(base_seed()))[
            :CALIBRATION
        ]
        seen, own = _Seen(), module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
                raise ValueError(
                    "the module's forward takes more than one tensor, and a file has one input; let it take one"
                )
            returned = own(*args)
            seen.note(args[0], returned)
            return returned

        with as_in_validation(trainer, module, base_seed()), torch.no_grad(), _forward(module, forward):
            for batch in rebuilt(loader, [visited[i] for i in drawn]):
                try:
                    scores = predicted(trainer, module, self.predict, batch)[0]
                except Exception as error:  # of a function of the user's
                    raise ValueError(
                        f"predict fails on a batch of the training data ({type(error).__name__}): {error}"
                    ) from error
                seen.check(scores)
        if not seen.parts:
            raise ValueError("the training data are empty, so there is nothing to calibrate on")
        return seen


def _compact(rule: Deployed, example: Tensor) -> Graph:
    """The network, compact where it can be."""
    try:
        smaller = compact(rule.network, rule.normalize(example[:2]))
    except ValueError:
        pass  # it cannot be followed, and stays as large as it is
    else:
        before, after = smaller.report["parameters"]
        rule = rule.around(smaller.model) if after < before else rule
    return make_graph(rule, example)


def _folded(rule: Deployed, samples: Tensor) -> Graph:
    """The network with similar channels merged, its BatchNorm measured anew.

    Raises:
        ValueError: It cannot be followed, or nothing can be merged.
    """
    parts = torch.chunk(samples, math.ceil(len(samples) / _BATCH))
    inputs = [rule.normalize(part) for part in parts]
    smaller = compact(rule.network, inputs[0][:2], fold=FOLD, data=inputs)
    return make_graph(rule.around(smaller.model), parts[0])


@dataclass
class _Seen:
    """What went into a module's forward, and came out last."""

    parts: list[Tensor] = field(default_factory=list)
    returned: Any = None
    calls: int = 0
    one_logit: bool = False

    def note(self, x: Tensor, returned: Any) -> None:
        self.parts.append(x.detach().float().cpu() if x.is_floating_point() else x.detach().cpu())
        self.returned = returned
        self.calls += 1

    def check(self, scores: Any) -> None:
        if self.calls != 1:
            raise ValueError(
                f"predict calls the module's forward {self.calls} times a batch, and a file stands for one call of it; "
                "let predict call the module once"
            )
        given, self.calls = self.returned, 0
        same = isinstance(given, Tensor) and isinstance(scores, Tensor) and given.numel() == scores.numel()
        if not same or not torch.equal(given.flatten(), scores.flatten()):
            raise ValueError(
                f"the module's forward returns a {type(given).__name__} that is not what predict decides by, and a "
                "file decides by what forward returns; let forward return the scores"
            )
        self.one_logit = one_logit(scores)

    @property
    def inputs(self) -> Tensor:
        return torch.cat(self.parts)


@contextmanager
def _forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the module's forward is another; a compiled one too."""
    own, names = vars(module), ("forward", "_compiled_call_impl")
    before = {name: own[name] for name in names if name in own}
    own.pop("_compiled_call_impl", None)
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        own.update(before)


def _training_loader(trainer: Any) -> Any:
    """The one training loader.

    Raises:
        ValueError: There are several, or it is a stream.
    """
    combined = trainer.fit_loop._combined_loader
    found = combined.flattened if combined is not None else [trainer.fit_loop._data_source.dataloader()]
    if len(found) != 1 or is_stream(found[0]):
        raise ValueError(
            "a part of the training data is drawn by a seed, for which one DataLoader over a map-style data set is "
            "needed, not several or a stream"
        )
    return found[0]


def _normalized(
    datamodule: Any, inputs: Tensor
) -> tuple[Callable[[Tensor], Tensor] | None, Normalization | None]:
    """How a datamodule makes raw inputs of those that the module takes, and the normalisation that leads back."""
    normalization, raw = getattr(datamodule, "normalization", None), getattr(datamodule, "raw", None)
    if not callable(raw) or not isinstance(normalization, tuple) or len(normalization) != 2:
        return None, None
    x = inputs[:64]
    try:
        back = Deployed(nn.Identity(), normalization).normalize(raw(x))
    except (ValueError, TypeError, RuntimeError):
        return None, None  # of another meaning than ours
    largest = max(1.0, float(x.abs().max()))
    if back.shape != x.shape or not float((back - x).abs().max()) <= _CLOSE * largest:
        return None, None
    return raw, normalization
