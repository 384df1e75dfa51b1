"""What exported files do: compared with the module, counted on test data, and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.latency import interleaved
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.trainer.eval_mode import in_eval_mode

#: Raw inputs `(N, ...)` -> scores and decided classes `(N,)`, on the CPU.
Reader: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

BATCHES = (1, 32)
#: How far a score may be from the module's, by type of the stored values; of the largest score, or of 1 where all are
#: smaller.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}


def in_memory(rule: Deployed) -> Reader:
    """Return a network that decides as a reader; it runs in eval mode, and its flags are as they were afterwards."""

    @torch.no_grad()
    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        device = next((p.device for p in rule.parameters()), x.device)
        with in_eval_mode(rule):
            scores, decision = rule(x.to(device))
        return scores.cpu(), decision.cpu()

    return read


@torch.no_grad()
def compared(reader: Reader, truth: Reader, example: Tensor) -> dict[str, float | int]:
    """Return the largest difference of a score, and how many samples are decided otherwise."""
    (scores, decision), (expected, decided) = reader(example), truth(example)
    return {
        "max_difference": float((scores - expected).abs().max()),
        "changed_decisions": int((decision != decided).sum()),
    }


def latency(readers: Mapping[str, Reader], example: Tensor) -> dict[str, dict[str, float]]:
    """Return milliseconds of CPU time by batch size and reader; the example is repeated to fill a batch."""
    batches = {size: example[torch.arange(size) % len(example)] for size in BATCHES}
    return {
        # Short calls need many turns: for a tenth of a second even a core of one's own may be slow.
        str(size): interleaved(
            {name: partial(read, batch) for name, read in readers.items()}, rounds=1000, seconds=3
        )
        for size, batch in batches.items()
    }


def tested(
    readers: Mapping[str, Reader], test: Iterable[tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return support, misses, false alarms and recall by reader and class; recall is None without samples.

    Raises:
        ValueError: Targets are no class a sample.
    """
    decided: dict[str, list[Tensor]] = {name: [] for name in readers}
    targets = []
    for x, y in test:
        if y.ndim != 1:
            raise ValueError(
                f"test: targets of shape {tuple(y.shape)}; one class a sample, (n,), is needed: files decide for one, "
                "so of several labels leave test out and hold their scores against the threshold"
            )
        targets.append(y.cpu())
        for name, read in readers.items():
            decided[name].append(read(x)[1])
    target = torch.cat(targets)
    return {
        name: _by_class(Decisions(target, torch.cat(parts), len(class_names)), class_names)
        for name, parts in decided.items()
    }


def _by_class(outcomes: Decisions, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"support": support, "fn": fn, "fp": fp, "recall": tp / support if support else None}
        for name, (tp, fp, _, fn, support) in zip(class_names, outcomes.counts().tolist(), strict=True)
    }
