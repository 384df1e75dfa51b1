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

import lightning_classprune
from lightning_classprune import ClassAwarePruningCallback, Fixed
from lightning_classprune.guard import statistics
from lightning_classprune.ledger import figure
from tests.support import ROOT, forked

HEAVY = ("torch", "lightning", "scipy", "matplotlib", "numpy", "hydra")


def fresh(code: str) -> str:
    """What the code prints in a new interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def first(code: str) -> str:
    """What the code prints in an interpreter that has imported nothing of ours, and all that others wrote."""
    done = forked.run("-c", code, folder=ROOT)
    forked.check(done)
    return done.stdout.strip()


def loaded(code: str) -> set[str]:
    """The heavy packages that the code loads in a new interpreter."""
    return set(fresh(f"{code}\nimport sys\nprint(*sys.modules.keys() & {set(HEAVY)!r})").split())


def test_nothing_heavy_is_loaded() -> None:
    assert loaded("import lightning_classprune") == set()
    assert loaded("import lightning_classprune as l\nl.__version__, dir(l), hasattr(l, 'no_such')") == set()
    assert loaded("from lightning_classprune import files") == set()


def test_a_name_loads_what_it_needs() -> None:
    assert loaded("import lightning_classprune.statistics") == {"numpy", "scipy"}
    assert loaded("from lightning_classprune import ClassDependentLoss") == {"numpy", "torch"}


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
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "import lightning_classprune; print(lightning_classprune.__version__)"
    command = [sys.executable, "-I", "-S", "-c", code]  # without site-packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0+unknown\n", done.stderr


# -- the function `export` and the room `export` --


def test_loading_the_room_leaves_the_function_in_its_place() -> None:
    code = "import lightning_classprune.export.environment\nfrom lightning_classprune.export import environment\n"
    code += "from lightning_classprune import export\nprint(export.__module__, export.__name__)"
    assert first(code) == "lightning_classprune.export.export export"


def test_the_package_can_be_pickled_as_any_module() -> None:
    """Launchers pickle a script's functions with the modules that they mention."""
    assert pickle.loads(pickle.dumps(lightning_classprune)) is lightning_classprune
    assert cloudpickle.loads(cloudpickle.dumps(lightning_classprune)) is lightning_classprune


# -- modules under a name of their own --


@pytest.mark.parametrize(("name", "module"), [("report", figure), ("statistics", statistics)])
def test_modules_under_a_name_of_their_own(name: str, module: ModuleType) -> None:
    assert name in dir(lightning_classprune)
    assert getattr(lightning_classprune, name) is module
    assert importlib.import_module(f"lightning_classprune.{name}") is module
    assert importlib.reload(module) is module


@pytest.mark.parametrize("begin", ["name", "content", "room", "attribute"])
def test_one_module_under_two_names(begin: str) -> None:
    """Whichever is imported first."""
    forms = {
        "name": "import lightning_classprune.statistics as one",
        "content": "from lightning_classprune.statistics import exact_upper",
        "room": "import lightning_classprune.guard.statistics as two",
        "attribute": "from lightning_classprune import statistics as three",
    }
    lines = [forms.pop(begin), *forms.values()]
    check = "print(one is two is three, exact_upper is one.exact_upper, one.__name__)"
    assert first("\n".join([*lines, check])) == "True True lightning_classprune.guard.statistics"


def test_other_modules_do_not_exist() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"lightning_classprune\.no_such"):
        importlib.import_module("lightning_classprune.no_such")


# -- as others find the names: by pickle and by path --


def test_the_callback_can_be_pickled() -> None:
    """As `ddp_spawn` does."""
    callback = ClassAwarePruningCallback(2, {1: 0.1}, search=Fixed(fraction=0.3))
    again = pickle.loads(pickle.dumps(callback))
    assert type(again) is ClassAwarePruningCallback


def test_hydra_and_lightning_cli_find_them_by_path() -> None:
    assert first(BY_PATH).splitlines() == ["0.3", "ClassAwarePruningCallback"]


BY_PATH = """
from hydra.utils import instantiate
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

print(instantiate({"_target_": "lightning_classprune.Fixed", "fraction": 0.3}).fraction)
parser = ArgumentParser(exit_on_error=False)
parser.add_argument("--callback", type=Callback)
search = {"class_path": "lightning_classprune.Fixed"}
arguments = {"num_classes": 2, "protect": {1: 0.1}, "search": search}
given = {"class_path": "lightning_classprune.ClassAwarePruningCallback", "init_args": arguments}
made = parser.instantiate_classes(parser.parse_object({"callback": given}))
print(type(made.callback).__name__)
"""
