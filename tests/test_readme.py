"""The README's snippets run, and its figures are those that the code gives."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for language, code in SNIPPETS if language == "python"]
CONFIG_LINES = [
    line.split("#")[0].strip()
    for language, code in SNIPPETS
    if language == "bash"
    for line in code.splitlines()
    if line.startswith("classprune ")
]


@pytest.fixture
def names(tmp_path: Path) -> dict[str, object]:
    """What a reader has before the first snippet: a model, loaders, torch."""
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    x = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=32)

    def quiet_trainer(**arguments: object) -> pl.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return pl.Trainer(**arguments, **quiet, default_root_dir=tmp_path, accelerator="cpu")

    return {
        "model": Net(),
        "train_loader": loader,
        "val_loader": loader,
        "guard_loader": loader,
        "torch": torch,
        "Trainer": quiet_trainer,
    }


@pytest.mark.parametrize("code", PYTHON, ids=[code.splitlines()[0][:40] for code in PYTHON])
def test_python_snippets_run(code: str, names: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_classprune import ClassAwarePruningCallback

    names["ClassAwarePruningCallback"] = ClassAwarePruningCallback
    # The snippets' own Trainer, but silent and writing where tests may.
    exec(code.replace("from lightning.pytorch import Trainer\n", ""), names)
    if "pruning" in names:
        pruning = names["pruning"]
        assert isinstance(pruning, ClassAwarePruningCallback)
        assert pruning.ledger[0]["verdict"] == "baseline"


@pytest.mark.parametrize("line", CONFIG_LINES)
def test_command_lines_compose(line: str) -> None:
    arguments = [a for a in shlex.split(line)[1:] if a != "-m"]
    arguments = [a.split(",")[0] if "=" in a and "[" not in a and "{" not in a else a for a in arguments]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[a.replace("…", "x") for a in arguments])
    assert "callbacks" in cfg


def test_yaml_snippets_parse() -> None:
    blocks = [code for language, code in SNIPPETS if language == "yaml"]
    assert blocks
    for block in blocks:
        entry = yaml.safe_load(block)["trainer"]["callbacks"][0]
        assert entry["class_path"] == "lightning_classprune.ClassAwarePruningCallback"


def test_positives_table_is_what_the_benchmark_prints() -> None:
    spec = importlib.util.spec_from_file_location("positives", ROOT / "benchmarks" / "positives_needed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in README


def test_every_argument_and_config_group_is_described() -> None:
    import inspect

    from lightning_classprune import ClassAwarePruningCallback

    for name in list(inspect.signature(ClassAwarePruningCallback.__init__).parameters)[1:]:
        assert f"`{name}`" in README, name
    for group in (p for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "plugin"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group.name}` |"))
        for choice in group.glob("*.yaml"):
            assert re.search(rf"\b{choice.stem}\b", row), (group.name, choice.stem)


def test_ci_calls_the_readme_command() -> None:
    command = next(c.strip() for lang, c in SNIPPETS if lang == "bash" and "pytest" in c)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
