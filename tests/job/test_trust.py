"""What a stranger's configuration may make, and what only a trusted one may."""

from __future__ import annotations

import sys

import pytest
from omegaconf import OmegaConf

from lightning_classprune.job.config_file import literal, read_yaml
from lightning_classprune.job.configuration import conf_dir
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
