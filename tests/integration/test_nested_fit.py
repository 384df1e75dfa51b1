"""A ladder whose tickets share one set of weights, in real fits: made before the guard is opened, judged together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_classprune import Files, Guard, read_ladder, save_ladder, switch_ticket
from lightning_classprune.tickets.kept import KeptTickets
from tests.integration.test_judgement import Interrupt, Job, saving
from tests.support.compare import assert_same, weights
from tests.support.kit import plain_pruner, tiny, verdicts


def job(folder: Path, **options: Any) -> Job:
    return Job(folder, **({"ladder": str(folder / "ladder"), "nested": True} | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("whole")
    return job(folder).run(saving(folder))


def test_the_members_take_the_candidates_places_and_are_judged_by_holm(whole: Job) -> None:
    rows = whole.callback.ledger
    assert verdicts(whole.callback) == ["baseline", *["abandoned"] * 3, *["accepted"] * 3]
    assert [row["round"] for row in rows] == list(range(7))
    assert [row["sparsity"] for row in rows[4:]] == [row["sparsity"] for row in rows[1:4]]
    assert [row.get("nested", False) for row in rows] == [False] * 4 + [True] * 3
    assert [row["epochs"] for row in rows] == [2, 2, 2, 2, 2, 0, 0]
    assert "round 5 has its mask and shared weights" in rows[2]["reason"]
    assert sorted(row["level"] for row in rows[4:]) == pytest.approx([0.1 / 3, 0.1 / 2, 0.1])
    assert whole.guard_passes == 5, "a check, the dense network, and three candidates"
    assert whole.callback.sparsity == 0.75
    assert not list(whole.folder.rglob("kept-*.safetensors"))


def test_the_ladder_has_each_weight_once_and_switches(whole: Job) -> None:
    ladder = read_ladder(whole.folder / "ladder", tiny())
    assert [one.round for one in ladder.members] == [0, 4, 5, 6]
    for place, info in enumerate(ladder.tensors):
        if "running" not in info.name and "batches" not in info.name:
            assert [ladder.parts[number][place].of for number in (1, 2, 3)] == [1, 1, 1], info.name
    apart = sum(one.bytes for one in ladder.members[2:])
    densest = save_ladder(
        whole.folder / "two", type(ladder)(ladder.path, ladder.members[:2], ladder.tensors, ladder.parts[:2])
    )
    assert save_ladder(whole.folder / "all", ladder) - densest < apart
    net = tiny()
    for one in ladder.members[::-1]:
        assert switch_ticket(net, ladder, max_bytes=one.bytes).round == one.round
    assert switch_ticket(net, ladder, max_bytes=ladder.members[3].bytes).verdict["nested"]
    assert_same(weights(net), weights(whole.module))


def test_a_run_that_is_cut_in_the_nested_round_goes_on_bit_for_bit(tmp_path: Path, whole: Job) -> None:
    cut = job(tmp_path)
    inside = ModelCheckpoint(tmp_path / "inside", save_top_k=-1, every_n_train_steps=49, filename="{step}")
    with pytest.raises(RuntimeError, match="the disk is full"):
        cut.run(saving(tmp_path), inside, Interrupt("exception", epoch=9))
    assert cut.callback.awaits_judgement
    assert verdicts(cut.callback) == ["baseline", "kept", "kept", "kept"]
    state = torch.load(tmp_path / "inside" / "step=49.ckpt", weights_only=True)["state_dict"]
    kept = sum(int((state[name] != 0).sum()) for name in ("net.0.weight", "net.4.weight"))
    assert kept == 72, "whole weights: those of the densest"
    resumed = job(tmp_path).run(saving(tmp_path), inside, ckpt_path=tmp_path / "ckpt" / "last.ckpt", seed=99)
    assert_same(resumed.result(), whole.result())


def test_a_judgement_that_is_cut_short_is_made_again_from_before_its_candidates_were_made(
    tmp_path: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("lightning_classprune.rounds.judgement.judge_once", killed)
        with pytest.raises(KeyError):
            job(tmp_path).run(saving(tmp_path))
    checkpoint = tmp_path / "ckpt" / "last.ckpt"
    with pytest.raises(MisconfigurationException, match=r"Files.nested was True and is now None"):
        Job(tmp_path, ladder=str(tmp_path / "ladder")).run(ckpt_path=checkpoint)
    assert_same(job(tmp_path).run(saving(tmp_path), ckpt_path=checkpoint).result(), whole.result())


@pytest.mark.parametrize("harm", ["validation", "NaN"])
def test_members_that_validation_data_give_up_leave_the_candidates_as_they_were(
    harm: str, tmp_path: Path
) -> None:
    made = job(tmp_path)
    plain = made.predict

    def predict(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores, target = plain(module, batch)
        run = callback._run
        if len(target) == 100 and run is not None and run.nested.is_training:
            scores = scores - torch.tensor([0.0, 1e6]) if harm == "validation" else scores * float("nan")
        return scores, target

    callback = made.callback = job(tmp_path, predict=predict).callback
    made.run()
    rows = callback.ledger
    assert verdicts(callback) == ["baseline", *["accepted"] * 3, "abandoned"]
    assert "the candidates do not become one: that of sparsity 40.00%" in rows[4]["reason"]
    assert callback.sparsity == 0.75
    assert not any(row.get("nested") for row in rows)
    if harm == "validation":
        unnested = Job(tmp_path / "plain", ladder=str(tmp_path / "plain" / "ladder")).run()
        assert_same(weights(made.module), weights(unnested.module))


def test_one_candidate_has_nobody_to_share_with(tmp_path: Path) -> None:
    made = job(tmp_path, max_rounds=1).run(max_epochs=1)
    assert not any(row.get("nested") for row in made.callback.ledger)
    assert len(made.callback.ledger) == 2


def test_what_must_be_declared_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Files.nested=True: .* use Guard\(judging='end'\)"):
        plain_pruner(files=Files(ladder=tmp_path, nested=True), guard=Guard())
    with pytest.raises(ValueError, match=r"none is kept; give Files\(ladder=FOLDER\)"):
        Files(nested=True)
    with pytest.raises(ValueError, match=r"Files.nested='yes' must be True or False"):
        Files(ladder=tmp_path, nested="yes")  # type: ignore[arg-type]


def test_members_that_change_places_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two kept networks are swapped after the nested round, before the guard is opened."""
    real = KeptTickets.refuse_if_judged

    def swapping(self: KeptTickets) -> None:
        real(self)
        if self.replaced:
            one, other = (self.folder / kept.file for kept in self.candidates[:2])
            first, second = one.read_bytes(), other.read_bytes()
            one.write_bytes(second)
            other.write_bytes(first)

    monkeypatch.setattr(KeptTickets, "refuse_if_judged", swapping)
    with pytest.raises(MisconfigurationException, match="not the network that was kept"):
        job(tmp_path).run()
