"""Files of candidates: made once, named after the network, taken again, and asked in the module's place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_classprune.guard.holm import accepted_by_holm
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.rounds.file_candidates import FileCandidates, MadeFile
from lightning_classprune.rounds.judgement import judge_kept
from lightning_classprune.tickets.kept import Kept
from lightning_classprune.trainer.processes import Processes
from tests.guard.test_judge import begun, decided
from tests.tickets.test_kept import kept

ONE = Kept("kept-round=03-run.safetensors", "ab" * 32, 3, {"b": 0.5}, {})


class Texts:
    """Writes a module's weight as text; cannot make one kind."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def rehearse(self, trainer: Any, module: Any) -> None:
        self.asked.append(["rehearsed"])

    def make(
        self, trainer: Any, module: Any, masks: Any, offsets: Mapping[str, float], paths: Mapping[str, Path]
    ) -> dict[str, str]:
        self.asked.append(sorted(paths))
        for path in paths.values():
            if "broken" not in path.name:
                path.write_text(f"{module.weight.sum():.3f} {offsets}")
        return {kind: "why" for kind in paths if kind == "broken"}

    def calibration(self, path: Path) -> dict[str, Any] | None:
        return {"samples": 3} if "int8" in path.name else None

    @contextmanager
    def running(self, trainer: Any, module: Any, content: bytes) -> Iterator[None]:
        module.content = content
        yield
        del module.content


def test_files_are_made_once_for_a_network(tmp_path: Path) -> None:
    module, maker = nn.Linear(2, 2), Texts()
    candidates = FileCandidates(("int8", "broken"), maker, lambda: tmp_path, Processes())
    assert candidates.per_network == 3
    candidates.rehearse(None, module)
    made = candidates.make(None, module, ONE, {})
    content = f"{module.weight.sum():.3f} {{'b': 0.5}}".encode()
    name = "judged-round=03-run-abababab-int8.onnx"
    sha256 = hashlib.sha256(content).hexdigest()
    assert made == [
        MadeFile("int8", name, sha256, len(content), {"samples": 3}),
        MadeFile("broken", why="why"),
    ]
    assert (tmp_path / name).read_bytes() == content
    nn.init.zeros_(module.weight)  # another calibration, say: what is there was made for this network
    assert candidates.make(None, module, ONE, {}) == made
    other = Kept(ONE.file, "cd" * 32, 3, {}, {})
    assert candidates.make(None, module, other, {})[0].file == "judged-round=03-run-cdcdcdcd-int8.onnx"
    assert maker.asked == [["rehearsed"], ["broken", "int8"], ["broken"], ["broken", "int8"]]


def test_a_file_is_asked_in_the_place_of_the_module(tmp_path: Path) -> None:
    module: Any = nn.Linear(2, 2)
    candidates = FileCandidates(("int8",), Texts(), lambda: tmp_path, Processes())
    (made,) = candidates.make(None, module, ONE, {})
    asked: list[bytes] = []

    def ask() -> Decisions:
        asked.append(module.content)
        return decided(1)

    assert candidates.decide(None, module, made, ask) is not None
    assert asked == [(tmp_path / made.file).read_bytes()]
    assert candidates.decide(None, module, MadeFile("int8", why="why"), ask) is None
    assert len(asked) == 1


class Asked:
    """Files of which the first misses nothing more than the dense network, the second all, and the third is none."""

    def make(self, state: Any, masks: Any, kept: Kept) -> list[MadeFile]:
        return [MadeFile(kind, kind, kind) for kind in ("good", "bad")] + [MadeFile("none", why="why")]

    def decide(self, made: MadeFile) -> Decisions | None:
        outcomes = {"good": decided(1), "bad": decided(10)}
        return outcomes.get(made.kind)


def test_all_networks_and_files_are_one_familys_candidates(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    judge = begun(decided(1), alpha=0.05, protect={"b": 0.9})
    judged = judge_kept(tickets, judge, lambda state, one: decided(1), 0.05, Asked())
    assert [[file.verdict.accepted for file in one.files] for one in judged] == [[True, False, False]] * 2
    verdicts = [one.verdict for one in judged] + [file.verdict for one in judged for file in one.files]
    p_values = [verdict.largest_p for verdict in verdicts]
    assert [verdict.accepted for verdict in verdicts] == accepted_by_holm(p_values, 0.05)
    levels = sorted(verdict.classes["b"].level or 0.0 for verdict in verdicts if verdict.accepted)
    torch.testing.assert_close(torch.tensor(levels), torch.tensor([0.05 / k for k in (8, 7, 6, 5)]))
    mark = next(tmp_path.glob("judged-*.json")).read_text()
    assert '"files": ["good", "bad", "", "good", "bad", ""]' in mark
