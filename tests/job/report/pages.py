"""Reports of all kinds, and a parser that is as strict as a browser is lenient."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.report.page import PageData, render

HOSTILE = '<img src=x onerror="alert(1)"> & $\\frac$'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A parsed page: tags with attributes, text, headings, and whether every tag was closed where it had to be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def titles(self, level: int) -> list[str]:
        return [text for height, text in self.headings if height == level]


def row(
    round_: int,
    verdict: str,
    sparsity: float,
    classes: Mapping[str, Any],
    attempt: int = 0,
    reason: str = "told",
) -> dict[str, Any]:
    return {
        "round": round_,
        "attempt": attempt,
        "sparsity": sparsity,
        "units": "weights",
        "verdict": verdict,
        "reason": reason,
        "classes": dict(classes),
        "corruptions": {},
        "level": 0.05,
        "confidence": 0.95,
        "epochs": 3,
        "seconds": 90.0,
        "seed": 1,
        "validation_passes": 0,
    }


def counts(dense: Decisions, now: Decisions, index: int, *, judged: bool, **changes: Any) -> dict[str, Any]:
    misses, alarms = now.pairs(dense, str(index))
    numbers = {"p_value": 0.01, "upper_bound": 0.031, "tolerance": 0.05}
    numbers |= {"fp_p_value": 0.02, "fp_upper_bound": 0.062, "max_fp_rise": 0.1}
    return {
        "support": misses.support,
        "fn": misses.fn,
        "recall": misses.recall,
        "newly_missed": misses.newly_missed,
        "newly_found": misses.newly_found,
        "fp": alarms.fn,
        "negatives": alarms.support,
        "new_alarms": alarms.newly_missed,
        "gone_alarms": alarms.newly_found,
        "fp_risen": False,
        "offset": 0.0,
        "chance": None,
        "units": misses.support,
        "objects": misses.support,
        "objects_fn": misses.fn,
        "objects_newly_missed": misses.newly_missed,
        "objects_newly_found": misses.newly_found,
        "objects_fp": alarms.fn,
        "objects_new_alarms": alarms.newly_missed,
        "objects_gone_alarms": alarms.newly_found,
        "rule": None,
        **(numbers if judged else dict.fromkeys(numbers)),
        **changes,
    }


#                       0  1  2  3  4  5  6  7
TARGET = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
DENSE = Decisions(TARGET, torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]), 2)  # misses 3
DELIVERED = Decisions(TARGET, torch.tensor([0, 0, 1, 1, 0, 0, 0, 0]), 2)  # misses 0 and 1, finds 3
GUARD = {"dense": DENSE, "delivered": DELIVERED}
MARGINS = torch.tensor([-1.0, -2.0, 3.0, 0.5, -4.0, -3.0, -2.5, 0.25])


def answers(decisions: Decisions, name: str) -> Answers:
    named = Decisions(decisions.target, decisions.predicted, 2, ("sound", name))
    return Answers(named, {name: MARGINS})


def scores(name: str) -> dict[str, dict[str, Answers]]:
    both = {network: answers(decisions, name) for network, decisions in GUARD.items()}
    return {"guard": both, "test": both}


SAMPLES = {split: [(f"{split}{i}.png", int(i < 4)) for i in range(8)] for split in ("guard", "test")}
GREY = {i: np.full((4, 4), 10 * i, np.uint8) for i in (0, 1, 3)}


def example(name: str = "crack", **changes: Any) -> PageData:
    rows = [
        row(0, "baseline", 0.0, {name: counts(DENSE, DENSE, 1, judged=False)}),
        row(1, "accepted", 0.6, {name: counts(DENSE, DELIVERED, 1, judged=True)}),
        row(2, "refused", 0.84, {name: counts(DENSE, DELIVERED, 1, judged=True)}, reason=f"{name}: too many"),
    ]
    content: dict[str, Any] = {
        "rows": rows,
        "class_names": ["sound", name],
        "protected": [1],
        "guard": GUARD,
        "scores": scores(name),
        "samples": SAMPLES,
        "layers": [
            {"name": "net.0.weight", "shape": [4, 2, 3, 3], "kept": 18, "total": 72},
            {"name": "net.1.weight", "shape": [2, 4], "kept": 8, "total": 8},
        ],
        "pictures": GREY,
        "test": {
            "samples": 30,
            "accuracy": 0.9,
            "classes": {
                "sound": {"support": 20, "fn": 1, "fp": 2, "recall": 0.95},
                name: {"support": 10, "fn": 2, "fp": 1, "recall": 0.8},
            },
            "dense": {
                "sound": {"support": 20, "fn": 3, "fp": 4, "recall": 0.85},
                name: {"support": 10, "fn": 4, "fp": 3, "recall": 0.6},
            },
        },
        "environment": {
            "started": "2026-01-02T03:04:05+00:00",
            "command": ["/usr/bin/classprune", "protect={crack: 0.05}", "seed=1"],
            "folder": "/home/me",
            "python": "3.11.0",
            "platform": "Linux",
            "cores": 2,
            "threads": 1,
            "accelerators": [],
            "versions": {"torch": "2.9.0", "lightning-classprune": None},
            "git": {"commit": "a" * 40, "dirty": True},
        },
        "hashes": {"accepted.ckpt": "ab" * 32},
        "config": "seed: 1\nname: <b>\n",
        "notes": ["ElpvData", "seed 1"],
    }
    return PageData(**(content | changes))


def labels_example() -> PageData:
    target = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    dense = Decisions(target, torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1]]), 3)
    now = Decisions(target, torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), 3)
    names = ["crack", "rust", "scratch"]
    rows = [
        row(0, "baseline", 0.0, {n: counts(dense, dense, i, judged=False) for i, n in enumerate(names[:2])}),
        row(1, "accepted", 0.5, {n: counts(dense, now, i, judged=True) for i, n in enumerate(names[:2])}),
    ]
    return PageData(rows, names, [0, 1], guard={"dense": dense, "delivered": now})


def many_classes_example() -> PageData:
    target = torch.arange(25).repeat(2)
    dense, now = Decisions(target, target, 25), Decisions(target, (target + (target == 7)) % 25, 25)
    rows = [
        row(0, "baseline", 0.0, {"c7": counts(dense, dense, 7, judged=False)}),
        row(1, "accepted", 0.5, {"c7": counts(dense, now, 7, judged=True)}),
    ]
    return PageData(rows, [f"c{i}" for i in range(25)], [7], guard={"dense": dense, "delivered": now})


REFUSED_AT_ONCE = example(rows=[example().rows[0], row(1, "refused", 0.6, {}, reason="scores are NaN")])
RETRIED = example(
    rows=[
        *example().rows[:2],
        row(2, "refused", 0.84, example().rows[2]["classes"]),
        row(2, "unproven", 0.7, example().rows[2]["classes"], attempt=1),
    ]
)
RISEN = example(
    rows=[
        example().rows[0],
        row(
            1,
            "accepted",
            0.6,
            {"crack": counts(DENSE, DENSE, 1, judged=True, fp_risen=True, fp=3, new_alarms=2)},
        ),
    ]
)
PAGES = {
    "finished": example(),
    "hostile name": example(HOSTILE),
    "failed": example(status={"state": "failed", "error": "MemoryError: <full>"}),
    "running": example(
        status={"state": "running", "error": None}, test=None, guard={}, layers=(), pictures={}, scores={}
    ),
    "interrupted": example(
        rows=[example().rows[0], row(1, "kept", 0.6, {})],
        status={"state": "interrupted", "error": None},
        test=None,
        guard={},
        layers=(),
        pictures={},
        scores={},
    ),
    "false alarms have risen": RISEN,
    "nothing": PageData([], status={"state": "running", "error": None}),
    "only a dense network": example(rows=example().rows[:1], guard={"dense": DENSE, "delivered": DENSE}),
    "a dense network of NaN": PageData([row(0, "baseline", 0.0, {})]),
    "a table": example(pictures={}),
    "refused at once": REFUSED_AT_ONCE,
    "retried": RETRIED,
    "labels": labels_example(),
    "many classes": many_classes_example(),
}


@functools.cache
def rendered(case: str) -> str:
    return render(PAGES[case])
