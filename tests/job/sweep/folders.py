"""Run folders as a sweep leaves them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_classprune.ledger.text import write_jsonl


def row(verdict: str, sparsity: float, fn: int, fp: int = 5) -> dict[str, Any]:
    counts = {"fn": fn, "support": 50, "fp": fp, "negatives": 100, "max_fp_rise": None, "tolerance": None}
    return {
        "verdict": verdict,
        "sparsity": sparsity,
        "classes": {"crack": counts},
        "epochs": 4,
        "seconds": 1.5,
    }


def run_folder(
    sweep: Path,
    name: str,
    *overrides: str,
    state: str = "finished",
    rows: list[dict[str, Any]] | None = None,
    error: str | None = None,
    test_fn: int | None = None,
    dense_fn: int | None = None,
) -> None:
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {one}\n" for one in overrides))
    status = {"state": state, "error": error, "objective": None}
    (folder / "status.json").write_text(json.dumps(status))
    if rows:
        write_jsonl(rows, folder / "ledger.jsonl")
    if test_fn is not None:
        classes = {
            "crack": {"fn": test_fn, "support": 30, "fp": 2},
            "other": {"fn": 0, "support": 9, "fp": 6},
        }
        counts = {"samples": 39, "classes": classes}
        if dense_fn is not None:
            counts["dense"] = {"crack": {"fn": dense_fn, "support": 30, "fp": 1}}
        (folder / "test.json").write_text(json.dumps(counts))
