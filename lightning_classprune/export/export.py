"""Export: what leaves - files that strangers can deploy, each verified before it is kept, and the card that says so."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_classprune import files
from lightning_classprune.export import card
from lightning_classprune.export.advice import advice
from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec, Values
from lightning_classprune.export.checks import Reader, compared, in_memory, latency, tested
from lightning_classprune.export.compact import compact
from lightning_classprune.export.deployed import Deployed, Normalization
from lightning_classprune.export.environment import environment, installed_version
from lightning_classprune.export.folded_format import FoldedFormat
from lightning_classprune.export.formats import FORMATS, Format, Purpose
from lightning_classprune.export.guard_split import GuardSplit
from lightning_classprune.export.int8_format import Int8Format
from lightning_classprune.export.judged_format import JudgedFormat
from lightning_classprune.export.latency import conditions
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.onnx_format import graph_file
from lightning_classprune.export.quantization import CalibrationData, calibration_samples
from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row
from lightning_classprune.ledger.text import achievement
from lightning_classprune.pruning.masks import Masks, count_kept, layer_counts, sparsity


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
    offsets: Mapping[str, float] | None = None,
    values: Values = "fp32",
    purpose: Purpose = "all",
    plain: bool = True,
    int8: CalibrationData | None = None,
    fold: float | None = None,
    guard: GuardSplit | None = None,
    judged_in: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a pruned network as files to deploy, and return its card.

    | purpose | file | what |
    |---|---|---|
    | all, size | `ticket.safetensors` | masks, weights and card, packed; `load_ticket` puts it into the model |
    | all, size | `model.onnx` | rebuilds its weights when it is loaded; runs in stock runtimes |
    | all | `plain.onnx` | the same with dense weights, for quantisers and for clients that cannot rebuild them |
    | all, size | `compact.onnx`, `compact.safetensors` | the network without what the masks made useless, if anything |
    | latency | `fast.onnx` | the compact network in the widths that the runtime is fastest with here |
    | mcu | `model.c`, `model.h` | freestanding C99 for a microcontroller, in eight bits with `int8` |
    | not mcu | `int8.onnx`, `fp16.onnx` | eight or sixteen bits: what the guard judged, or `int8` asks for |
    | not mcu | `folded.onnx` | similar channels merged, if `fold` asks for it |
    | each | `card.md`, `card.json` | which file to take, what it costs and misses, and what is promised |

    `decision` in a file is one class. A multi-label network has none: hold each of its `scores` against the threshold.

    Every file is read again and compared with the module on `example` first. All are written or none is.

    The verdict is of the network as it was judged, in fp32. A file that the guard judged itself (`Files(judged=...)`)
    has its own verdict in its name, such as `int8-accepted.onnx`. Any other that may decide otherwise, of eight or
    sixteen bits or seen to differ on the guard data, is called `...-unproven-not-declared` and has its counts.

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
        offsets: Bias to add to a class' score that the network does not contain, by name, such as the callback's
            `offsets`: the ONNX and C files contain it, the others' cards say it.
        values: Type of the stored weights; `"fp16"` halves the files and may change decisions, which the card counts.
        purpose: `"all"`; `"latency"`: only the fastest; `"size"`: only the smallest file for each way of loading;
            `"mcu"`: only C, of a sequential network, checked by this machine's C compiler.
        plain: False leaves out `plain.onnx`.
        int8: Training data, inputs like `example`: writes a file of eight bits, calibrated on the first 512 of them,
            unless the guard judged one of this network; C in eight bits with `purpose="mcu"`.
        fold: Channels to leave in each group of coupled ones, a number or a share below 1: writes `folded.onnx`, in
            which similar ones are merged without data (`compact`). It decides otherwise, so its counts are its own.
        guard: The split that judged the run, for the counts of files with a verdict of their own.
        judged_in: The folder where the run keeps the files that its guard judged: that of its ladder, or of its
            checkpoints.
        about: Further facts for the card: data, seed, command; anything that JSON can hold.

    Raises:
        ModuleNotFoundError: The packages of the extras `onnx` and `compact` are missing.
        ValueError: An argument does not fit the model, a format cannot express it, or a file does not give what the
            module gives.
    """
    if purpose not in FORMATS:
        raise ValueError(f"purpose={purpose!r} must be one of {', '.join(map(repr, FORMATS))}")
    folder, thresholds = Path(folder), dict(thresholds or {})
    left = {name: float(bias) for name, bias in (offsets or {}).items() if bias}
    rule = Deployed(model, normalization, thresholds, DecisionOffset(left, class_names) if left else None)
    claim, told = achievement(ledger), _told(class_names, thresholds, left, ledger, about)
    spec = Spec(
        masks=masks,
        example=example,
        values=values,
        told=told,
        claim=claim,
        int8=None if int8 is None else calibration_samples(int8, example),
        folded=None
        if fold is None
        else lambda: compact(model, rule.normalize(example[:2]), masks, fold=fold),
        compacted=cache(lambda n: compact(model, rule.normalize(example[:2]), masks, multiple=n)),
        graph=cache(lambda: make_graph(rule, example)),
    )
    formats = [form for form in FORMATS[purpose] if plain or form.name != "plain"]
    if purpose == "mcu" and fold is not None:
        raise ValueError(
            "fold writes an ONNX file, which a microcontroller does not run; leave out purpose='mcu'"
        )
    if purpose != "mcu":
        judged = JudgedFormat(judged_in, told["verdict"], thresholds)
        formats += [judged, *([Int8Format()] if int8 is not None and "int8" not in judged.there else [])]
        formats += [FoldedFormat()] if fold is not None and "folded" not in judged.there else []
    stale = _with_own_verdicts(folder / "card.json")
    with files.filling(folder, last=("card.json", "card.md")) as part:
        entries, served = _write(formats, rule, part, spec, guard)
        dense = graph_file(spec.graph(), part / "dense.onnx", spec, masks, packed=False)
        smaller = spec.compacted(1)
        facts: dict[str, Any] = {
            "format": 1,
            "purpose": purpose,
            **_sizes(model, masks),
            "claim": claim,
            **told,
            "values": values,
            "environment": environment(),
            "artefacts": entries,
            "compact": {**smaller.report, "kept": smaller.kept},
            "dense_bytes": {"onnx": dense.path.stat().st_size, "state_dict": _bytes(model)},
            "measured": conditions() | {"runtime": f"{dense.runtime} {installed_version('onnxruntime')}"},
            "latency": latency({"dense": dense.reader, **_without(served, "plain.onnx")}, example),
            "test": {} if test is None else tested({"module": in_memory(rule), **served}, test, class_names),
        }
        facts["advice"] = advice(facts)
        dense.path.unlink()
        for name in stale - entries.keys():
            (folder / name).unlink(missing_ok=True)
        files.write_text(part / "card.json", json.dumps(facts, indent=2, allow_nan=False) + "\n")
        files.write_text(part / "card.md", card.markdown(facts))
    return facts | {"folder": str(folder)}


def _with_own_verdicts(card_file: Path) -> set[str]:
    """The files of an earlier export whose names say a verdict, which is not to stand beside another card."""
    if not card_file.is_file():
        return set()
    try:
        entries = files.read_json(card_file)["artefacts"]
        return {name for name, one in entries.items() if "verdict" in one and Path(name).name == name}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()  # it is nobody's card


def _told(
    class_names: Sequence[str],
    thresholds: Mapping[int, float],
    offsets: Mapping[str, float],
    ledger: Sequence[Row],
    about: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What every file and the card say of the network."""
    return {
        "class_names": list(class_names),
        "thresholds": {class_names[c]: float(t) for c, t in thresholds.items()},
        "offsets": dict(offsets),
        "verdict": delivered_row(ledger),
        "ledger": [dict(row) for row in ledger],
        "about": dict(about or {}),
    }


def _sizes(model: nn.Module, masks: Masks) -> dict[str, Any]:
    """What was removed."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prunable": sum(mask.numel() for mask in masks.values()),
        "kept": count_kept(masks),
        "sparsity": sparsity(masks),
        "layers": layer_counts(masks),
    }


def _without(readers: Mapping[str, Reader], name: str) -> dict[str, Reader]:
    return {other: reader for other, reader in readers.items() if other != name}


def _write(
    formats: Sequence[Format], rule: Deployed, folder: Path, spec: Spec, guard: GuardSplit | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Reader]]:
    """Write every format, and compare each file with the module.

    Returns:
        By the files' names: their entries in the card, and those that decide through the runtime that will serve them.
    """
    module = in_memory(rule)
    truth = module(spec.example)
    judged = None if guard is None else guard.decided(module)
    entries, served = {}, {}
    for form in formats:
        written = _artefacts(form, rule, folder, spec)
        decided = [None if guard is None else guard.decided(one.reader) for one in written]
        if _differs(judged, written, decided):
            written = _artefacts(form, rule, folder, spec.undeclared())
            written = [replace(one, verdict=one.verdict or NOT_DECLARED) for one in written]
        for artefact, found in zip(written, decided, strict=True):
            entry = _entry(artefact, truth, spec.example)
            if artefact.verdict is not None:
                entry |= _own_verdict(artefact, _counts(guard, found, spec))
            entries[entry["file"]] = entry
            if artefact.runtime is not None:
                served[entry["file"]] = artefact.reader
    return entries, served


def _differs(
    judged: Decisions | None, written: Sequence[Artefact], decided: Sequence[Decisions | None]
) -> bool:
    """Whether a file that would have the network's verdict decides a guard case otherwise, by rounding."""
    return judged is not None and any(
        one.verdict is None and found is not None and not judged.same_decisions(found)
        for one, found in zip(written, decided, strict=True)
    )


def _counts(guard: GuardSplit | None, found: Decisions | None, spec: Spec) -> dict[str, Any] | None:
    """Of the protected classes, or of all where no ledger tells; None without guard data."""
    if guard is None or found is None:
        return None
    dense = dense_row(spec.told["ledger"])
    return guard.counts(found, list(dense["classes"] if dense else spec.told["class_names"]))


def _own_verdict(artefact: Artefact, counts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the card says of a file that has a verdict of its own, which from now on is in its name."""
    assert artefact.verdict is not None
    words = re.sub(r"\W+", "-", artefact.verdict).strip("-")
    path = artefact.path
    if not artefact.keeps_name:
        path = artefact.path.with_name(f"{artefact.path.stem}-{words}{artefact.path.suffix}")
        artefact.path.rename(path)
    told = {"declared": False, "reason": "", "counts": counts}
    return {"file": path.name, "verdict": artefact.verdict} | told | dict(artefact.facts)


def _artefacts(form: Format, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
    try:
        return list(form.write(rule, folder, spec))
    except ModuleNotFoundError as error:
        if form.extra is None:
            raise
        raise ModuleNotFoundError(
            f"the format {form.name!r} needs the package {error.name}: "
            f"pip install 'lightning-classprune[{form.extra}]'",
            name=error.name,
        ) from error


def _entry(artefact: Artefact, truth: tuple[Tensor, Tensor], example: Tensor) -> dict[str, Any]:
    """What the card says of a file that gives what the module gives.

    Raises:
        ValueError: It does not.
    """
    found = compared(artefact.reader, lambda _: truth, example)
    allowed = artefact.tolerance * max(1.0, float(truth[0].abs().max()))
    if not found["max_difference"] <= allowed:
        raise ValueError(
            f"{artefact.path.name}: scores differ from the module's by {found['max_difference']:.3g}, more than "
            f"{allowed:.3g}; nothing was written"
        )
    content = artefact.path.read_bytes()
    return {
        "file": artefact.path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **found,
        **({"runtime": artefact.runtime} if artefact.runtime is not None else {}),
        **artefact.facts,
    }


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
