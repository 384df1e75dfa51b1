"""FSDP2 in two real processes (gloo): masks and verdicts are those of the whole network, from its pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed.fsdp
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune import load_ticket
from lightning_classprune.pruning.criteria import Criterion
from lightning_classprune.pruning.masks import count_kept, count_weights
from lightning_classprune.pruning.selection import shrink_masks
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.trainer.compatibility import check_strategy
from tests.support import SUPPORT, forked
from tests.support.compare import assert_same, without_seconds
from tests.support.ddp_job import pruner
from tests.support.fsdp2_job import all_equal, fit, module
from tests.support.processes import shared_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(torch.distributed.fsdp, "FSDPModule"):
        pytest.skip("FSDP2 of torch 2.5 and older needs a GPU")

    def fill(folder: Path) -> None:
        forked.check(*forked.run_twice(str(SUPPORT / "fsdp2_job.py"), str(folder), folder=folder))

    return shared_folder(tmp_path_factory, "fsdp2", fill)


@pytest.fixture(scope="module")
def fits(folder: Path) -> list[dict[str, Any]]:
    """What both processes saw of all fits of `fsdp2_job.py`."""
    return [torch.load(folder / f"process-{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_same_run(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert_same(without_seconds(a["ledger"]), without_seconds(b["ledger"]))
    assert_same(a["masks"], b["masks"])
    assert_same(a["weights"], b["weights"])


def test_of_every_round_the_best_epoch_of_the_first_process_is_judged_everywhere(
    fits: list[dict[str, Any]],
) -> None:
    found = fits[0]["best epoch"]
    assert [row["verdict"] for row in found["ledger"]] == ["baseline", "accepted"]
    assert_same(found["weights"], found["judged"][2])
    assert_same_run(found, fits[0]["best epoch, whole"])
    assert_same_run(found, fits[0]["best epoch, resumed"])


def test_a_sharded_lstm_is_pruned_as_a_whole_one(fits: list[dict[str, Any]]) -> None:
    assert set(fits[0]["recurrent"]["masks"]) == {"net.0.weight_ih_l0", "net.0.weight_hh_l0", "net.1.weight"}
    assert_same_run(fits[0]["recurrent"], fits[0]["recurrent, whole"])


def test_both_processes_end_with_one_run(fits: list[dict[str, Any]]) -> None:
    runs = [name for name, found in fits[0].items() if isinstance(found, dict)]
    assert len(runs) >= 10
    for name in runs:
        assert_same_run(fits[0][name], fits[1][name])


def test_a_sharded_run_equals_the_one_of_whole_networks(fits: list[dict[str, Any]]) -> None:
    found = fits[0]["fsdp2"]
    assert [row["verdict"] for row in found["ledger"]] == ["baseline", "accepted", "accepted"]
    assert_same_run(found, fits[0]["ddp"])
    # Sizes are those of the whole network: 25 * 8 + 25 + 2 weights, 75% of them rounded up.
    assert {name: tuple(m.shape) for name, m in found["masks"].items()} == {
        "net.0.weight": (25, 8),
        "net.3.weight": (1, 25),
        "net.4.weight": (2, 1),
    }
    assert count_weights(found["masks"]) == 227
    assert count_kept(found["masks"]) == 227 - 171
    assert found["sparsity"] == found["ledger"][-1]["sparsity"] == 171 / 227
    for name, mask in found["masks"].items():
        assert not found["weights"][name][~mask].any()


def test_objects_of_a_sharded_run_are_those_of_whole_networks(fits: list[dict[str, Any]]) -> None:
    assert_same_run(fits[0]["objects"], fits[0]["objects, whole"])
    counts = fits[0]["objects"]["ledger"][-1]["classes"]["1"]
    assert counts["units"] < counts["objects"]


@pytest.mark.parametrize(
    ("name", "criterion", "scope"),
    [
        ("fsdp2", "magnitude", "global"),
        ("layers, five samples", "magnitude_increase", "layer"),
        ("ties", all_equal, "global"),
    ],
)
def test_selection_over_pieces_is_that_over_wholes(
    fits: list[dict[str, Any]], name: str, criterion: Any, scope: Any
) -> None:
    found, start = fits[0][name], module().state_dict()
    score = Criterion.of(criterion).given
    dense = found["judged"][1]
    masks = {key: torch.ones_like(mask) for key, mask in found["masks"].items()}
    if name == "fsdp2":  # its last round: from the ticket of round 1
        dense = found["judged"][3]
        masks = {key: dense[key] != 0 for key in masks}
        assert count_kept(masks) == 227 - 114
    chosen = shrink_masks(
        masks, lambda key: score(dense[key], start[key]), 171 if name == "fsdp2" else 114, scope
    )
    assert_same(chosen, found["masks"])


@pytest.mark.parametrize("name", ["by gradients", "by class gradients"])
def test_gradients_of_pieces_choose_as_those_of_wholes(fits: list[dict[str, Any]], name: str) -> None:
    """Relative to all of a layer, though one process has a part of it, or nothing."""
    assert_same_run(fits[0][name], fits[0][f"{name}, of wholes"])
    assert any(
        not torch.equal(mask, fits[0]["fsdp2"]["masks"][n]) for n, mask in fits[0][name]["masks"].items()
    )


def test_what_each_process_heard_is_saved_and_resumed(fits: list[dict[str, Any]]) -> None:
    """In fine-tuning, so with the training that was accepted last as well."""
    assert [row["verdict"] for row in fits[0]["by gradients"]["ledger"]] == [
        "baseline",
        "accepted",
        "accepted",
    ]
    for process in fits:
        assert_same_run(process["by gradients, resumed in round 1"], process["by gradients"])


def test_pieces_never_leak(fits: list[dict[str, Any]]) -> None:
    for process in fits:
        leaked, looked_at = process["fsdp2"]["leaks"]
        assert leaked == 0
        assert looked_at > 500


def test_who_cannot_read_validation_leaves_nobody_waiting(fits: list[dict[str, Any]]) -> None:
    for process in fits:
        assert [row["verdict"] for row in process["blind"]["ledger"]] == ["baseline", "accepted"]
        assert not any(name.startswith("classprune/recall") for name in process["blind"]["logged"])


def test_masks_of_pieces_shrink_inside_a_round(fits: list[dict[str, Any]]) -> None:
    for process in fits:
        found = process["gradual"]
        assert [row["sparsity"] for row in found["ledger"]] == [0.0, 114 / 227]
        leaked, looked_at = found["leaks"]
        assert leaked == 0
        assert looked_at > 200
        assert_same_run(process["gradual, resumed"], found)


def test_shares_of_few_guard_samples_leave_nobody_waiting(fits: list[dict[str, Any]]) -> None:
    name = "layers, five samples"
    for a, b in zip(*(process[name]["passes"] for process in fits), strict=True):
        if a[0]:
            assert len(a[0]) == len(b[0]) == 3
            assert sorted({*a[0], *b[0]}) == [0, 1, 2, 3, 4]
    assert [row["classes"]["1"]["support"] for row in fits[0][name]["ledger"]] == [3, 3]


@pytest.mark.parametrize("when", ["in round 0", "at a verdict", "in round 1"])
def test_resumed_is_the_same_run(fits: list[dict[str, Any]], when: str) -> None:
    for process in fits:
        assert_same_run(process[f"resumed {when}"], process["fsdp2"])


def test_one_process_resumes_what_two_have_saved(
    fits: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    net, callback = module(), pruner()
    with pytest.warns(UserWarning, match="written by 2 processes and is resumed by 1"):
        fit(net, "auto", str(tmp_path), callback, ckpt_path=str(folder / "cut-1-True.ckpt"), devices=1)
    shared = fits[0]["fsdp2"]
    assert_same(without_seconds(callback.ledger[:1]), without_seconds(shared["ledger"][:1]))
    assert [row["sparsity"] for row in callback.ledger] == [row["sparsity"] for row in shared["ledger"]]
    assert [row["verdict"] for row in callback.ledger] == ["baseline", "accepted", "accepted"]
    # Round 1 was chosen from the weights that two processes had trained; round 2 trained otherwise.
    first = shrink_masks(
        {name: torch.ones_like(mask) for name, mask in callback.masks.items()},
        lambda name: shared["judged"][1][name].abs(),
        114,
        "global",
    )
    for name, mask in callback.masks.items():
        assert not (mask & ~first[name]).any()
        assert not net.state_dict()[name][~mask].any()


def test_after_refusals_the_judged_weights_are_delivered(fits: list[dict[str, Any]]) -> None:
    found = fits[0]["refused"]
    assert [row["verdict"] for row in found["ledger"]] == ["baseline", "refused", "refused"]
    assert_same(found["weights"], found["judged"][1])
    assert found["sparsity"] == 0


def test_the_guard_judges_whole_networks_at_the_end(folder: Path, fits: list[dict[str, Any]]) -> None:
    for process in fits:
        found, whole = process["at the end"], process["at the end, whole"]
        # A bias takes the offset of a whole network, and none that of a sharded one: the two differ in that alone.
        same = {name for name in found["weights"] if not name.endswith("net.4.bias")}
        assert_same(without_seconds(found["ledger"]), without_seconds(whole["ledger"]))
        assert_same(found["masks"], whole["masks"])
        for name in same:
            assert torch.equal(found["weights"][name], whole["weights"][name])
        assert_same_run(process["at the end, resumed"], found)
        assert process["at the end, resumed"]["offsets"] == found["offsets"]
    assert "accepted" in [row["verdict"] for row in fits[0]["at the end"]["ledger"][1:]]
    assert "kept" not in [row["verdict"] for row in fits[0]["at the end"]["ledger"]]
    for name in ("judged", "judged-resumed"):
        assert len(list((folder / name).glob("judged-*.json"))) == 1
        plain = module()
        load_ticket(folder / name, plain)
        assert_same(dict(plain.state_dict()), fits[0]["at the end"]["weights"])


def test_ladders_hold_whole_networks(folder: Path, fits: list[dict[str, Any]]) -> None:
    for name, run in (("tickets", "fsdp2"), ("tickets-resumed", "resumed at a verdict")):
        assert [entry["round"] for entry in Ladder(folder / name).entries()] == [0, 1, 2]
        plain = module()
        ticket = load_ticket(folder / name, plain)
        assert_same(dict(plain.state_dict()), fits[0][run]["weights"])
        assert_same(ticket.masks, fits[0][run]["masks"])


def test_checkpoint_files_hold_whole_weights(fits: list[dict[str, Any]]) -> None:
    found = fits[0]["files"]
    assert Path(found["best"]).name == "accepted-round=01.ckpt"
    saved = torch.load(found["best"], weights_only=True)
    plain = module()
    plain.load_state_dict(saved["state_dict"])
    assert_same(dict(plain.state_dict()), found["weights"])
    state = saved["callbacks"]["ClassAwarePruningCallback"]
    assert state["rewind_point"]["tensors"]["net.0.weight"].shape == (25, 8)
    assert "val_loss" in found["validated"][0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", "apply fully_shard to the whole module"),
        ("nan", "a score is NaN"),
        ("tensor parallel", "tensor_parallel_size"),
    ],
)
def test_what_cannot_work_is_refused_on_all_processes(
    fits: list[dict[str, Any]], name: str, message: str
) -> None:
    for process in fits:
        assert message in process[name]


@pytest.mark.parametrize(
    "name", ["FSDPStrategy", "DeepSpeedStrategy", "XLAStrategy", "SingleDeviceXLAStrategy"]
)
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_other_strategies_are_refused_by_name(package: str, name: str) -> None:
    strategies = pytest.importorskip(f"{package}.strategies")
    # They cannot be constructed without their hardware or libraries.
    strategy = object.__new__(getattr(strategies, name))
    with pytest.raises(MisconfigurationException, match=f"strategy {name} is not supported.*'ddp'"):
        check_strategy(strategy, strategies)


def test_supported_strategies_pass() -> None:
    strategies = pl.strategies
    for strategy in (
        strategies.SingleDeviceStrategy(),
        strategies.DDPStrategy(),
        strategies.ModelParallelStrategy(),
    ):
        check_strategy(strategy, strategies)
