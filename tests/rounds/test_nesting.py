"""Which candidates are trained together, and what the rows of kept candidates say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_classprune.rounds.nesting import said_of_kept, why_apart
from lightning_classprune.rounds.search import Look


@pytest.mark.parametrize(
    ("candidates", "job_over", "no_room", "why"),
    [
        (1, False, None, "there is one candidate only"),
        (1, True, "no epoch is left", "there is one candidate only"),
        (2, True, "no epoch is left", "the job was stopped"),
        (2, False, "no epoch is left", "no epoch is left"),
        (2, False, None, None),
    ],
)
def test_two_candidates_and_room_for_a_round_are_needed(
    candidates: int, job_over: bool, no_room: str | None, why: str | None
) -> None:
    kept: list[Any] = [SimpleNamespace()] * candidates
    assert why_apart(kept, job_over=job_over, no_room=no_room) == why


def test_a_kept_row_tells_the_chances_or_that_nothing_is_known() -> None:
    known = "validation data give it a chance of proof (bad 0.25); the guard judges it at the end"
    assert said_of_kept(Look(chance={"bad": 0.25})) == known
    assert said_of_kept(Look()) == "validation data say nothing of it; the guard judges it at the end"
