"""Latency: turns are taken, and the median is what is told."""

from __future__ import annotations

import pytest

from lightning_classprune.export import latency
from lightning_classprune.export.latency import interleaved


def test_calls_take_turns_after_one_that_does_not_count() -> None:
    order: list[str] = []
    result = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4)
    assert order == ["a", "b"] * 5
    assert list(result) == ["a", "b"]


def test_the_median_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    pauses = iter([9.0, 0.02, 0.03, 0.2])  # the first is not timed, one of three is an outlier
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += next(pauses)

    assert interleaved({"work": work}, rounds=3) == {"work": pytest.approx(30.0)}


def test_no_more_turns_than_the_time_allows_but_at_least_three() -> None:
    calls: list[int] = []
    interleaved({"a": lambda: calls.append(1)}, rounds=1000, seconds=0.0)
    assert len(calls) == 1 + 3
