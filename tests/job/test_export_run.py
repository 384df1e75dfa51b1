"""Export of a run: from its folder, or one of its checkpoints, to files that give what its network gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from tests.support.app_job import EACH_ROUND, SHORT, config

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnxruntime

from lightning_classprune import load_ticket
from lightning_classprune.job import app, export_app
from lightning_classprune.job.export_run import export_run
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.rows import delivered_row

JOB = [*SHORT, *EACH_ROUND, "trainer.max_epochs=5", "callbacks.classprune.guard.confidence=null"]


def run_job(folder: Path, *overrides: str) -> RunFolder:
    app.run(config(folder, *JOB, *overrides))
    return RunFolder.open(folder)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_job(tmp_path_factory.mktemp("job"), "protect.malignant=1.0")


@pytest.fixture(scope="module")
def exported(job: RunFolder) -> tuple[Path, dict[str, Any]]:
    facts = export_run(job.path)
    return job.path / "export", facts


def test_the_card_is_of_the_files_that_are_there(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = exported
    there = {path.name for path in folder.iterdir()}
    assert there == {*facts["artefacts"], "card.md", "card.json"}
    assert {"ticket.safetensors", "model.onnx", "plain.onnx"} <= there
    for name, entry in facts["artefacts"].items():
        assert entry["bytes"] == (folder / name).stat().st_size
        assert entry["changed_decisions"] == 0
    saved = json.loads((folder / "card.json").read_text())
    assert saved["sparsity"] == facts["sparsity"] == 0.75
    assert facts["claim"] in (folder / "card.md").read_text()


def test_misses_through_the_file_are_those_of_the_test_part(
    job: RunFolder, exported: tuple[Path, dict[str, Any]]
) -> None:
    test = job.test()
    assert test is not None
    through = exported[1]["test"]
    assert set(through) >= {"module", "model.onnx"}
    for counts in through.values():
        assert counts == test["classes"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_one_purpose_is_one_kind_of_file_that_decides_alike(
    job: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_app.main([str(job.path), "--for", "mcu", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.c", "model.h", "card.md", "card.json"}
    facts = json.loads((tmp_path / "card.json").read_text())
    assert facts["advice"] in capsys.readouterr().out
    assert facts["advice"].startswith("Compile `model.c`: ")
    test = job.test()
    assert test is not None
    assert facts["test"]["model.c"] == facts["test"]["module"] == test["classes"]
    assert facts["artefacts"]["model.c"]["changed_decisions"] == 0


def test_the_ticket_loads_in_the_plain_network(job: RunFolder, exported: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = exported
    network: Any = app.build_module(job.config()).network
    ticket = load_ticket(folder / "ticket.safetensors", network)
    state = torch.load(job.accepted, weights_only=True)["state_dict"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[f"network.{name}"])
    assert ticket.card["class_names"] == ["malignant", "benign"]
    assert ticket.card["ledger"] == job.ledger()


def test_a_certified_threshold_is_in_the_graph(job: RunFolder, tmp_path: Path) -> None:
    facts = export_run(job.path, tmp_path, max_fn_rate={"malignant": 0.2})
    threshold = facts["thresholds"]["malignant"]
    x = np.load(_raw_test(job, tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    scores, decision = session.run(None, {"input": x})
    margin = scores[:, 0] - scores[:, 1]
    assert np.array_equal(decision == 0, margin >= threshold)
    assert not np.array_equal(decision, scores.argmax(1))
    with pytest.raises(ValueError, match=r"positives: .* are needed"):
        export_run(job.path, tmp_path, max_fn_rate={"malignant": 0.001})
    with pytest.raises(ValueError, match=r"max_fn_rate=.*melanoma"):
        export_run(job.path, tmp_path, max_fn_rate={"melanoma": 0.1})


def _raw_test(job: RunFolder, folder: Path) -> Path:
    data = instantiate(job.config().data)
    data.setup()
    np.save(folder / "x.npy", torch.cat([data.raw(x) for x, _ in data.test_dataloader()]).numpy())
    return folder / "x.npy"


def test_an_accepted_checkpoint_is_exported_and_one_from_the_middle_of_a_round_is_not(
    job: RunFolder, tmp_path: Path
) -> None:
    accepted = next((job.path / "checkpoints").glob("accepted-round=*.ckpt"))
    assert export_run(accepted, tmp_path)["sparsity"] == 0.75
    saved = torch.load(job.accepted, weights_only=True)
    state = next(s for key, s in saved["callbacks"].items() if key.startswith("ClassAwarePruningCallback"))
    state["rounds"]["finished"], state["pending"] = None, False
    torch.save(saved, job.path / "middle.ckpt")
    with pytest.raises(ValueError, match="from the middle of round 2"):
        export_run(job.path / "middle.ckpt", tmp_path)


def no_bias() -> nn.Module:
    """A network whose last layer cannot take a decision offset."""
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2, bias=False))


def test_an_offset_that_no_bias_takes_goes_along_with_every_file(tmp_path: Path) -> None:
    limits = ["protect.malignant=0.9", "callbacks.classprune.guard.max_fp_rise=0.9"]
    cfg = config(tmp_path, *SHORT, *limits)
    OmegaConf.set_struct(cfg, False)
    cfg.model = {"_target_": "tests.job.test_export_run.no_bias"}
    app.run(cfg)
    run = RunFolder.open(tmp_path)
    final = delivered_row(run.ledger())
    assert final is not None
    offset = final["classes"]["malignant"]["offset"]
    assert final["verdict"] == "accepted"
    assert offset != 0
    facts = export_run(run.path, trust=True)
    assert facts["offsets"] == {"malignant": offset}
    test = run.test()
    assert test is not None
    for through in facts["test"].values():
        assert through == test["classes"]
    assert f"{offset:+.6g} added to the score of malignant" in (run.path / "export" / "card.md").read_text()
    module = app.build_module(run.config())
    network: Any = module.network
    for path, model in ((run.tickets, module), (run.path / "export" / "ticket.safetensors", network)):
        assert load_ticket(path, model).card["offsets"] == {"malignant": offset}
    x = torch.from_numpy(np.load(_raw_test(run, tmp_path)))
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    scores = session.run(None, {"input": x.numpy()})[0]
    data = instantiate(run.config().data)
    data.setup()
    mean, std = data.normalization
    with torch.no_grad():
        expected = network.eval()((x - mean) / std) + torch.tensor([offset, 0.0])
    assert np.allclose(scores, expected.numpy(), atol=1e-4)


def test_what_is_not_accepted_is_exported_only_when_told_to(tmp_path: Path) -> None:
    strict = "{malignant: {_target_: lightning_classprune.FNTolerance, count: 0, recall_floor: 0.999}}"
    refused = run_job(tmp_path / "refused", f"protect={strict}", "trainer.max_epochs=1")
    with pytest.raises(ValueError, match=r"no pruning step was accepted.*--dense"):
        export_run(refused.path)
    assert not (refused.path / "export").exists()
    assert export_run(refused.path, dense=True, plain=False)["sparsity"] == 0
    assert not (refused.path / "export" / "plain.onnx").exists()
    refused.write_status("running")
    with pytest.raises(
        ValueError, match=r"the run is not finished \(running\); go on with classprune resume="
    ):
        export_run(refused.path)
    refused.write_status("failed", error="OSError: disk full")
    with pytest.raises(ValueError, match=r"\(failed with OSError: disk full\)"):
        export_run(refused.path)


def test_broken_input_leaves_nothing_behind(
    job: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(job.path, copy)
    content = (copy / "accepted.ckpt").read_bytes()
    (copy / "accepted.ckpt").write_bytes(content[: len(content) // 2])
    assert export_app.main([str(copy), "--out", str(tmp_path / "out")]) == 2
    assert "accepted.ckpt was changed" in capsys.readouterr().err
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("- 128", "- 64"))
    (copy / "accepted.ckpt").write_bytes(content)
    assert export_app.main([str(copy), "--out", str(tmp_path / "out")]) == 2
    assert export_app.main([str(tmp_path), "--no-plain"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert export_app.main([str(tmp_path / "lost.ckpt")]) == 2
    assert not (tmp_path / "out").exists()
