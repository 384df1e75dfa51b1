"""Advice: the file that is faster, else the one that is smaller, and why."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_classprune.export.advice import advice


def facts(purpose: str, sizes: dict[str, int], times: dict[str, float], changed: int = 0) -> dict[str, Any]:
    files = {
        name: {"bytes": size, "runtime": "ONNX Runtime", "changed_decisions": changed}
        for name, size in sizes.items()
    }
    return {
        "purpose": purpose,
        "artefacts": files,
        "dense_bytes": {"onnx": 1000},
        "latency": {
            "1": {"dense": 1.0, **times},
            "32": {"dense": 30.0, **{n: 30 * t for n, t in times.items()}},
        },
    }


@pytest.mark.parametrize(
    ("purpose", "sizes", "times", "said"),
    [
        (
            "all",
            {"ticket.safetensors": 90, "model.onnx": 100, "plain.onnx": 1000, "compact.onnx": 200},
            {"model.onnx": 1.0, "compact.onnx": 0.25},
            "Take `compact.onnx`: it is 5.0 times smaller than dense and 4.0 times faster in ONNX Runtime.",
        ),
        (
            "all",
            {"model.onnx": 100, "compact.onnx": 200},
            {"model.onnx": 1.0, "compact.onnx": 0.95},
            "Take `model.onnx`: it is 10.0 times smaller than dense and as fast, for runtimes compute with the zeros; "
            "prune whole channels for speed.",
        ),
        (
            "size",
            {"compact.onnx": 50},
            {"compact.onnx": 0.5},
            "Take `compact.onnx`: it is 20.0 times smaller than dense and 2.0 times faster in ONNX Runtime.",
        ),
    ],
)
def test_the_file_to_take(purpose: str, sizes: dict[str, int], times: dict[str, float], said: str) -> None:
    assert advice(facts(purpose, sizes, times)) == said


def test_the_slowest_batch_counts_and_changed_decisions_are_told() -> None:
    given = facts("latency", {"fast.onnx": 500}, {"fast.onnx": 0.5}, changed=2)
    given["latency"]["1"]["fast.onnx"] = 0.8
    assert "2.0 times smaller than dense and 1.2 times faster" in advice(given)
    assert advice(given).endswith("; 2 example decisions changed.")


def test_a_microcontroller() -> None:
    given = facts("mcu", {"model.c": 900}, {"model.c": 0.5})
    given["artefacts"]["model.c"] |= {"flash": 14_823, "ram": 81_920, "multiplications": 165_580}
    said = "Compile `model.c`: 14,823 bytes of constants, 81,920 bytes of RAM and 165,580 multiplications a sample"
    assert advice(given).startswith(said)


def test_a_file_that_the_guard_did_not_accept_is_taken_last() -> None:
    sizes, times = {"model.onnx": 100, "int8.onnx": 30}, {"model.onnx": 1.0, "int8.onnx": 0.5}
    for verdict, pick in (("unproven (not declared)", "model"), ("refused", "model"), ("accepted", "int8")):
        told = facts("all", sizes, times)
        told["artefacts"]["int8.onnx"]["verdict"] = verdict
        assert advice(told).startswith(f"Take `{pick}.onnx`: ")
    only = facts("all", {"model.onnx": 100}, {"model.onnx": 1.0})
    only["artefacts"]["model.onnx"]["verdict"] = "unproven (not declared)"
    assert advice(only).endswith("for speed. The guard has not accepted it: it is unproven (not declared).")
