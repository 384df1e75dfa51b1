"""What is pruned, as users say it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lightning_classprune.pruning.criteria import CRITERIA
from lightning_classprune.pruning.granularities import GRANULARITIES
from lightning_classprune.pruning.options import Cut


def test_defaults_are_global_magnitude_of_single_weights() -> None:
    assert Cut() == Cut(criterion="magnitude", scope="global", granularity="weight", prunable=None)


@pytest.mark.parametrize("criterion", [*CRITERIA, lambda weight, rewind_point: weight])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_all_that_there_is_goes_together(criterion: Any, scope: Any, granularity: str) -> None:
    cut = Cut(criterion=criterion, scope=scope, granularity=granularity)
    assert (cut.criterion, cut.scope, cut.granularity) == (criterion, scope, granularity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "magnitud"}, r"Cut\.criterion='magnitud' is unknown; allowed are 'magnitude'"),
        ({"criterion": None}, r"Cut\.criterion=None is unknown"),
        ({"scope": "local"}, r"Cut\.scope='local' is unknown: 'global' or 'layer'"),
        ({"scope": None}, r"Cut\.scope=None is unknown"),
        ({"granularity": "filter"}, r"Cut\.granularity='filter' is unknown: 'weight' or 'channel' or '2:4'"),
        ({"granularity": 2}, r"Cut\.granularity=2 is unknown"),
        ({"granularity": []}, r"Cut\.granularity=\[\] is unknown"),
    ],
)
def test_what_there_is_not_is_named_with_the_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cut(**options)


def test_options_are_given_by_name_and_stay_as_they_are() -> None:
    with pytest.raises(TypeError):
        Cut("random")  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cut().scope = "layer"  # type: ignore[misc]
