"""Export: what leaves - files that strangers can deploy, each verified before it is kept, and the card that says so."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from lightning_classprune import files
from lightning_classprune.export import card
from lightning_classprune.export.checks import Reader, compared, in_memory, latency, tested
from lightning_classprune.export.compact import compact
from lightning_classprune.export.compact_files import load_compact, save_compact
from lightning_classprune.export.deployed import Deployed, Normalization
from lightning_classprune.export.environment import environment
from lightning_classprune.export.onnx_export import export_onnx
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.ledger.rows import Row, delivered_row
from lightning_classprune.ledger.text import achievement
from lightning_classprune.pruning.masks import Masks, count_kept, layer_counts, sparsity
from lightning_classprune.tickets.loading import load_ticket
from lightning_classprune.tickets.ticket_file import save_ticket

Values = Literal["fp32", "fp16"]


def export(
    model: nn.Module,
    folder: str | os.PathLike[str],
    example: Tensor,
    *,
    masks: Masks,
    class_names: Sequence[str],
    ledger: Sequence[Row] = (),
    test: Iterable[tuple[Tensor, Tensor]] | None = None,
    normalization: Normalization | None = None,
    thresholds: Mapping[int, float] | None = None,
    values: Values = "fp32",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a pruned network as files to deploy, and return its card.

    | file | what |
    |---|---|
    | `ticket.safetensors` | masks, weights and card, packed; `load_ticket` puts it into the model |
    | `model.onnx` | rebuilds its weights when it is loaded; runs in stock runtimes |
    | `compact.onnx`, `compact.safetensors` | the network without what the masks made useless, where that is anything |
    | `card.md`, `card.json` | what was removed, what it costs, what it misses, and what is promised |

    Every file is read again and compared with the module on `example` first. All are written or none is.

    Args:
        model: The network with its pruned weights at zero; unchanged afterwards.
        folder: Where the files go; made if need be.
        example: Real inputs `(n, ...)`, n >= 1, of the kind that the files will get: raw ones with `normalization`.
        masks: Parameter name -> bool tensor, True = kept.
        class_names: One a class, in the order of the scores.
        ledger: The rows of the run, for what the card claims.
        test: Batches (inputs like `example`, targets `(n,)`) that chose nothing: missed and false alarms through each
            file.
        normalization: `(mean, std)` to put into the ONNX files; uint8 input is first divided by 255.
        thresholds: At most one protected class -> the threshold of its margin, to put into the ONNX files.
        values: Type of the stored weights; `"fp16"` halves the files and may change decisions, which the card counts.
        about: Further facts for the card: data, seed, command; anything that JSON can hold.

    Raises:
        ModuleNotFoundError: The packages of the extras `onnx` and `compact` are missing.
        ValueError: An argument does not fit the model, or a file does not give what the module gives.
    """
    folder, thresholds = Path(folder), dict(thresholds or {})
    facts: dict[str, Any] = {
        "format": 1,
        "class_names": list(class_names),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prunable": sum(mask.numel() for mask in masks.values()),
        "kept": count_kept(masks),
        "sparsity": sparsity(masks),
        "layers": layer_counts(masks),
        "claim": achievement(ledger),
        "verdict": delivered_row(ledger),
        "ledger": [dict(row) for row in ledger],
        "thresholds": {class_names[c]: float(t) for c, t in thresholds.items()},
        "values": values,
        "about": dict(about or {}),
        "environment": environment(),
    }
    rule = Deployed(model, normalization, thresholds)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as name:
        part = Path(name)
        writer = _Writer(part, rule, masks, example, normalization, values, facts)
        written = [writer.ticket(), writer.onnx("model.onnx", model), *writer.compact()]
        dense = part / "dense.onnx"
        export_onnx(model, dense, example, normalization=normalization, thresholds=thresholds, packed=False)
        graphs = {entry["file"]: OnnxFile(part / entry["file"]) for entry in written if "opset" in entry}
        facts |= {
            "artefacts": {entry["file"]: entry for entry in written},
            "dense_bytes": {"onnx": dense.stat().st_size, "state_dict": _bytes(model)},
            "latency": latency({"dense": OnnxFile(dense), **graphs}, example),
            "test": {} if test is None else tested({"module": in_memory(rule), **graphs}, test, class_names),
        }
        dense.unlink()
        files.write_text(part / "card.json", json.dumps(facts, indent=2, allow_nan=False) + "\n")
        files.write_text(part / "card.md", card.markdown(facts))
        for path in sorted(part.iterdir()):
            path.replace(folder / path.name)
    return facts | {"folder": str(folder)}


@dataclass(frozen=True)
class _Writer:
    """Writes each artefact to `part`, reads it again, and returns its entry in the card."""

    part: Path
    rule: Deployed
    masks: Masks
    example: Tensor
    normalization: Normalization | None
    values: Values
    facts: dict[str, Any]

    def ticket(self) -> dict[str, Any]:
        """The packed ticket, read back into a copy of the network."""
        path = self.part / "ticket.safetensors"
        network = self.rule.network
        save_ticket(path, network.state_dict(), self.masks, card=self._known(), values=self.values)
        twin = copy.deepcopy(self.rule)
        content = load_ticket(path, twin.network).sha256
        entry = self._entry(path, in_memory(twin))
        if self.values == "fp32" and entry["max_difference"]:
            raise ValueError(f"{path.name}: scores differ from the module's by {entry['max_difference']:.3g}")
        return {**entry, "content_sha256": content}

    def onnx(self, name: str, network: nn.Module) -> dict[str, Any]:
        """A network as self-decoding ONNX."""
        path = self.part / name
        report = export_onnx(
            network,
            path,
            self.example,
            masks=self.masks if network is self.rule.network else None,
            values=self.values,
            normalization=self.normalization,
            thresholds=self.rule.thresholds,
            metadata={
                "class_names": json.dumps(self.facts["class_names"]),
                "claim": self.facts["claim"],
                "verdict": json.dumps(self.facts["verdict"]),
            },
        )
        return {**self._entry(path, OnnxFile(path)), "opset": report.opset}

    def compact(self) -> list[dict[str, Any]]:
        """The compact network for PyTorch and as ONNX; nothing where nothing could be removed."""
        network = self.rule.network
        smaller = compact(network, self.rule.normalize(self.example[:2]), self.masks)
        self.facts["compact"] = {**smaller.report, "kept": smaller.kept}
        before, after = smaller.report["parameters"]
        if before == after:
            return []
        path = self.part / "compact.safetensors"
        save_compact(path, smaller, self._known())
        twin, _ = load_compact(path, copy.deepcopy(network))
        rule = Deployed(twin, self.normalization, self.rule.thresholds)
        return [self._entry(path, in_memory(rule)), self.onnx("compact.onnx", smaller.model)]

    def _known(self) -> dict[str, Any]:
        return {key: self.facts[key] for key in ("class_names", "thresholds", "verdict", "ledger", "about")}

    def _entry(self, path: Path, reader: Reader) -> dict[str, Any]:
        content = path.read_bytes()
        return {
            "file": path.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **compared(reader, in_memory(self.rule), self.example),
        }


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
