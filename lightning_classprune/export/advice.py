"""Advice: which of the files of an export to take, and why, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: From this ratio on a network counts as faster.
FASTER = 1.1
PROVEN = "accepted"


def advice(facts: Mapping[str, Any]) -> str:
    """Return the sentence of a card that has everything but this."""
    purpose, files, times = facts["purpose"], facts["artefacts"], facts["latency"]
    ratios = {
        name: min(row["dense"] / row[name] for row in times.values())
        for name in files
        if all(name in row for row in times.values())
    }
    if purpose == "mcu":
        name, cost = next((name, one) for name, one in files.items() if name.endswith(".c"))
        unproven = (
            "" if "verdict" not in cost else f" The guard has not accepted it: it is {cost['verdict']}."
        )
        return (
            f"Compile `{name}`: {cost['flash']:,} bytes of constants, {cost['ram']:,} bytes of RAM and "
            f"{cost['multiplications']:,} multiplications a sample, no library and no malloc.{unproven}"
        )
    graphs = {
        name: facts["dense_bytes"]["onnx"] / files[name]["bytes"] for name in ratios if name != "plain.onnx"
    }
    proven = {name: ratio for name, ratio in graphs.items() if files[name].get("verdict", PROVEN) == PROVEN}
    graphs = proven or graphs
    pick = max(graphs, key=lambda name: graphs[name] if purpose == "size" else ratios[name])
    if purpose == "all" and ratios[pick] < FASTER:  # equal within what the clock can tell
        pick = max(graphs, key=lambda name: graphs[name])
    small, fast = graphs[pick], ratios[pick]
    why = (
        f"it is {small:.1f} times smaller than dense and {fast:.1f} times faster in {files[pick]['runtime']}"
    )
    if fast < FASTER:
        why = (
            f"it is {small:.1f} times smaller than dense and as fast, for runtimes compute with the zeros; prune whole "
            "channels for speed"
        )
    changed = files[pick]["changed_decisions"]
    told = f"; {changed} example decisions changed" if changed else ""
    verdict = "" if proven else f". The guard has not accepted it: it is {files[pick]['verdict']}"
    return f"Take `{pick}`: {why}{told}{verdict}."
