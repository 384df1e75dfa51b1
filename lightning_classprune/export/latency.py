"""Latency: milliseconds a call, measured so that two calls can be compared on a busy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 25, seconds: float = 20.0
) -> dict[str, float]:
    """Return the median time of each call in milliseconds.

    The calls take turns, so that whatever else the machine does slows all of them alike: compare within one result,
    not between two.

    Args:
        calls: Name -> what to time; each is called once before the clock runs.
        rounds: Turns of every call, at most.
        seconds: No further turn is begun after this time; at least three are made.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(taken) for name, taken in times.items()}
