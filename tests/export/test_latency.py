"""Latency: turns are taken, on the clock of the thread, and the shortest is what is told."""

from __future__ import annotations

import json
import time

import pytest

from lightning_classprune.export.latency import conditions, interleaved


def test_calls_take_turns_after_one_that_does_not_count() -> None:
    order: list[str] = []
    result = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4)
    assert order == ["a", "b"] * 5
    assert list(result) == ["a", "b"]


def test_the_shortest_in_milliseconds() -> None:
    now = [0.0]
    pauses = iter([0.001, 0.04, 0.03, 0.2])  # the first is not timed

    def work() -> None:
        now[0] += next(pauses)

    assert interleaved({"work": work}, rounds=3, clock=lambda: now[0]) == {"work": pytest.approx(30.0)}


def test_time_that_others_take_does_not_count() -> None:
    waiting = interleaved({"sleep": lambda: time.sleep(0.01)}, rounds=3)["sleep"]
    assert waiting < 5


def test_conditions_are_json() -> None:
    found = conditions()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == 1
    assert found["cpu"] is None or found["cpu"].strip()


def test_no_more_turns_than_the_time_allows_but_at_least_three() -> None:
    calls: list[int] = []
    interleaved({"a": lambda: calls.append(1)}, rounds=1000, seconds=0.0)
    assert len(calls) == 1 + 3
