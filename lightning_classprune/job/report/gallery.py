"""The guard samples whose decision changed, with their pictures, as the report's page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.report.missed import sample_name
from lightning_classprune.job.report.pictures import EDGE, Pixels, changed, data_uri, shown_each


def changed_samples(
    guard: Mapping[str, Decisions],
    class_names: Sequence[str],
    protected: Sequence[int],
    pictures: Mapping[int, Pixels],
    samples: Mapping[str, Sequence[Sample]],
) -> list[dict[str, Any]]:
    """Return, per protected class, the samples newly missed and newly found; nothing where no decision changed.

    Args:
        guard: Decisions of the `dense` and the `delivered` network; or nothing.
        class_names: Of all classes or labels.
        protected: Indices of the protected ones.
        pictures: Guard index -> thumbnail.
        samples: Split -> what its samples are called.
    """
    if not guard:
        return []
    result = []
    for index in protected:
        for kind, numbers in zip(
            ("newly missed", "newly found"), changed(guard["dense"], guard["delivered"], index), strict=True
        ):
            seen = [s for s in numbers if s in pictures][: shown_each(len(protected))]
            # Of a sample that is newly missed, what the delivered network says now; else what the dense one said.
            wrong = guard["delivered" if kind == "newly missed" else "dense"]
            result.append(
                {
                    "name": class_names[index],
                    "kind": kind,
                    "total": len(numbers),
                    "pictures": [
                        _picture(
                            pictures[s],
                            sample_name(samples, "guard", s),
                            class_names[index],
                            _other(wrong, class_names, index, s),
                            kind,
                        )
                        for s in seen
                    ],
                    "rest": [sample_name(samples, "guard", s) for s in numbers if s not in seen],
                }
            )
    return result if any(group["total"] for group in result) else []


def _other(decisions: Decisions, class_names: Sequence[str], index: int, sample: int) -> str:
    """What a network takes a sample of class `index` for."""
    labels = decisions.target.ndim > 1
    return f"not {class_names[index]}" if labels else class_names[int(decisions.predicted[sample])]


def _picture(picture: Pixels, sample: str, name: str, wrong: str, kind: str) -> dict[str, Any]:
    dense, delivered, now = (name, wrong, "now") if kind == "newly missed" else (wrong, name, "was")
    height, width = picture.shape[:2]
    return {
        "uri": data_uri(picture),
        "alt": f"Guard sample {sample}, {name}: the dense network says {dense}, the delivered network {delivered}",
        "caption": f"{sample}: {now} {wrong}",
        "small": max(height, width) < EDGE,
        "width": width,
        "height": height,
    }
