"""Which part does it: eight arms, each decided with an offset and without, as a 2 x 2 x 2 x 2 of four factors.

The effect of a factor is the mean of the eight cells that have it minus that of the eight that do not, within a seed.
An offset moves the threshold alone, so measures of scores, such as AUC, are of a 2 x 2 x 2.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.paper.measures import Difference, Floats, paired_difference
from benchmarks.paper.tables import Bootstrap, Row

#: What an arm has: a mask that shrinks inside the round, gradients of the protected class' loss, class weights.
ARMS = {
    "rounds_gradient": (0, 0, 0),
    "rounds_gradient_weighted": (0, 0, 1),
    "rounds_class": (0, 1, 0),
    "rounds_class_weighted": (0, 1, 1),
    "gradual": (1, 0, 0),
    "gradual_weighted": (1, 0, 1),
    "gradual_class": (1, 1, 0),
    "gradual_class_weighted": (1, 1, 1),
}
FACTORS = ("gradual, not between rounds", "the class' gradients", "class weights", "offset")
#: Without offset and with it, or of scores alone.
MEASURES = {
    "fn": ("fn", "fn_offset"),
    "fp": ("fp", "fp_offset"),
    "fn_at_fpr_1": ("fn_at_fpr_1",),
    "auc_roc": ("auc_roc",),
}

Cells = Mapping[tuple[int, ...], tuple[Floats, Floats]]


def effect(cells: Cells, factor: int) -> tuple[float, float, Difference]:
    """Return the means of the cells without and with a factor, and their difference by a two-level bootstrap.

    Args:
        cells: Levels, 0 or 1 for each factor -> the measure `(seeds,)` and on resamples of the images `(seeds, B)`.
        factor: Its place among the levels.
    """
    off, on = (
        tuple(
            np.mean([cell[k] for levels, cell in cells.items() if levels[factor] == level], axis=0)
            for k in (0, 1)
        )
        for level in (0, 1)
    )
    difference = paired_difference(on[0], off[0], on[1], off[1], np.random.default_rng(1))
    return float(off[0].mean()), float(on[0].mean()), difference


def factor_rows(boot: Bootstrap, data: str, density: float) -> list[Row]:
    """Return a row a measure and factor, over the seeds that all eight arms have; none if an arm is missing."""
    seeds = sorted(
        set.intersection(*({s for a, d, s in boot.point if (a, d) == (arm, density)} for arm in ARMS))
    )
    rows = []
    for measure, kinds in MEASURES.items() if seeds else ():
        cells = {
            (*levels, offset): (
                np.array([boot.point[arm, density, s][kind] for s in seeds]),
                np.stack([boot.boot[arm, density, s][kind] for s in seeds]),
            )
            for arm, levels in ARMS.items()
            for offset, kind in enumerate(kinds)
        }
        for place, name in enumerate(FACTORS if len(kinds) == 2 else FACTORS[:-1]):
            off, on, found = effect(cells, place)
            rows.append(
                {"data": data, "measure": measure, "factor": name, "density": density, "seeds": len(seeds)}
                | {"without": off, "with": on}
                | vars(found)
            )
    return rows
