"""`py.typed` is true: a type checker that sees the installed package alone checks what users write against it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.job

GOOD = """
import torch
from lightning.pytorch import Trainer

from lightning_classprune import (
    Adaptive,
    ClassAwarePruningCallback,
    ClassDependentLoss,
    Cut,
    FNTolerance,
    Files,
    Fixed,
    Guard,
    load_ticket,
    report,
    statistics,
)
from lightning_classprune.ledger.rows import Row

callback = ClassAwarePruningCallback(
    2,
    {"crack": FNTolerance(rate=0.05), 0: 0.1},
    class_names=["fine", "crack"],
    target_sparsity=0.9,
    search=Fixed(fraction=0.3, retries=1, on_refusal="retry"),
    guard=Guard(confidence=0.9),
    cut=Cut(criterion="magnitude", scope="global"),
    files=Files(ladder="tickets"),
    threshold=0.0,
)
other = ClassAwarePruningCallback(3, {1: 0.1}, search=Adaptive(max_rounds=3))
short = ClassAwarePruningCallback(3, {1: 0.1}, search="adaptive")
trainer = Trainer(callbacks=[callback])


def misses(rows: list[Row]) -> dict[str, int]:
    return {name: counts["fn"] for row in rows for name, counts in row["classes"].items()}


total: dict[str, int] = misses(callback.ledger)
kept: torch.Tensor = callback.masks["net.weight"]
card = load_ticket("tickets", torch.nn.Linear(2, 2), min_recall=0.9)
loss: torch.Tensor = ClassDependentLoss([90, 10], protect=[1])(torch.zeros(4, 2), torch.ones(4, dtype=torch.long))
report.figure(callback.ledger).savefig("ledger.png")
bound: float | None = statistics.exact_upper(1, 0, 50, 0.05)
"""
# Each line that ends in a comment is an error with that code; no other is.
BAD = """
import lightning_classprune
from lightning_classprune import ClassAwarePruningCallback, ClassDependentLoss, Fixed, Guard, load_ticket
from lightning_classprune import NoSuchName  # attr-defined
from torch import nn

ClassAwarePruningCallback(2)  # call-arg
ClassAwarePruningCallback(2, {1: 0.1}, prune_fraction=0.3)  # arg-type
ClassAwarePruningCallback(2, {1: 0.1}, search="thorough")  # arg-type
ClassAwarePruningCallback(2, {1: 0.1}, guard=Fixed())  # arg-type
Fixed(fraction="a third")  # arg-type
Guard(certainty=0.9)  # call-arg
callback = ClassAwarePruningCallback(2, {1: 0.1})
callback.ledger[0]["sparseness"]  # typeddict-item
callback.ledger[0]["classes"]["crack"]["misses"]  # typeddict-item
callback.ledger[0]["round"].upper()  # attr-defined
callback.masks["net.weight"].nonsense  # attr-defined
callback.masks = {}  # misc
load_ticket("tickets")  # call-arg
load_ticket("tickets", nn.Linear(2, 2), max_bytes="1 MB")  # arg-type
ClassDependentLoss([90, 10], protect="crack")  # arg-type
lightning_classprune.no_such  # attr-defined
"""
MYPY = (sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--show-error-codes")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter beside ours that has our wheel installed, and otherwise what ours has."""
    folder = tmp_path_factory.mktemp("typed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv").glob("[Ll]ib/**/site-packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    # Named here, the folder's own .pth files do not count: an editable install of ours stays out of sight.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return next(folder.glob("venv/*/python"))


def mypy(python: Path, folder: Path, *arguments: str, **files: str) -> str:
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code)
        arguments += ("-m", name)
    command = [*MYPY, "--python-executable", str(python), "--cache-dir", os.devnull, *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert not done.stderr
    return done.stdout


def test_the_installed_package_and_users_code_are_checked(python: Path, tmp_path: Path) -> None:
    """All of the package by the settings of the repository, in one run that reads torch once."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "-p", "lightning_classprune")
    said = mypy(python, tmp_path, *settings, good=GOOD, bad=BAD)
    errors = re.findall(r"^(.*)\.py:(\d+): error: .*\[([\w-]+)\]$", said, re.M)
    expected = [
        ("bad", str(number), line.rpartition("# ")[2])
        for number, line in enumerate(BAD.splitlines(), start=1)
        if "  # " in line
    ]
    assert errors == expected, said
    checked = int(said.rpartition("checked ")[2].split()[0])
    assert checked >= len(list((ROOT / "lightning_classprune").rglob("*.py")))


def test_without_its_marker_nothing_would_be_checked(python: Path, tmp_path: Path) -> None:
    """So it is the installed package that is read, and the marker in it that counts."""
    site = tmp_path / "site"
    shutil.copytree(python.parents[1], site, symlinks=True)
    for marker in site.rglob("lightning_classprune/py.typed"):
        marker.unlink()
    said = mypy(
        site / python.parent.name / python.name,
        tmp_path,
        "--config-file=",
        user="from lightning_classprune import Guard\n",
    )
    assert "module is installed, but missing library stubs or py.typed marker  [import-untyped]" in said
