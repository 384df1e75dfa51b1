"""Which samples the delivered network misses, by name, so that somebody can look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.final_test import Answers

LISTED = 500


def sample_name(samples: Mapping[str, Sequence[Sample]], split: str, number: int) -> str:
    """What a sample of a split is called; its number, from 0, where nobody said."""
    return samples[split][number][0] if split in samples else f"no. {number}"


def listed(name: str, split: str, kind: str, total: int, called: Sequence[str]) -> dict[str, Any]:
    """What the report lists of a class and a split: so many, of which these are called so, the first ones shown."""
    shown = list(called[:LISTED])
    rest = len(called) - len(shown)
    return {"name": name, "split": split, "kind": kind, "total": total, "shown": shown, "rest": rest}


def missed_samples(
    scores: Mapping[str, Mapping[str, Answers]],
    samples: Mapping[str, Sequence[Sample]],
    protected: Sequence[str],
) -> list[dict[str, Any]]:
    """Return, per protected class and split, the names of what is missed, newly missed apart.

    Args:
        scores: What both networks say.
        samples: What the samples are called.
        protected: Names of the protected classes.
    """
    result = []
    for name in protected:
        for split, networks in scores.items():
            if "delivered" not in networks:
                continue
            decisions = networks["delivered"].decisions
            index = decisions.names.index(name)
            positive, found = decisions.found(index)
            before = networks["dense"].decisions.found(index)[1] if "dense" in networks else found
            kinds = {
                "newly missed": positive & ~found & before,
                "missed by both": positive & ~found & ~before,
            }
            for kind, which in kinds.items():
                numbers = which.nonzero().flatten().tolist()
                if numbers:
                    called = [sample_name(samples, split, number) for number in numbers]
                    result.append(listed(name, split, kind, len(numbers), called))
    return result
