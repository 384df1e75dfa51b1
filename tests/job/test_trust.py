"""What a stranger's configuration may make, and what only a trusted one may; what a stranger's folder can do here."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from lightning_classprune.job import command, export_app, jobs, judge_app
from lightning_classprune.job.config_file import literal, read_yaml
from lightning_classprune.job.configuration import conf_dir
from lightning_classprune.job.report import report_app
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.trust import check_targets


def refused(target: object) -> bool:
    config = OmegaConf.create(literal({"a": [{"b": {"_target_": target}}]}))
    try:
        check_targets(config, "config.yaml")
    except ValueError:
        with pytest.raises(ValueError, match=r"^config\.yaml would run .*--trust"):
            check_targets(config, "config.yaml")
        return True
    return False


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.nn.init.torch.load",
        "torch.jit.load",
        "torch.hub.load",
        "torch.nn.Linear.load_state_dict",
        "torch.fx.GraphModule",
        "lightning_classprune.job.own_process.os.system",
        "lightning_classprune.job.app.run",
        "lightning_classprune.load_ticket",
        "lightning_classprune.job.data.images.ImageFolder",
        "lightning_classprune.__main__.main",
        "torchvision.datasets.LSUN",
        "torchvision.datasets.ImageFolder",
        "torchvision.transforms.v2.functional._misc.PIL.Image.open",
        "lightning.pytorch.Trainer.fit",
        "lightning.pytorch.cli.LightningCLI",
        "builtins.eval",
        "os.system",
        "tests.job.test_trust.Mine",
        "torch.nn.nothing",
        "torch..nn",
        "torch",
        "",
        3,
        None,
    ],
)
def test_what_is_no_part_of_a_job_is_refused(target: object) -> None:
    assert refused(target)


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Conv2d",
        "torch.nn.CrossEntropyLoss",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "torch.utils.data.TensorDataset",
        "torchvision.transforms.v2.RandomRotation",
        "torchvision.transforms.Compose",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.loggers.CSVLogger",
        "torchmetrics.classification.BinaryAUROC",
        "lightning_classprune.FNTolerance",
        "lightning_classprune.ClassAwarePruningCallback",
        "lightning_classprune.losses.ClassDependentLoss",
        "lightning_classprune.job.models.mlp",
    ],
)
def test_a_part_of_a_job_is_made(target: str) -> None:
    assert not refused(target)


def test_every_choice_of_the_configuration_is_made() -> None:
    for file in sorted(conf_dir().rglob("*.yaml")):
        check_targets(OmegaConf.create({"all": literal(read_yaml(file))}), file)


def test_no_module_of_another_package_is_imported_to_find_out() -> None:
    assert "this" not in sys.modules
    assert refused("this.s")
    assert "this" not in sys.modules


class Payload:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def hostile(folder: Path, state: str, **config: Any) -> Path:
    """A run folder that wants to run code, or to see what is none of its business."""
    (folder / "weights.bin").write_bytes(pickle.dumps(Payload(folder / "was here")))
    model = {"_target_": "torch.load", "f": str(folder / "weights.bin"), "weights_only": False}
    facts = {"class_names": ["${oc.env:SECRET_TOKEN}", "b"], "protected": [0]}
    content = {"run_dir": str(folder), "seed": 1, "facts": facts, "data": {**model}, "model": model} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "status.json").write_text(json.dumps({"state": state, "error": None, "objective": 0.5}))
    (folder / "accepted.ckpt").write_bytes(pickle.dumps(Payload(folder / "was here")))
    return folder


def test_a_strangers_folder_runs_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hostile(tmp_path, "finished")
    assert export_app.main([str(folder)]) == 2
    assert "config.yaml would run 'torch.load'" in capsys.readouterr().err
    hostile(tmp_path, "running")
    assert judge_app.main([str(folder)]) == 1
    assert "config.yaml would run 'torch.load'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["classprune", f"resume={folder}"])
    with pytest.raises(SystemExit, match=r"config\.yaml would run 'torch\.load'"):
        command.main()
    assert not (tmp_path / "was here").exists()
    with contextlib.suppress(RuntimeError):  # the pickle is all that there is
        torch.load(folder / "weights.bin", weights_only=False)
    assert (tmp_path / "was here").exists(), "the bait is good"


def test_a_strangers_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"_target_": "lightning_classprune.job.data.npz.NpzData", "path": "x.npz"}
    loss = {"_target_": "torch.nn.CrossEntropyLoss"}
    facts = {"class_names": ["a", "b"], "protected": [0], "num_classes": 2}
    model = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True}
    parts = {
        "data": data,
        "loss": loss,
        "facts": facts,
        "model": model,
        "optimizer": optimizer,
        "scheduler": {},
    }
    assert export_app.main([str(hostile(tmp_path, "finished", **parts))]) == 2
    assert "classprune-export: " in capsys.readouterr().err
    assert not (tmp_path / "was here").exists()


def test_what_a_folder_says_of_logging_is_not_done(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    handler = {"()": "os.mkdir", "path": str(tmp_path / "was here")}
    logging = {"version": 1, "handlers": {"a": handler}, "root": {"handlers": ["a"]}}
    hydra = {"hydra": {"job_logging": logging, "runtime": {}, "job": {"name": "x"}}}
    (tmp_path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run_dir": str(tmp_path)}))
    assert jobs.resume(RunFolder(tmp_path), lambda cfg, *, resume: 0.25) == 0.25
    assert not (tmp_path / "was here").exists()


def test_a_report_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    folder = hostile(tmp_path, "finished", model={"_target_": "a.B", "x": "${oc.env:SECRET_TOKEN}"})
    assert report_app.main([str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "s3cr3t" not in page
    assert "${oc.env:SECRET_TOKEN}" in page
