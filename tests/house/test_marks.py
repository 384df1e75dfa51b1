"""The marks of cost: what a module's tests have by its name, and that several are refused."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest

from tests.conftest import COSTS, MARKS, cost, pytest_collection_modifyitems
from tests.support import ROOT


@pytest.mark.parametrize(
    ("module", "mark"),
    [
        ("guard/test_statistics.py", "unit"),
        ("test_losses.py", "unit"),
        ("integration/test_fit.py", "fit"),
        ("integration/test_killed.py", "processes"),
        ("job/test_app.py", "job"),
        ("job/data/test_base.py", "unit"),
    ],
)
def test_the_longest_name_counts(module: str, mark: str) -> None:
    assert cost(ROOT / "tests" / module) == mark
    assert set(COSTS.values()) <= set(MARKS)


def test_a_test_has_one_mark_of_its_cost(request: pytest.FixtureRequest) -> None:
    node = request.node
    assert [mark.name for mark in node.iter_markers() if mark.name in MARKS] == ["unit"]
    node.add_marker("fit")
    with pytest.raises(pytest.UsageError, match="several marks of its cost: fit, unit"):
        pytest_collection_modifyitems([node])


def test_a_unit_test_that_trains_fails() -> None:
    with pytest.raises(AssertionError, match="marked `unit`, but calls"):
        pl.Trainer.fit(None, None)  # type: ignore[arg-type]


def test_every_name_in_the_table_is_a_place() -> None:
    places = [ROOT / "tests" / name for name in COSTS]
    assert [place for place in places if not place.is_dir() and not place.with_suffix(".py").exists()] == []
