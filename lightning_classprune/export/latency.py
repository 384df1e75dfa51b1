"""Latency: milliseconds a call, measured so that a busy machine says what a quiet one does."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 25,
    seconds: float = 20.0,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    """Return the shortest time of each call in milliseconds.

    By default it is CPU time of the calling thread: a call that is interrupted for others does not count their time,
    as it would on the wall clock, where long calls look slower than they are and short ones do not. The calls take
    turns, and the shortest of each is told, for all that others do to caches and clocks makes a call longer.

    Args:
        calls: Name -> what to time; each is called once before the clock runs.
        rounds: Turns of every call, at most.
        seconds: No further turn is begun after this time on the wall clock; at least three are made.
        clock: In seconds. `time.perf_counter` for calls that work on other threads or on another device,
            `time.process_time` for the work of all threads together.
    """
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, float("inf"))
    begin = time.monotonic()
    for turn in range(rounds):
        if turn >= 3 and time.monotonic() - begin > seconds:
            break
        for name, call in calls.items():
            start = clock()
            call()
            times[name] = min(times[name], clock() - start)
    return {name: 1000 * taken for name, taken in times.items()}


def conditions() -> dict[str, Any]:
    """Return what the times depend on: the processor's name, and the load average of the last minute.

    None for what the system does not tell.
    """
    return {
        "cpu": _processor(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": 1,
    }


def _processor() -> str | None:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or None
