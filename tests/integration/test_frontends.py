"""The callback's ideas said in Python, as Hydra nodes and as a LightningCLI configuration: one run, whoever said it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_classprune import (
    Adaptive,
    ClassAwarePruningCallback,
    Cut,
    Files,
    Fixed,
    FNTolerance,
    Gradual,
    Guard,
)
from lightning_classprune.job.configuration import conf_dir
from lightning_classprune.rounds.options import Search, SearchName
from tests.support import ROOT
from tests.support.readme_names import MyData, MyModule

CALLBACK = "lightning_classprune.ClassAwarePruningCallback"


@pytest.fixture(autouse=True)
def _own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])  # LightningCLI warns of arguments that are not its own


class Smallest:
    """A criterion with an argument, as an object."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() ** self.power


def said_in_python(search: SearchName | Search) -> ClassAwarePruningCallback:
    return ClassAwarePruningCallback(
        num_classes=2,
        protect={"cracked": 0.3},
        class_names=["sound", "cracked"],
        search=search,
        guard=Guard(confidence=None),
        cut=Cut(criterion="random", prunable=["net.*", "!net.2.*"]),
        files=Files(ladder="tickets"),
    )


def node(kind: type, how: str, **fields: Any) -> dict[str, Any]:
    """A dataclass as a front end writes it."""
    path = f"lightning_classprune.{kind.__name__}"
    if how == "_target_":
        return {"_target_": path, **fields}
    return {"class_path": path, "init_args": fields} if how == "class_path" else fields


def arguments(how: str, search: Any) -> dict[str, Any]:
    return {
        "num_classes": 2,
        "protect": {"cracked": 0.3},
        "class_names": ["sound", "cracked"],
        "search": search,
        "guard": node(Guard, how, confidence=None),
        "cut": node(Cut, how, criterion="random", prunable=["net.*", "!net.2.*"]),
        "files": node(Files, how, ladder="tickets"),
    }


def from_cli(init_args: dict[str, Any], folder: Path, *, run: bool = False) -> LightningCLI:
    """What LightningCLI makes of a configuration file, and its fit where it is to run."""
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    config = {"trainer": {**trainer, "callbacks": [{"class_path": CALLBACK, "init_args": init_args}]}}
    (folder / "prune.yaml").write_text(yaml.safe_dump(config))
    words = [*(["fit"] if run else []), "--config", str(folder / "prune.yaml")]
    return LightningCLI(MyModule, MyData, args=words, run=run)


def pruning_of(cli: LightningCLI) -> ClassAwarePruningCallback:
    return next(c for c in cli.trainer.callbacks if isinstance(c, ClassAwarePruningCallback))


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("adaptive", Adaptive()),
        ("fixed", Fixed()),
        (Fixed(fraction=0.5, max_rounds=2), Fixed(fraction=0.5, max_rounds=2)),
        (Adaptive(max_rounds=3), Adaptive(max_rounds=3)),
    ],
)
def test_python_takes_words_and_dataclasses(search: SearchName | Search, expected: Search) -> None:
    settings = said_in_python(search).settings
    assert settings.search == expected
    assert settings.guard == Guard(confidence=None)
    assert settings.files == Files(ladder="tickets")


@pytest.mark.parametrize("word", ["adaptive", "fixed"])
def test_a_word_is_enough_everywhere(word: SearchName, tmp_path: Path) -> None:
    expected = said_in_python(word).settings.state_dict()
    hydra = instantiate({"_target_": CALLBACK, "_convert_": "all", **arguments("_target_", word)})
    assert hydra.settings.state_dict() == expected
    assert pruning_of(from_cli(arguments("class_path", word), tmp_path)).settings.state_dict() == expected


def test_hydra_nodes_say_what_python_says() -> None:
    search = node(Fixed, "_target_", fraction=0.5, max_rounds=2)
    made = instantiate({"_target_": CALLBACK, "_convert_": "all", **arguments("_target_", search)})
    assert (
        made.settings.state_dict() == said_in_python(Fixed(fraction=0.5, max_rounds=2)).settings.state_dict()
    )
    assert made.settings.files == said_in_python(Fixed(fraction=0.5, max_rounds=2)).settings.files


@pytest.mark.parametrize(
    ("overrides", "search"),
    [
        ([], Fixed()),
        (["callbacks.classprune.search=adaptive"], Adaptive()),
        (
            [
                "callbacks.classprune.search={_target_: lightning_classprune.Adaptive, max_rounds: 3}",
                "callbacks.classprune.guard.confidence=null",
                "callbacks.classprune.cut.criterion=random",
            ],
            Adaptive(max_rounds=3),
        ),
    ],
)
def test_any_hydra_application_can_choose(overrides: list[str], search: Search) -> None:
    known = ["callbacks.classprune.num_classes=2", "callbacks.classprune.protect={1: 0.05}"]
    with initialize_config_dir(str(ROOT / "conf" / "plugin"), version_base="1.3"):
        cfg = compose(overrides=["+callbacks=classprune", *known, *overrides])
    settings = instantiate(cfg.callbacks.classprune).settings
    assert settings.search == search
    assert settings.guard == (Guard(confidence=None) if overrides[1:] else Guard())
    assert settings.cut == (Cut(criterion="random") if overrides[1:] else Cut())


def test_the_job_chooses_a_search_by_its_group() -> None:
    words = ["data=breast_cancer", "run_dir=here", "facts.num_classes=2", "facts.class_names=[a,malignant]"]
    more = ["callbacks.classprune.guard.confidence=0.9", "callbacks.classprune.cut.criterion=random"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        default = compose("config", words)
        chosen = compose("config", [*words, "search=fixed", "search.fraction=0.5", *more])
    assert instantiate(default.callbacks.classprune).settings.search == Gradual(
        densities=(0.05, 0.01), round_epochs=24
    )
    settings = instantiate(chosen.callbacks.classprune).settings
    assert settings.search == Fixed(fraction=0.5)
    assert settings.guard == Guard(confidence=0.9, offset="validation", judging="end")
    assert settings.cut == Cut(criterion="random")


@pytest.mark.parametrize("how", ["class_path", "fields"])
def test_lightning_cli_takes_class_paths_and_plain_fields(how: str, tmp_path: Path) -> None:
    search = node(Fixed, "class_path", fraction=0.5, max_rounds=2)
    made = pruning_of(from_cli(arguments(how, search), tmp_path))
    assert (
        made.settings.state_dict() == said_in_python(Fixed(fraction=0.5, max_rounds=2)).settings.state_dict()
    )
    assert made.settings.files == said_in_python(Fixed(fraction=0.5, max_rounds=2)).settings.files


def test_lightning_cli_takes_other_searches_tolerances_and_criteria(tmp_path: Path) -> None:
    said = arguments("class_path", node(Adaptive, "class_path", max_rounds=3))
    criterion = {"class_path": f"{__name__}.Smallest", "init_args": {"power": 2.0}}
    said["cut"] = node(Cut, "class_path", criterion=criterion)
    said["protect"] = {"cracked": node(FNTolerance, "class_path", rate=0.3, recall_floor=0.1)}
    settings = pruning_of(from_cli(said, tmp_path)).settings
    assert settings.search == Adaptive(max_rounds=3)
    assert isinstance(settings.cut.criterion, Smallest)
    assert settings.cut.criterion.power == 2.0
    assert settings.tolerances == {"cracked": FNTolerance(rate=0.3, recall_floor=0.1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": "no_such_search"}, "no_such_search"),
        ({"search": {"rewind": "lr", "max_rounds": 3}}, "search"),  # of which search?
        ({"search": node(Adaptive, "class_path", fraction=0.5)}, "fraction"),
        ({"guard": {"confidence": 2.0}}, r"Guard.confidence=2.0"),
    ],
)
def test_lightning_cli_refuses_what_python_refuses(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:
        from_cli(arguments("class_path", "fixed") | change, tmp_path)
    assert message in f"{caught.value}{capsys.readouterr().err}"


def test_lightning_cli_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = pruning_of(from_cli(arguments("class_path", "fixed"), tmp_path, run=True))
    assert made.ledger[0]["verdict"] == "baseline"
    assert made.settings.search == Fixed()
