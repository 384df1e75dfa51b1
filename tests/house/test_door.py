"""`import lightning_classprune`: every public name is there, and nothing is loaded before it is asked for."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest
from hydra.utils import instantiate

import lightning_classprune
from lightning_classprune import ClassAwarePruningCallback, Fixed
from lightning_classprune.guard import statistics
from lightning_classprune.ledger import figure
from tests.support import ROOT

HEAVY = ("torch", "lightning", "scipy", "matplotlib", "numpy", "hydra")


def fresh(code: str) -> str:
    """What the code prints in a new interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(code: str) -> set[str]:
    """The heavy packages that the code loads in a new interpreter."""
    return set(fresh(f"{code}\nimport sys\nprint(*sys.modules.keys() & {set(HEAVY)!r})").split())


def test_nothing_heavy_is_loaded() -> None:
    assert loaded("import lightning_classprune") == set()
    assert loaded("import lightning_classprune as l\nl.__version__, dir(l), hasattr(l, 'no_such')") == set()
    assert loaded("from lightning_classprune import files") == set()


def test_a_name_loads_what_it_needs() -> None:
    assert "torch" in loaded("from lightning_classprune import ClassDependentLoss")
    assert "matplotlib" not in loaded("from lightning_classprune import FNTolerance")
    assert loaded("import lightning_classprune.statistics") == {"numpy", "scipy"}
    assert "torch" not in loaded("from lightning_classprune import report")


@pytest.mark.parametrize("name", lightning_classprune.__all__)
def test_public_names_are_where_type_checkers_see_them(name: str) -> None:
    assert name in dir(lightning_classprune)
    code = ast.parse(Path(str(lightning_classprune.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in code.body if isinstance(node, ast.If))
    (home,) = (
        node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
    )
    assert getattr(lightning_classprune, name) is getattr(importlib.import_module(str(home)), name)


def test_all_of_it_can_be_imported_at_once() -> None:
    names: dict[str, object] = {}
    exec("from lightning_classprune import *", names)
    assert names.keys() - {"__builtins__"} == set(lightning_classprune.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lightning_classprune' has no attribute 'no_such'"):
        lightning_classprune.no_such  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'no_such'"):
        exec("from lightning_classprune import no_such")


def test_version_is_that_of_the_installation() -> None:
    assert lightning_classprune.__version__ == importlib.import_module("importlib.metadata").version(
        "lightning-classprune"
    )


def test_a_source_tree_that_nobody_installed_has_a_version(tmp_path: Path) -> None:
    code = f"import sys; sys.path = [{str(ROOT)!r}, *[p for p in sys.path if 'site-packages' not in p]]\n"
    code += (
        "sys.path = [p for p in sys.path if p.endswith(('.zip', 'lib-dynload')) or 'python3' in p or p == "
    )
    code += f"{str(ROOT)!r}]\nimport lightning_classprune; print(lightning_classprune.__version__)"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0+unknown", done.stderr


# -- the function `export` and the room `export` --


@pytest.mark.parametrize(
    "first",
    [
        "import lightning_classprune.export.card",
        "from lightning_classprune.export.checks import in_memory",
        "import lightning_classprune.export",
        "from lightning_classprune import export_onnx",
        "from lightning_classprune import export",
    ],
)
def test_export_is_the_function_whatever_was_imported_before(first: str) -> None:
    code = f"{first}\nfrom lightning_classprune import export, compact\nprint(type(export), type(compact))"
    assert fresh(code) == "<class 'function'> <class 'function'>"


def test_the_package_can_be_pickled_as_any_module() -> None:
    """Launchers pickle a script's functions with the modules that they mention."""
    assert pickle.loads(pickle.dumps(lightning_classprune)) is lightning_classprune
    assert cloudpickle.loads(cloudpickle.dumps(lightning_classprune)) is lightning_classprune


# -- modules under a name of their own --


@pytest.mark.parametrize(
    ("name", "module", "room"),
    [("report", figure, "ledger.figure"), ("statistics", statistics, "guard.statistics")],
)
@pytest.mark.parametrize("room_first", [False, True])
def test_one_module_under_two_names(name: str, module: ModuleType, room: str, room_first: bool) -> None:
    assert importlib.import_module(f"lightning_classprune.{name}") is module
    assert getattr(lightning_classprune, name) is module
    lines = [
        f"import lightning_classprune.{name} as one",
        f"import lightning_classprune.{room} as two",
        f"from lightning_classprune import {name} as three",
        f"import lightning_classprune; four = lightning_classprune.{name}",
    ]
    lines = lines[::-1] if room_first else lines
    check = "import importlib; print(one is two is three is four, importlib.reload(two) is two, two.__name__)"
    assert fresh("\n".join([*lines, check])) == f"True True lightning_classprune.{room}"


def test_their_contents_can_be_imported() -> None:
    code = "from lightning_classprune.statistics import exact_upper\nfrom lightning_classprune.report import figure\n"
    code += "print(exact_upper.__module__, figure.__module__)"
    assert fresh(code) == "lightning_classprune.guard.statistics lightning_classprune.ledger.figure"


def test_other_modules_do_not_exist() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"lightning_classprune\.no_such"):
        importlib.import_module("lightning_classprune.no_such")


# -- as others find the names: by pickle and by path --


def test_the_callback_can_be_pickled() -> None:
    """As `ddp_spawn` does."""
    callback = ClassAwarePruningCallback(2, {1: 0.1}, search=Fixed(fraction=0.3))
    again = pickle.loads(pickle.dumps(callback))
    assert type(again) is ClassAwarePruningCallback


def test_hydra_finds_them() -> None:
    code = "from hydra.utils import instantiate\n"
    code += "print(instantiate({'_target_': 'lightning_classprune.Fixed', 'fraction': 0.3}).fraction)"
    assert fresh(code) == "0.3"
    assert (
        instantiate({"_target_": "lightning_classprune.export", "_partial_": True}).func.__name__ == "export"
    )


def test_lightning_cli_finds_them() -> None:
    code = "from jsonargparse import ArgumentParser\nfrom lightning.pytorch import Callback\n"
    code += "parser = ArgumentParser(exit_on_error=False); parser.add_argument('--c', type=Callback)\n"
    code += "given = {'class_path': 'lightning_classprune.ClassAwarePruningCallback', 'init_args': "
    code += (
        "{'num_classes': 2, 'protect': {1: 0.1}, 'search': {'class_path': 'lightning_classprune.Fixed'}}}\n"
    )
    code += (
        "made = parser.instantiate_classes(parser.parse_object({'c': given})).c\nprint(type(made).__name__)"
    )
    assert fresh(code) == "ClassAwarePruningCallback"
