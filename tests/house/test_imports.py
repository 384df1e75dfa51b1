"""Imports run one way: who may import whom, no circles, and rooms that say what they are for."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

NAME = "lightning_classprune"
PACKAGE = ROOT / NAME
# A room imports itself and the lines above its own; what stands on one line does not import each other.
ORDER = (
    {"trainer"},
    {"guard", "pruning"},
    {"ledger"},
    {"tickets"},
    {"rounds", "export"},
    {"callback"},
    {"live", "job"},
    {"__main__"},
)
LINE = {room: line for line, rooms in enumerate(ORDER) for room in rooms}
FREE = {"files", "losses"}  # import no room; everyone may import them
AT_THE_DOOR = {"job", "__main__"}  # may import the package itself, which everything else stands behind
ROOMS = ("trainer", "guard", "pruning", "ledger", "tickets", "rounds", "export", "job")
ENTRY_POINTS = {
    "__init__.py",
    "job/command.py",
    "job/export_app.py",
    "job/judge_app.py",
    "job/power_app.py",
    "job/report/report_app.py",
    "job/sweep/sweep_app.py",
}
EXTRAS = {"elpv_dataset", "onnx", "onnxruntime", "onnxscript", "pandas", "sklearn", "torch_pruning"}
FOLDERS = [*ROOMS, "job/data", "job/objects", "job/report", "job/sweep"]


def imports(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import wherever it stands, and whether only type checkers see it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing_only
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.body, []), True)
            yield from imports(ast.Module(node.orelse, []), typing_only)
        else:
            yield from imports(node, typing_only)


@cache  # of a copy of the house, all but one file are known
def imports_of(code: str) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    return list(imports(ast.parse(code)))


def faults(package: Path) -> list[str]:
    """What is wrong with the imports of the package in that folder."""
    paths = {".".join(p.relative_to(package).with_suffix("").parts): p for p in package.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items() if "_hydra" not in name}
    found, graph = [], {}
    for importer, path in modules.items():
        here = importer.split(".")[0]
        graph[importer] = needed = set()
        for node, typing_only in imports_of(path.read_text(encoding="utf-8")):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif node.level:
                found.append(f"{importer}: a relative import, line {node.lineno}")
                continue
            else:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [t if t.removeprefix(f"{NAME}.") in modules else str(node.module) for t in inside]
            for target in targets:
                if target != NAME and not target.startswith(f"{NAME}."):
                    continue
                target = target.removeprefix(NAME).removeprefix(".") or "__init__"
                there = target.split(".")[0]
                if not typing_only:
                    needed.add(target)
                if here == "__init__" or (here == there and here not in FREE):
                    continue
                if there == "__init__":
                    right = here in AT_THE_DOOR
                elif there in FREE:
                    right = here not in FREE
                else:
                    right = LINE.get(there, len(ORDER)) < LINE.get(here, -1)
                    right &= there != "job" or here == "__main__"
                if not right:
                    found.append(f"{importer} imports {target}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("circle: " + " <- ".join(error.args[1]))
    return found


def test_imports_run_one_way() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("trainer/loaders.py", "from lightning_classprune.pruning.masks import Masks", "pruning.masks"),
        ("guard/verdict.py", "from lightning_classprune.pruning import masks", "pruning.masks"),
        ("pruning/masks.py", "import lightning_classprune.guard.verdict as v", "guard.verdict"),
        ("pruning/masks.py", "import math, lightning_classprune.ledger.rows", "ledger.rows"),
        ("ledger/rows.py", "from lightning_classprune.tickets import packing", "tickets.packing"),
        ("tickets/packing.py", "def f():\n    from lightning_classprune.rounds.run import x", "rounds.run"),
        ("export/card.py", "if True:\n    from lightning_classprune.rounds.plan import x", "rounds.plan"),
        ("rounds/plan.py", "from lightning_classprune.export.card import x", "export.card"),
        ("rounds/plan.py", "from lightning_classprune.callback import x", "callback"),
        ("callback.py", "from lightning_classprune.live import LiveView", "live"),
        ("callback.py", "from lightning_classprune.job import app", "job.app"),
        ("live.py", "try:\n    from lightning_classprune.job.app import run\nfinally: pass", "job.app"),
        ("job/app.py", "from lightning_classprune import live", "live"),
        ("files.py", "from lightning_classprune import losses", "losses"),
        ("losses.py", "from lightning_classprune.trainer import horizon", "trainer.horizon"),
        ("guard/task.py", "from lightning_classprune import Guard", "__init__"),
        ("guard/task.py", "from lightning_classprune import no_such_room", "__init__"),
        (
            "guard/task.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_classprune.job import app",
            "job.app",
        ),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, fault: str, tmp_path: Path) -> None:
    planted(tmp_path, {file: line})
    module = file.removesuffix(".py").replace("/", ".")
    assert f"{module} imports {fault}" in faults(tmp_path / NAME)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from lightning_classprune.guard.b import x", "from lightning_classprune.guard.a import y"),
        ("from lightning_classprune.guard import b", "def f():\n    import lightning_classprune.guard.a"),
    ],
)
def test_a_circle_is_found(first: str, second: str, tmp_path: Path) -> None:
    planted(tmp_path, {"guard/a.py": first, "guard/b.py": second})
    (fault,) = faults(tmp_path / NAME)
    assert fault in {"circle: guard.a <- guard.b <- guard.a", "circle: guard.b <- guard.a <- guard.b"}


def test_a_module_that_needs_itself_is_found(tmp_path: Path) -> None:
    planted(tmp_path, {"guard/a.py": "from lightning_classprune.guard.a import x"})
    assert faults(tmp_path / NAME) == ["circle: guard.a <- guard.a"]


def test_a_relative_import_is_found(tmp_path: Path) -> None:
    planted(tmp_path, {"guard/a.py": "from . import b", "guard/b.py": "\nfrom ..rounds import run"})
    assert set(faults(tmp_path / NAME)) == {
        "guard.a: a relative import, line 1",
        "guard.b: a relative import, line 2",
    }


def test_what_is_allowed_is_no_fault(tmp_path: Path) -> None:
    """Types may be needed both ways within a room, another package's name may begin with ours."""
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning_classprune.guard.b import x\n"
    free = "else:\n    import lightning_classprune_extra\nfrom lightning_classprune import files, losses"
    second = "import lightning_classprune.guard.a, lightning_classprune.trainer.horizon"
    planted(tmp_path, {"guard/a.py": typing + free, "guard/b.py": second})
    assert faults(tmp_path / NAME) == []


def test_a_room_without_a_place_is_found(tmp_path: Path) -> None:
    planted(tmp_path, {"cellar/a.py": "from lightning_classprune.trainer import horizon"})
    assert faults(tmp_path / NAME) == ["cellar.a imports trainer.horizon"]


def planted(folder: Path, files: dict[str, str]) -> None:
    """Copy the package's code there and add lines to the files, which need not exist."""
    shutil.copytree(
        PACKAGE, folder / NAME, ignore=shutil.ignore_patterns("__pycache__", "guide", "templates")
    )
    for name, code in files.items():
        (folder / NAME / name).parent.mkdir(exist_ok=True)
        with (folder / NAME / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{code}\n" if file.tell() else f"{code}\n")


def test_functions_import_nothing_but_optional_packages() -> None:
    """Only entry points wait until they know what is asked of them."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for node, _ in imports(function):
                    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                    found |= {(name, str(module).split(".")[0]) for module in modules}
    assert {name for name, module in found if module not in EXTRAS} == ENTRY_POINTS


# -- the house --


def test_the_top_holds_doors_and_rooms_only() -> None:
    doors = {"__init__.py", "__main__.py", "callback.py", "live.py", "losses.py", "files.py", "py.typed"}
    there = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert there == {*doors, *ROOMS, "README.md", "guide"}
    assert {path.suffix for path in (PACKAGE / "guide").iterdir()} == {".md"}


def test_every_folder_of_code_is_a_room() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert folders - {".", "job/_hydra/hydra_plugins"} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_room_says_what_belongs_there_and_nothing_else(folder: str) -> None:
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    text = ast.get_docstring(tree) or ""
    assert "\nHere: " in text
    assert "\nNot here: " in text
    assert 4 <= len(text.splitlines()) <= 8
