"""DDP in two real processes (gloo): one verdict on the same samples everywhere, and no process left waiting."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import read_ticket
from tests.support import SUPPORT, forked, kit
from tests.support.compare import assert_same, without_seconds
from tests.support.ddp_job import GUARD_SIZE, VALIDATION_SEED, Net, dataset, look_at_boxes
from tests.support.processes import shared_folder


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What both processes saw of all fits of `ddp_job.py`."""

    def fill(folder: Path) -> None:
        forked.check(*forked.run_twice(str(SUPPORT / "ddp_job.py"), "ddp", str(folder), folder=folder))

    folder = shared_folder(tmp_path_factory, "ddp", fill)
    return folder, [torch.load(folder / f"process-{rank}.pt", weights_only=False) for rank in (0, 1)]


def of(fits: tuple[Path, list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    return [process[name] for process in fits[1]]


def decisions(weights: dict[str, torch.Tensor], data: Any) -> torch.Tensor:
    """What one process decides about all samples of a data set."""
    net = Net()
    net.load_state_dict(weights)
    with torch.no_grad():
        return net.eval()(data.tensors[0]).argmax(1)


@pytest.mark.parametrize(
    "name",
    [
        "uneven",
        "sampled",
        "averaged",
        "validation",
        "few",
        "unseeded",
        "stopped",
        "adaptive",
        "gradual",
        "objects",
        "patients",
    ],
)
def test_both_processes_hold_one_ledger_one_ticket_and_the_same_masks(fits: Any, name: str) -> None:
    first, second = of(fits, name)
    assert first["ledger"]
    assert_same(without_seconds(first["ledger"]), without_seconds(second["ledger"]))
    assert_same(first["masks"], second["masks"])
    assert_same(first["weights"], second["weights"])
    for key, mask in first["masks"].items():
        assert not first["weights"][key][~mask].any()


@pytest.mark.parametrize(
    ("name", "size", "passes"), [("uneven", GUARD_SIZE, 3), ("sampled", GUARD_SIZE, 2), ("validation", 61, 2)]
)
def test_every_guard_sample_is_counted_once(fits: Any, name: str, size: int, passes: int) -> None:
    data = dataset(size, VALIDATION_SEED if name == "validation" else 3)
    first, second = of(fits, name)
    judged = [(a[0], b[0]) for a, b in zip(first["passes"], second["passes"], strict=True) if a[0]]
    assert len(judged) == passes == len(first["ledger"])
    for a, b in judged:
        assert sorted({*a, *b}) == list(range(size))
        # Shares of an odd set are padded to the same number of batches, by one sample at most.
        assert len(a) + len(b) == size + 1
    for row in first["ledger"]:
        assert row["classes"]["1"]["support"] == int((data.tensors[1] == 1).sum())


def test_outcomes_are_those_of_a_single_process_with_the_same_weights(fits: Any) -> None:
    folder, _ = fits
    data = dataset(GUARD_SIZE, 3)
    positive = data.tensors[1] == 1
    ledger = of(fits, "uneven")[0]["ledger"]
    assert [row["verdict"] for row in ledger] == ["baseline", "accepted", "accepted"]
    missed = []
    for row in ledger:
        file = torch.load(folder / "uneven" / f"accepted-round={row['round']:02d}.ckpt", weights_only=True)
        missed.append(positive & (decisions(file["state_dict"], data) != 1))
        counts = row["classes"]["1"]
        assert counts["fn"] == int(missed[-1].sum())
        assert counts["newly_missed"] == int((missed[-1] & ~missed[0]).sum())
        assert counts["newly_found"] == int((missed[0] & ~missed[-1]).sum())
    assert ledger[-1]["classes"]["1"]["fn"] != ledger[0]["classes"]["1"]["fn"]


def test_objects_of_units_on_both_processes_are_those_of_a_single_process(fits: Any) -> None:
    data = dataset(GUARD_SIZE, 3)
    positive, patient = data.tensors[1] == 1, (1000 + data.tensors[2]) // 3
    found = of(fits, "objects")[0]
    missed = positive & (decisions(found["weights"], data) != 1)
    counts = found["ledger"][-1]["classes"]["1"]
    assert (counts["objects"], counts["objects_fn"]) == (int(positive.sum()), int(missed.sum()))
    assert (counts["units"], counts["fn"]) == (
        len(set(patient[positive].tolist())),
        len(set(patient[missed].tolist())),
    )
    assert counts["negatives"] == len(set(patient.tolist()))
    validated = dataset(61, VALIDATION_SEED).tensors[1]
    assert found["validations"][-1]["logged"]["classprune/support/1"] == int((validated == 1).sum())


def test_the_draw_is_the_same_on_both_processes(fits: Any) -> None:
    first, second = of(fits, "patients")
    assert_same(first["outcomes"], second["outcomes"])
    counts = first["ledger"][0]["classes"]["1"]
    assert counts["support"] < counts["objects"] == int((dataset(GUARD_SIZE, 3).tensors[1] == 1).sum())


def test_the_last_look_at_boxes_is_that_of_a_single_process(fits: Any) -> None:
    first, second = of(fits, "boxes")
    assert_same(first, second)
    alone = look_at_boxes(lambda test: kit.trainer(test))
    assert_same(first, alone)
    assert int(alone["found"]["value"].bool().sum()) > 0
    counts = alone["counts"]["classes"]["square"]
    assert alone["counts"]["samples"] == 25  # an odd number, of which the sampler repeats one
    assert alone["others"] == {"square": (counts["fn"], counts["support"])}
    assert len(alone["found"]["order"]) > len(
        alone["found"]["unit"].unique()
    )  # so there is something to draw


def test_the_ladder_holds_what_was_accepted_and_judged(fits: Any) -> None:
    folder, _ = fits
    tickets = folder / "uneven-tickets"
    listed = Ladder(tickets).entries()
    assert sorted(path.name for path in tickets.iterdir()) == sorted(
        ["ladder.json", *(entry["file"] for entry in listed)]
    )
    for row, entry in zip(of(fits, "uneven")[1]["ledger"], listed, strict=True):
        name = f"round={row['round']:02d}"
        saved = torch.load(folder / "uneven" / f"accepted-{name}.ckpt", weights_only=True)["state_dict"]
        assert_same(read_ticket(tickets / f"{name}.safetensors").state, dict(saved))
        assert entry["classes"]["1"]["fn"] == row["classes"]["1"]["fn"]


def test_the_ticket_is_judged_on_one_set_of_buffers_though_processes_trained_apart(fits: Any) -> None:
    first, second = of(fits, "sampled")
    assert len(first["passes"]) == 2
    for (_, mine, trained), (_, other, trained_apart) in zip(first["passes"], second["passes"], strict=True):
        assert trained != trained_apart  # else this test shows nothing
        assert mine == other == {trained}


def test_recall_at_every_validation_leaves_padding_out(fits: Any) -> None:
    data = dataset(61, VALIDATION_SEED)
    positive = data.tensors[1] == 1
    assert positive[0]
    first, second = of(fits, "uneven")
    assert len(first["validations"]) == 6
    for a, b in zip(first["validations"], second["validations"], strict=True):
        # Each process validates every second sample, with the buffers that it has.
        decided = torch.empty(61, dtype=torch.int64)
        decided[0::2] = decisions(a["weights"], data)[0::2]
        decided[1::2] = decisions(b["weights"], data)[1::2]
        missed, support = int((positive & (decided != 1)).sum()), int(positive.sum())
        for logged in (a["logged"], b["logged"]):
            assert logged["classprune/support/1"] == support
            assert logged["classprune/fn/1"] == missed
            assert logged["classprune/recall/1"] == pytest.approx(1 - missed / support)


def test_a_process_without_a_sample_of_its_own_takes_part(fits: Any) -> None:
    assert [row["classes"]["1"]["support"] for row in of(fits, "few")[1]["ledger"]] == [1, 1]


def test_one_process_that_asks_to_stop_ends_the_job_for_all(fits: Any) -> None:
    for process in of(fits, "stopped"):
        assert process["epochs"] == 2
        assert [row["verdict"] for row in process["ledger"]] == ["baseline"]


def test_validation_data_of_all_processes_choose_the_step(fits: Any) -> None:
    ledger = of(fits, "adaptive")[0]["ledger"]
    assert len(ledger) > 1
    assert all(row["validation_passes"] > 0 for row in ledger)


def test_masks_shrink_inside_rounds_alike(fits: Any) -> None:
    first, second = of(fits, "gradual")
    assert [row["sparsity"] for row in first["ledger"]] == [0.0, 0.5, 0.75]
    assert first["shrunk"] == second["shrunk"] == sorted(first["shrunk"])
    assert len(set(first["shrunk"])) > 10


def test_a_round_equals_a_fit_of_its_own_under_its_masks(fits: Any) -> None:
    first, second = of(fits, "rewound")
    assert_same(first["weights"], first["alone"])
    # Judging gave all processes the buffers of the first.
    assert_same(second["weights"], first["weights"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rank_dependent", "masks differ between processes"),
        ("nan_criterion", "is NaN"),
        ("failing_predict", "LookupError: no such file"),
        ("failing_rewind_file", "FileExistsError: [Errno 17]"),
        ("leaking_units", "units of the guard hold training samples too"),
        ("iterable", "guard_dataloader: a DataLoader over an iterable data set"),
        ("failing_guard", "FileNotFoundError: guard.npz"),
        ("failing_ladder", "cannot be written to"),
    ],
)
def test_an_error_on_one_process_is_raised_on_all(fits: Any, name: str, message: str) -> None:
    for process in of(fits, name):
        assert message in process["raised"]


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_the_launching_process_sees_the_results(strategy: str, tmp_path: Path) -> None:
    job = (str(SUPPORT / "spawn_job.py"), strategy, str(tmp_path))
    forked.check(forked.run(*job, folder=tmp_path, environment={"TMPDIR": str(tmp_path)}))
    parent = torch.load(tmp_path / "parent.pt", weights_only=False)
    child = torch.load(tmp_path / "child-0.pt", weights_only=False)
    assert parent["before"] == []
    assert [row["verdict"] for row in parent["ledger"]] == ["baseline", "accepted", "accepted"]
    assert_same(without_seconds(parent["ledger"]), without_seconds(child["ledger"]))
    assert_same(parent["masks"], child["masks"])
    assert parent["sparsity"] == 0.75
    for name, mask in parent["masks"].items():
        assert not parent["weights"][name][~mask].any()
    # A copy made before the fit knows nothing of it; one made afterwards knows all.
    assert parent["copies"] == [0, 3]
    if strategy == "ddp_fork":
        # A checkpoint that the launching process writes knows that the run is finished: nothing is trained again.
        assert parent["saved"] == 3
        assert_same(parent["resumed"]["ledger"], parent["ledger"])
        assert_same(parent["resumed"]["weights"], parent["weights"])
        # A second fit with another trainer goes on from the ticket.
        assert [row["sparsity"] for row in parent["second"]] == [0.75]
    assert glob.glob(str(tmp_path / "classprune-*")) == []


def test_results_that_nobody_looks_at_are_removed_with_the_callback(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    from lightning_classprune.trainer.child_results import ChildResults

    results = ChildResults()
    Path(results._path).write_bytes(b"left by a child")
    del results
    assert list(tmp_path.iterdir()) == []
