"""Units: the independent things that were sampled - patients, parts, drives - of which each may hold several cases.

Objects of one image, or photographs of one part, are missed together; the exact test on them as if they were
independent accepts a rise of exactly the tolerance three to five times too often. So the evidence is of units:

* `"one"`: one case a unit, drawn uniformly with a fixed seed, by the labels alone and once for all networks. Given the
  draw these cases belong to different units, so they are independent, and each is newly missed with a probability that
  averages over its unit's cases. They are as many Bernoulli pairs as the exact test asks for, so its level holds by
  construction, whatever happens inside the units, for the rise averaged over units.
* `"any"`: a unit is missed if any of its cases is. Units are independent, so the same test has the same level, for the
  rise of the rate of such units.
* `"betting"`: the mean rise of each unit, in [-1, 1], is tested by `betting`, whose level follows from Markov's
  inequality for the same estimand as `"one"`; it wins where there are very many units.

A false alarm of objects is a prediction that matches nothing. A unit with more of them than under the dense network is
new, one with fewer is gone: a pair of indicators a unit, tested as above.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.evidence import Evidence, Inside, paired

Cluster: TypeAlias = Literal["one", "any", "betting"]
CLUSTERS = ("one", "any", "betting")

#: Of the draw of one case a unit; fixed, so that nobody draws until the guard is kind.
SEED = 20107
#: What a column of ids says of their kind.
NONE, NUMBER, TEXT = 0, 1, 2
_KINDS = {NONE: "no ids", NUMBER: "numbers", TEXT: "strings"}

_HOW = {
    "one": "one drawn of each",
    "any": "a unit is missed if any of its is",
    "betting": "counts of one drawn of each, tested by the units' means",
}


def read_ids(case: Any, samples: int) -> Tensor:
    """The ids of a batch as numbers: `(n, 2)` int64, the id and its kind; of a string a hash.

    Args:
        case: `(n,)` whole numbers or strings; None where every sample is a unit of its own.
        samples: n.

    Raises:
        ValueError: They are something else; names `predict`.
    """
    if case is None:
        return torch.zeros(samples, 2, dtype=torch.int64)
    listed: Sequence[Any]
    if isinstance(case, Tensor):
        listed = case.detach().cpu().reshape(-1).tolist() if case.ndim == 1 or case.numel() == 1 else [case]
    elif isinstance(case, np.ndarray):
        listed = case.tolist() if case.ndim == 1 else [case]
    else:
        listed = list(case) if isinstance(case, Sequence) and not isinstance(case, str | bytes) else [case]
        listed = [
            one.item() if isinstance(one, Tensor | np.generic) and one.ndim == 0 else one for one in listed
        ]
    if len(listed) != samples:
        several = isinstance(case, Tensor | np.ndarray) and case.ndim > 1
        got = f"shape {tuple(case.shape)}" if several else str(len(listed))
        raise ValueError(
            "predict must return one case id a sample as its third, the id of the patient, part or drive that it "
            f"belongs to; got {got} for {samples} samples"
        )
    kinds = {_kind(one) for one in listed}
    if len(kinds) > 1:
        raise ValueError("predict returned case ids of more than one type in a batch; use numbers or strings")
    ids = [_number(one) if isinstance(one, str) else int(one) for one in listed]
    numbers = torch.tensor(ids, dtype=torch.int64)
    return torch.stack([numbers, torch.full_like(numbers, kinds.pop() if kinds else NONE)], dim=1)


def _kind(one: Any) -> int:
    if isinstance(one, str) and one:
        return TEXT
    if isinstance(one, int) and not isinstance(one, bool) and -(2**63) <= one < 2**63:
        return NUMBER
    raise ValueError(
        f"predict returned the case id {one!r}; a whole number or a string is needed of every sample, the id of the "
        "patient, part or drive that it belongs to"
    )


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def wrong_ids(kinds: Tensor) -> str | None:
    """Why ids cannot be told apart, if they cannot: batches have ids of several types, or some have none.

    Args:
        kinds: As in the second column of `read_ids`.
    """
    there = sorted(set(kinds.tolist()))
    if len(there) < 2:
        return None
    told = " and ".join(_KINDS[int(one)] for one in there)
    return f"predict returned {told} for case ids; one type is needed, and the id of every sample"


def draw(rows: int) -> Tensor:
    """The order in which rows are drawn: `(rows,)` int64, a fixed permutation; of a unit the smallest is taken."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(SEED))


def drawn(unit: Tensor, cases: Tensor, order: Tensor) -> Tensor:
    """One case of each unit that has one: `(n,)` booleans.

    Args:
        unit: `(n,)` ids.
        cases: `(n,)` booleans: which rows count.
        order: As `draw` gives it.
    """
    rows = cases.nonzero().squeeze(1).numpy()
    rows = rows[np.lexsort((order[cases].numpy(), unit[cases].numpy()))]
    ids = unit.numpy()[rows]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    taken = torch.zeros(len(unit), dtype=torch.bool)
    taken[torch.from_numpy(rows[first])] = True
    return taken


def unit_evidence(
    cluster: Cluster,
    unit: Tensor,
    cases: Tensor,
    before: Tensor,
    now: Tensor,
    order: Tensor,
    noun: str,
    rule: str | None = None,
) -> Evidence:
    """Evidence of units from what was decided of their cases.

    Args:
        cluster: How a unit's cases become its evidence.
        unit: `(n,)` ids.
        cases: `(n,)` booleans: which rows count.
        before: `(n,)` booleans: which the dense network decided well.
        now: The same of the candidate.
        order: As `draw` gives it.
        noun: What cases are called.
        rule: See `Inside`.
    """
    whole = paired(cases, before, now)
    inside = Inside(
        whole.support,
        whole.baseline_missed,
        whole.newly_missed,
        whole.newly_found,
        noun,
        _HOW[cluster],
        rule,
    )
    if cluster == "any":
        ids, place = torch.unique(unit[cases], return_inverse=True)
        well = [_sums(place, ~right[cases], len(ids)) == 0 for right in (before, now)]
        return replace(paired(torch.ones(len(ids), dtype=torch.bool), *well), inside=inside)
    one = replace(paired(drawn(unit, cases, order), before, now), inside=inside)
    if cluster == "one":
        return one
    ids, place = torch.unique(unit[cases], return_inverse=True)
    rise = _sums(place, before[cases], len(ids)) - _sums(place, now[cases], len(ids))
    size = _sums(place, torch.ones(len(place)), len(ids))
    return replace(one, rises=tuple((rise.double() / size).tolist()))


def alarm_evidence(unit: Tensor, before: Tensor, now: Tensor, noun: str, rule: str | None) -> Evidence:
    """Evidence of units from their numbers of predictions that match nothing.

    Args:
        unit: `(n,)` ids, of images.
        before: `(n,)` numbers under the dense network.
        now: The same of the candidate.
        noun: What predictions are called.
        rule: See `Inside`.
    """
    ids, place = torch.unique(unit, return_inverse=True)
    then, later = _sums(place, before, len(ids)), _sums(place, now, len(ids))
    more = later - then
    inside = Inside(
        0,
        int(then.sum()),
        int(more.clamp(min=0).sum()),
        int((-more).clamp(min=0).sum()),
        noun,
        "more of them than before in a unit are new, fewer gone",
        rule,
    )
    return Evidence(
        support=len(ids),
        baseline_missed=int((then > 0).sum()),
        newly_missed=int((more > 0).sum()),
        newly_found=int((more < 0).sum()),
        wrong=int((later > 0).sum()),
        inside=inside,
    )


def _sums(place: Tensor, values: Tensor, groups: int) -> Tensor:
    counted: NDArray[Any] = np.bincount(
        place.numpy(), weights=values.to(torch.float64).numpy(), minlength=groups
    )
    return torch.from_numpy(counted).round().to(torch.int64)
