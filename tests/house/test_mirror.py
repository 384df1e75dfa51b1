"""Tests mirror the rooms: each module is imported by a test that one finds where the module is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "lightning_classprune"
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix()
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and "_hydra" not in path.parts
)


def imported(test: Path) -> set[str]:
    """The names that a file imports, those of modules among them."""
    names = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_tested(module: str, tests: Path) -> bool:
    """Whether a test in the folder that mirrors the module's, or in integration/, imports the module itself."""
    folder, _, _ = module.rpartition("/")
    files = [*(tests / folder).glob("test_*.py"), *(tests / "integration").glob("test_*.py")]
    return any(f"lightning_classprune.{module.replace('/', '.')}" in imported(file) for file in files)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_a_test_where_one_looks_for_it(module: str) -> None:
    assert is_tested(module, ROOT / "tests"), f"no test in tests/{module.rpartition('/')[0]} imports {module}"


def test_folders_of_tests_are_rooms() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    others = {"", "house", "integration", "benchmarks"}
    rooms = {module.rpartition("/")[0] for module in MODULES}
    assert {f.as_posix() for f in folders if f.parts[:1] != ("benchmarks",)} - {"."} <= rooms | others


@pytest.mark.parametrize(
    ("file", "code", "found"),
    [
        ("guard/test_x.py", "from lightning_classprune.guard.task import Task", True),
        ("guard/test_x.py", "from lightning_classprune.guard import task as t", True),
        ("integration/test_x.py", "import lightning_classprune.guard.task", True),
        ("guard/test_x.py", "def f():\n    import lightning_classprune.guard.task", True),
        ("guard/test_x.py", "from lightning_classprune import Guard", False),
        ("guard/test_x.py", "import lightning_classprune.guard.tasks", False),
        ("guard/helper.py", "import lightning_classprune.guard.task", False),
        ("rounds/test_x.py", "import lightning_classprune.guard.task", False),
    ],
)
def test_what_counts_as_a_test_of_a_module(file: str, code: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(code)
    assert is_tested("guard/task", tmp_path) is found
