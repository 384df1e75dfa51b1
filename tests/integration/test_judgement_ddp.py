"""The guard looks once for two processes: one verdict, network and ladder, also of corrupted samples."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_classprune import read_ladder
from lightning_classprune.files import sha256
from lightning_classprune.tickets.ladder import Ladder
from tests.support import SUPPORT, forked
from tests.support.compare import assert_same


def test_two_processes_come_to_one_judgement(tmp_path: Path) -> None:
    forked.check(*forked.run_twice(str(SUPPORT / "judged_job.py"), str(tmp_path), folder=tmp_path))
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    verdicts = [row["verdict"] for row in first["ledger"]]
    assert verdicts[0] == "baseline"
    assert set(verdicts[1:]) <= {"accepted", "refused", "unproven", "abandoned"}
    accepted = [row["round"] for row in first["ledger"] if row["verdict"] in ("baseline", "accepted")]
    assert len(accepted) > 1
    assert [entry["round"] for entry in Ladder(tmp_path / "tickets").entries()] == accepted
    nested = [row["round"] for row in first["ledger"] if row.get("nested")]
    assert len(nested) == 2
    assert accepted[1:] == [number for number in accepted if number in nested]
    ladder = read_ladder(tmp_path / "tickets")
    whole = next(place for place, info in enumerate(ladder.tensors) if info.name.endswith("0.weight"))
    assert {ladder.parts[number][whole].of for number in range(1, len(ladder.members))} == {1}
    assert all(row["classes"]["1"]["support"] > 0 for row in first["ledger"] if row["classes"])
    corrupted = [
        row["corruptions"]["impulse_noise"]["classes"]["1"] for row in first["ledger"] if row["classes"]
    ]
    assert len(corrupted) > 1
    assert {one["support"] for one in corrupted} == {first["ledger"][0]["classes"]["1"]["support"]}
    for name, mask in first["masks"].items():
        assert not first["weights"][name][~mask].any()
    assert len(list((tmp_path / "tickets").glob("judged-*.json"))) == 1
    for row in first["ledger"][1:]:
        if row["verdict"] != "abandoned":
            file = row["files"]["int8"]
            assert sha256(tmp_path / "tickets" / file["file"]) == file["sha256"]
            assert file["classes"]["1"]["support"] == row["classes"]["1"]["support"]
            of_row, of_file = (one["corruptions"]["impulse_noise"]["classes"]["1"] for one in (row, file))
            assert of_file["support"] == of_row["support"]
            assert of_file["tolerance"] == of_row["tolerance"]
