"""`lightning.pytorch` and `pytorch_lightning`: one callback for both, by hand and from a LightningCLI's YAML."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_classprune import Adaptive, ClassAwarePruningCallback, Cut, Files, Fixed, FNTolerance, Guard
from lightning_classprune.pruning.criteria import CRITERIA, CriterionName
from tests.support.compare import assert_same
from tests.support.kit import QUIET
from tests.support.older import averaging_of
from tests.support.witness import Witness, classifier_of, pruning_callback, train_data, val_data

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


class Fitted:
    """A job of one of the packages, with that package's own callbacks around."""

    def __init__(self, package: str, folder: Path, refuse: tuple[int, ...] = ()) -> None:
        pl = importlib.import_module(package)
        self.witness = Witness(refuse)
        self.pruning = pruning_callback(self.witness)
        self.checkpoint = pl.callbacks.ModelCheckpoint(folder / package, monitor="val_loss", save_last=True)
        self.stopping = pl.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0)
        self.module = classifier_of(package)()
        kwargs = {k: v for k, v in QUIET.items() if k != "enable_checkpointing"}
        callbacks = [self.stopping, self.checkpoint, self.pruning]
        self.trainer = pl.Trainer(max_epochs=5, callbacks=callbacks, **kwargs)
        pl.seed_everything(7)
        self.trainer.fit(self.module, train_data(shuffle=True), val_data())
        assert self.trainer.callbacks[-1] is self.checkpoint


@pytest.mark.parametrize("refuse", [(), (2,)])
def test_both_packages_give_the_same_ledger_and_the_same_bits(
    refuse: tuple[int, ...], tmp_path: Path
) -> None:
    one, other = (Fitted(package, tmp_path, refuse) for package in PACKAGES)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in one.pruning.ledger] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in other.pruning.ledger
    ]
    assert_same(dict(one.module.state_dict()), dict(other.module.state_dict()))
    assert all(torch.equal(one.pruning.masks[name], mask) for name, mask in other.pruning.masks.items())
    for job in (one, other):
        # EarlyStopping ended every round after its second epoch, and not the job.
        assert [row["epochs"] for row in job.pruning.ledger] == [2, 2, 2]
        assert job.pruning.sparsity == (0.5 if refuse else 0.75)
        accepted = 1 if refuse else 2
        assert Path(job.checkpoint.best_model_path).name == f"accepted-round=0{accepted}.ckpt"
        for path in (job.checkpoint.best_model_path, job.checkpoint.last_model_path):
            saved = torch.load(path, weights_only=True)["state_dict"]
            assert_same(saved, dict(job.module.state_dict()))
        assert_same(job.witness.state(accepted), dict(job.module.state_dict()))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_accepts_the_callback(package: str) -> None:
    pl = importlib.import_module(package)
    assert issubclass(ClassAwarePruningCallback, pl.Callback)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_callback_may_be_passed_alone(package: str) -> None:
    pl = importlib.import_module(package)
    pruning = pruning_callback()
    trainer = pl.Trainer(max_epochs=1, callbacks=pruning, **QUIET)
    trainer.fit(classifier_of(package)(), train_data(), val_data())
    assert pruning.sparsity == 0.75
    assert trainer.callbacks == [pruning]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_packages_own_callbacks_are_recognized(package: str) -> None:
    pl = importlib.import_module(package)
    pruning = pruning_callback()
    swa = pl.callbacks.StochasticWeightAveraging(0.01)
    trainer = pl.Trainer(max_epochs=2, callbacks=[pruning, swa], **QUIET)
    with pytest.raises(Exception, match="StochasticWeightAveraging"):
        trainer.fit(classifier_of(package)(), train_data(), val_data())
    schedule = pl.callbacks.GradientAccumulationScheduler({1: 4})
    pruning = pruning_callback()
    trainer = pl.Trainer(max_epochs=2, callbacks=[pruning, schedule], **QUIET)
    trainer.fit(classifier_of(package)(), train_data(), val_data())
    assert trainer.global_step == 3 * (4 + 1)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_packages_own_average_is_judged_and_delivered(package: str) -> None:
    pl = importlib.import_module(package)
    average = averaging_of(package, "EMAWeightAveraging")(decay=0.5)
    witness = Witness()
    trainer = pl.Trainer(max_epochs=1, callbacks=[pruning_callback(witness), average], **QUIET)
    module = classifier_of(package)()
    trainer.fit(module, train_data(), val_data())
    assert_same(dict(module.state_dict()), witness.state(2))
    assert_same(dict(average._average_model.module.state_dict()), witness.state(2))


# -- LightningCLI --

CLI_MODULE = """
import dataclasses
import importlib
from torch.utils.data import DataLoader
from tests.support.witness import classifier_of, guard_data, train_data, val_data

pl = importlib.import_module("{package}")


class Model(classifier_of("{package}")):
    def __init__(self, width: int = 24):
        super().__init__()


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return train_data()

    def val_dataloader(self):
        return val_data()

    def guard_dataloader(self):
        return guard_data()


def score(weight, start):
    return weight.abs() + start.abs()


def predict(pl_module, batch):
    return pl_module(batch[0]), batch[1]
"""

INIT_ARGS: dict[str, Any] = {
    "num_classes": 2,
    "class_names": ["sound", "cracked"],
    "protect": {
        "cracked": {"class_path": "lightning_classprune.FNTolerance", "init_args": {"rate": 0.5}},
        "sound": 0.5,
    },
    "target_sparsity": 0.75,
    "search": {"class_path": "lightning_classprune.Fixed", "init_args": {"fraction": 0.5}},
    "guard": {"confidence": None, "max_fp_rise": None},
    "cut": {"class_path": "lightning_classprune.Cut", "init_args": {"prunable": ["net.*"]}},
}


def run_cli(package: str, init_args: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    name = f"user_code_{package.replace('.', '_')}"
    (folder / f"{name}.py").write_text(CLI_MODULE.format(package=package))
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    user = importlib.import_module(name)
    args = yaml.safe_load(yaml.safe_dump(init_args).replace("USER", name))
    config = {
        "seed_everything": 3,
        "trainer": QUIET
        | {
            "max_epochs": 1,
            "default_root_dir": str(folder),
            "callbacks": [
                {"class_path": "lightning_classprune.ClassAwarePruningCallback", "init_args": args},
                {"class_path": f"{package}.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}},
            ],
        },
        "model": {"width": 24},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config))
    cli_class = importlib.import_module(f"{package}.cli").LightningCLI
    cli = cli_class(user.Model, user.Data, args=["fit", "--config", str(path)])
    return next(c for c in cli.trainer.callbacks if isinstance(c, ClassAwarePruningCallback))


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_builds_the_callback_from_yaml(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruning = run_cli(package, INIT_ARGS, tmp_path, monkeypatch)
    assert pruning.sparsity == 0.75
    assert [row["verdict"] for row in pruning.ledger] == ["baseline", "accepted", "accepted"]
    tolerance = FNTolerance(rate=0.5)
    assert pruning.settings.tolerances == {"cracked": tolerance, "sound": tolerance}
    assert pruning.settings.search == Fixed(fraction=0.5)
    assert pruning.settings.guard == Guard(confidence=None, max_fp_rise=None)
    assert pruning.settings.cut == Cut(prunable=["net.*"])
    assert set(pruning.ledger[1]["classes"]) == {"sound", "cracked"}


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_takes_functions_and_indices(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_args = {
        "num_classes": 2,
        "protect": {1: 0.5},
        "target_sparsity": 0.5,
        "search": {"class_path": "Fixed", "init_args": {"fraction": 0.5}},
        "guard": {"confidence": None, "max_fp_rise": None},
        "cut": {"criterion": "USER.score"},
        "predict": "USER.predict",
        "guard_dataloader": "USER.guard_data",
    }
    pruning = run_cli(package, init_args, tmp_path, monkeypatch)
    assert pruning.sparsity == 0.5
    assert pruning.settings.criterion.given.__name__ == "score"
    assert pruning.settings.predict.__name__ == "predict"
    assert callable(pruning.settings.guard_dataloader)


def parsed(**arguments: Any) -> ClassAwarePruningCallback:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClassAwarePruningCallback, "cb")
    config = parser.parse_object({"cb": {"num_classes": 2, "protect": {1: 0.1}} | arguments})
    return getattr(parser, "instantiate", parser.instantiate_classes)(config).cb


def search(name: str, **init_args: Any) -> dict[str, Any]:
    """As a configuration names a search."""
    return {"search": {"class_path": f"lightning_classprune.{name}", "init_args": init_args}}


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        ({"protect": {"1": 0.1}}, "tolerances", {"1": FNTolerance(rate=0.1)}),
        ({"protect": {0: 0, 1: 1.0}}, "tolerances", {"0": FNTolerance(rate=0), "1": FNTolerance(rate=1)}),
        (
            {"protect": {1: {"count": 3, "recall_floor": 0.8}}},
            "tolerances",
            {"1": FNTolerance(count=3, recall_floor=0.8)},
        ),
        (
            {"protect": {1: {"factor": 1.5}}, "guard": {"confidence": None}},
            "tolerances",
            {"1": FNTolerance(factor=1.5)},
        ),
        ({"class_names": ["a", "b"], "protect": {"b": 0.2}}, "class_names", ("a", "b")),
        ({"threshold": 0.5}, "threshold", 0.5),
        ({"guard": {"confidence": 0.9}}, "guard", Guard(confidence=0.9)),
        (
            {"guard": {"baseline": "current"}} | search("Fixed", rewind="lr"),
            "guard",
            Guard(baseline="current"),
        ),
        ({"cut": {"scope": "layer"}}, "cut", Cut(scope="layer")),
        ({"cut": {"prunable": None}}, "cut", Cut(prunable=None)),
        ({"cut": {"prunable": "net.*"}}, "cut", Cut(prunable="net.*")),
        ({"cut": {"prunable": ["net.*", "!net.3.*"]}}, "cut", Cut(prunable=["net.*", "!net.3.*"])),
        ({"cut": {"prunable": {"include": ["a"]}}}, "cut", Cut(prunable={"include": ["a"]})),
        ({"files": {"ladder": "tickets"}}, "files", Files(ladder="tickets")),
        ({"search": "fixed"}, "search", Fixed()),
        ({"search": "adaptive"}, "search", Adaptive()),
        (search("Fixed", max_rounds=4), "search", Fixed(max_rounds=4)),
        (search("Fixed", rewind="lr", fraction=0.3), "search", Fixed(rewind="lr", fraction=0.3)),
        (search("Adaptive"), "search", Adaptive()),
        (search("rounds.options.Adaptive", rewind="init"), "search", Adaptive(rewind="init")),
        (search("Adaptive", retries=2), "search", Adaptive(retries=2)),
    ],
)
def test_every_kind_of_argument_is_parsed_from_plain_values(
    arguments: dict[str, Any], setting: str, value: Any
) -> None:
    assert getattr(parsed(**arguments).settings, setting) == value


def test_every_constructor_argument_is_an_option_of_the_parser() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(ClassAwarePruningCallback, "cb")
    known = {key.removeprefix("cb.") for key in parser.get_defaults().keys(branches=True)}
    arguments = inspect.signature(ClassAwarePruningCallback).parameters.values()
    assert {one.name for one in arguments if one.kind is not inspect.Parameter.VAR_KEYWORD} <= known
    for name, options in (("guard", Guard), ("cut", Cut), ("files", Files)):
        assert {f"{name}.{field.name}" for field in dataclasses.fields(options)} <= known


def test_the_criteria_that_a_command_line_offers_are_those_there_are() -> None:
    assert set(get_args(CriterionName)) == set(CRITERIA)


def test_a_wrong_type_is_refused_by_the_parser() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClassAwarePruningCallback, "cb")
    with pytest.raises(Exception, match="target_sparsity"):
        parser.parse_object({"cb": {"num_classes": 2, "protect": {1: 0.1}, "target_sparsity": "much"}})
