"""The configuration: every option composes and builds, and is what the constructors take."""

from __future__ import annotations

import inspect
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra._internal.utils import _locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_classprune import Adaptive, ClassAwarePruningCallback, Cut, Files, Fixed, Gradual, Guard
from lightning_classprune.job import app
from lightning_classprune.job.configuration import conf_dir
from lightning_classprune.rounds.settings import GRADUAL_CRITERION
from tests.support.app_job import config

CONF = conf_dir()
FACTS = {
    "class_names": ["no", "yes"],
    "num_classes": 2,
    "class_counts": [30, 10],
    "in_channels": 1,
    "in_features": 4096,
    "protected": [1],
}
FILES = sorted(CONF.rglob("*.yaml"))


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def targets(node: Any) -> list[str]:
    """Every `_target_` in a file, however deep."""
    if isinstance(node, list):
        return [target for one in node for target in targets(one)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [target for one in node.values() for target in targets(one)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_target_is_there_and_every_name_is_an_argument_of_it(file: Path) -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "_target_" in node:
                arguments = inspect.signature(_locate(node["_target_"])).parameters
                if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments.values()):
                    assert {key for key in node if not key.startswith("_")} <= set(arguments)
            for one in node.values():
                check(one)

    check(yaml.safe_load(file.read_text()))


def test_there_are_targets_to_check() -> None:
    found = {target for file in FILES for target in targets(yaml.safe_load(file.read_text()))}
    assert {"lightning_classprune.ClassAwarePruningCallback", "lightning_classprune.Adaptive"} < found
    assert len(found) > 30


# --- the callback and its search ------------------------------------------------------------------------------------


def test_the_callback_option_is_the_constructor_with_its_defaults() -> None:
    entry = yaml.safe_load((CONF / "plugin" / "callbacks" / "classprune.yaml").read_text())["classprune"]
    parameters = {
        name: one
        for name, one in inspect.signature(ClassAwarePruningCallback).parameters.items()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    }
    given = {key: value for key, value in entry.items() if not key.startswith("_")}
    assert set(parameters) - set(given) == {"predict", "guard_dataloader"}
    assert [key for key, value in given.items() if value == "???"] == ["num_classes", "protect"]
    for name in set(given) - {"num_classes", "protect"}:
        built = instantiate(given[name]) if isinstance(given[name], dict) else given[name]
        assert built == (Cut() if name == "cut" else parameters[name].default), name
    for name, kind in (("guard", Guard), ("cut", Cut), ("files", Files)):
        assert {key for key in given[name] if key != "_target_"} == {one.name for one in fields(kind)}


@pytest.mark.parametrize(
    ("option", "kind"), [("fixed", Fixed), ("adaptive", Adaptive), ("gradual", Gradual), ("steps", Fixed)]
)
def test_a_search_option_is_one_object_and_nothing_else(option: str, kind: type[Any], tmp_path: Path) -> None:
    assert options("search") == ["adaptive", "fixed", "gradual", "steps"]
    entry = yaml.safe_load((CONF / "search" / f"{option}.yaml").read_text())
    assert entry.pop("_target_") == f"lightning_classprune.{kind.__name__}"
    assert set(entry) == {one.name for one in fields(kind)}
    ours = OmegaConf.to_container(config(tmp_path, f"search={option}"), resolve=False)
    theirs = OmegaConf.to_container(config(tmp_path, "search=fixed"), resolve=False)
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert {key for key in ours if ours[key] != theirs[key]} <= {"search"}
    callback = callback_of(tmp_path, f"search={option}")
    resolved = {key: 24 if value == "${trainer.max_epochs}" else value for key, value in entry.items()}
    assert callback.settings.search == kind(**resolved)


def callback_of(folder: Path, *overrides: str) -> ClassAwarePruningCallback:
    """The callback that the job would use."""
    cfg = config(folder, *overrides)
    cfg.facts = FACTS | {"class_names": ["functional", "defective"]}
    callback: ClassAwarePruningCallback = instantiate(cfg.callbacks.classprune)
    return callback


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Gradual(densities=(0.05, 0.01), round_epochs=24)),
        (["trainer.max_epochs=5"], Gradual(densities=(0.05, 0.01), round_epochs=5)),
        (["search.rewind=init"], Gradual(densities=(0.05, 0.01), round_epochs=24, rewind="init")),
        (["search=adaptive"], Adaptive(on_refusal="stop", retries=0)),
        (["search=fixed"], Fixed(fraction=0.4)),
        (["search.densities=[0.1,0.03]", "search.round_epochs=null"], Gradual(densities=(0.1, 0.03))),
        (["search=fixed", "search.fraction=0.5", "search.max_rounds=2"], Fixed(fraction=0.5, max_rounds=2)),
        (["callbacks.classprune.search=fixed"], Fixed()),
        (["hparams_search=optuna"], Fixed(fraction=0.4)),
    ],
)
def test_the_search_of_the_job(tmp_path: Path, overrides: list[str], expected: Any) -> None:
    if "hparams_search=optuna" in overrides:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert callback_of(tmp_path, *overrides).settings.search == expected


@pytest.mark.parametrize(
    ("overrides", "criterion"),
    [
        (["search=adaptive"], "magnitude"),
        ([], GRADUAL_CRITERION),
        (["callbacks.classprune.search=gradual"], GRADUAL_CRITERION),
        (["search=gradual", "callbacks.classprune.cut.criterion=random"], "random"),
        (["callbacks.classprune.search=fixed"], "magnitude"),
    ],
)
def test_a_gradual_search_of_the_job_has_its_own_criterion(
    tmp_path: Path, overrides: list[str], criterion: str
) -> None:
    assert callback_of(tmp_path, *overrides).settings.cut.criterion == criterion


def test_a_sweep_over_searches_and_their_options_composes(tmp_path: Path) -> None:
    swept = [one.sweep_string_iterator() for one in _parsed("search=fixed,adaptive", "search.rewind=init,lr")]
    keys = ["search", "search.rewind"]
    jobs = [[f"{k}={v}" for k, v in zip(keys, values, strict=True)] for values in product(*map(list, swept))]
    found = [callback_of(tmp_path, *job).settings.search for job in jobs]
    assert found == [
        Fixed(fraction=0.4, rewind="init"),
        Fixed(fraction=0.4, rewind="lr"),
        Adaptive(rewind="init", on_refusal="stop", retries=0),
        Adaptive(rewind="lr", on_refusal="stop", retries=0),
    ]


def _parsed(*overrides: str) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(overrides))


def test_a_wrong_option_is_named_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(InstantiationException, match=r"Fixed\.fraction=1\.5"):
        callback_of(tmp_path, "search=fixed", "search.fraction=1.5")
    with pytest.raises(InstantiationException, match=r"Guard\.confidence=0\.2"):
        callback_of(tmp_path, "callbacks.classprune.guard.confidence=0.2")


@pytest.mark.parametrize("option", options("hparams_search"))
def test_what_a_study_varies_is_there(option: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = yaml.safe_load((CONF / "hparams_search" / "optuna.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]
    cfg = config(tmp_path, f"hparams_search={option}")
    assert study.keys() == {"search.fraction", "search.rewind", "loss.rank_weight", "optimizer.lr"}
    assert all(OmegaConf.select(cfg, key) is not None for key in study)


def test_whole_channels_come_in_small_steps_unless_told_otherwise(tmp_path: Path) -> None:
    cfg = config(tmp_path, "callbacks=[default,channel]")
    assert list(cfg.callbacks) == list(config(tmp_path).callbacks)
    settings = callback_of(tmp_path, "callbacks=[default,channel]").settings
    assert settings.cut == Cut(granularity="channel", scope="layer")
    assert settings.search == Fixed(fraction=0.3, rewind="lr")
    other = callback_of(tmp_path, "callbacks=[default,channel]", "search=adaptive").settings
    assert isinstance(other.search, Adaptive)


# --- the other groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "group",
    ["data", "model", "loss", "optimizer", "scheduler", "trainer", "callbacks", "search", "objective"],
)
def test_every_option_of_every_group_composes(group: str, tmp_path: Path) -> None:
    assert len(options(group)) >= 2
    for option in options(group):
        chosen = f"{group}=[{option}]" if group == "callbacks" else f"{group}={option}"
        cfg = config(tmp_path, chosen)
        assert cfg[group] is not None


#: What finds objects; tests/job/objects has their tests.
OF_OBJECTS = {"unet", "deeplab", "centre_detector", "faster_rcnn", "retinanet"}


@pytest.mark.parametrize("model", sorted({*options("model")} - OF_OBJECTS))
@pytest.mark.parametrize("loss", sorted({*options("loss")} - {"own"}))
def test_every_model_and_loss_is_built_from_the_facts(model: str, loss: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, f"model={model}", f"loss={loss}")
    cfg.facts = FACTS
    module = app.build_module(cfg)
    # One check of target values would be one wait for the GPU a step.
    assert not getattr(module.loss, "validate_args", False)
    scores = module(torch.randn(3, 1, 64, 64))
    assert scores.shape == (3, 2)
    assert torch.isfinite(module.loss(scores, torch.tensor([0, 1, 1])))


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_optimizer_goes_with_every_scheduler(optimizer: str, scheduler: str, tmp_path: Path) -> None:
    cfg = config(
        tmp_path,
        "data=breast_cancer",
        "callbacks=[]",
        f"optimizer={optimizer}",
        f"scheduler={scheduler}",
        "trainer.fast_dev_run=true",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
    )
    assert app.run(cfg) == 0.0


def test_a_tolerance_object_can_be_written_in_yaml(tmp_path: Path) -> None:
    tolerance = "{defective: {_target_: lightning_classprune.FNTolerance, count: 3}}"
    cfg = config(tmp_path, f"protect={tolerance}")
    cfg.facts = FACTS | {"class_names": ["functional", "defective"]}
    callback = instantiate(cfg.callbacks.classprune)
    assert callback.settings.tolerances["defective"].count == 3


def test_what_must_be_told_is_asked_for(tmp_path: Path) -> None:
    cfg = config(tmp_path, "data=imagefolder")
    assert OmegaConf.is_missing(cfg, "protect")
    assert OmegaConf.is_missing(cfg.data, "root")
    cfg = config(tmp_path, "data=npz", "data.root=x", "data.name=y", "protect={1:0.02}")
    assert dict(cfg.protect) == {1: 0.02}
