"""Reads a Markdown file and runs its code blocks, section by section.

The blocks of a section (what stands under one heading) run in order, in one folder and one namespace, which is empty
at first: a reader can paste a section as it is. `my_project` stands for the reader's own module; see `readme_names.py`.

| block | what happens |
|---|---|
| `python` | runs; a line that ends in `# -> value` must have that value |
| `python` with `devices=2` | runs as a script of its own, in two processes |
| `python`, `yaml` with `# some/file.py` as the first line | is that file |
| `yaml` without a file name that has a `_target_` | is a node of a Hydra configuration: instantiated |
| `yaml` without a file name that has a `trainer` | is a part of a LightningCLI configuration: fits |
| `bash` | each line is a command; see `run_line` |
| `text`, or no language | is not code: it must not look like a command or an import |

RUN_DIR stands for the folder of a finished job, SWEEP_DIR for the folder above it. A block of any other kind is an
error, and so is a command that no rule knows.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from packaging.requirements import Requirement

from lightning_classprune.job.command import open_protect
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger import logged_figure
from lightning_classprune.ledger.figure import figure
from lightning_classprune.ledger.rows import Row
from tests.support import ROOT, forked

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its equal
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KINDS = ("python", "bash", "yaml", "text", "")
# Job of seconds on data that need no download; what the README says comes after it and wins.
TINY = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "search=fixed",
    "search.max_rounds=1",
]
CHEAP = "data=breast_cancer"
# Given when called, so that snippets need not say it.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "lightning_classprune" / "job" / "_hydra"])),
    "PL_TRAINER_ACCELERATOR": "cpu",
    "PL_TRAINER_LOGGER": "False",  # whose pictures take longer than the training
}


@dataclass(frozen=True)
class Block:
    """One code block."""

    kind: str
    code: str

    @property
    def file(self) -> str | None:
        """The file that the block is, if its first line names one."""
        named = re.match(r"# ([\w/]+\.(?:py|yaml))\n", self.code)
        return named[1] if named else None


@dataclass
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def pages() -> dict[str, str]:
    """The documents whose snippets run, by their path in the repository."""
    guide = sorted((ROOT / "lightning_classprune" / "guide").glob("*.md"))
    readmes = [ROOT / folder / "README.md" for folder in ("", "conf", "benchmarks", "lightning_classprune")]
    return {
        page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in [*readmes, *guide]
    }


def sections(markdown: str) -> list[Section]:
    """The sections that have blocks.

    Raises:
        ValueError: A block is of a kind that is not run, or not closed.
    """
    found, kind, lines = [Section("")], None, []
    for line in markdown.splitlines():
        fence = re.match(r"\s*```(.*)", line)
        if kind is None and fence:
            kind, lines = fence[1].strip(), []
            if kind not in KINDS:
                raise ValueError(f"a block of kind {kind!r} is not run; known are {KINDS}")
        elif kind is not None and fence:
            found[-1].blocks.append(Block(kind, "".join(f"{one}\n" for one in lines)))
            kind = None
        elif kind is not None:
            lines.append(line)
        elif line.startswith("#"):
            found.append(Section(line.strip("# ")))
    if kind is not None:
        raise ValueError(f"the last block of {found[-1].title!r} is not closed")
    return [section for section in found if section.blocks]


def run_section(section: Section, folder: Path, example: Callable[[], Path]) -> dict[str, Any]:
    """Run the blocks of a section; returns the namespace of its Python blocks.

    Args:
        section: What to run.
        folder: Where; it should be the working folder too.
        example: Gives the run folder of a finished job.
    """
    (folder / "my_project.py").write_text("from tests.support.readme_names import *\n")
    names: dict[str, Any] = {"__name__": "__main__"}
    with _importable(folder), patch.object(logged_figure, "figure", FirstPicture()):
        _run_blocks(section, folder, example, names)
    files = [block for block in section.blocks if block.file]
    used = any(block.kind == "bash" for block in section.blocks)
    assert used or not files, f"{section.title}: no command uses {[block.file for block in files]}"
    return names


class FirstPicture:
    """Gives loggers the picture of a section's first row after every later one too: half a second each to draw."""

    def __init__(self) -> None:
        self.png = b""

    def __call__(self, rows: Sequence[Row]) -> FirstPicture:
        self.png = self.png or figure(rows)._repr_png_()
        return self

    def _repr_png_(self) -> bytes:
        return self.png


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, the modules of the folder can be imported; afterwards they are forgotten."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]


def _run_blocks(section: Section, folder: Path, example: Callable[[], Path], names: dict[str, Any]) -> None:
    for block in section.blocks:
        block = filled_in(block, example)
        if block.kind in ("text", ""):
            assert not re.search(r"^\s*(import|from|pip|python|classprune\S*) ", block.code, re.M), block.code
        elif block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.code)
            if block.kind == "python":
                compile(block.code, block.file, "exec")
        elif block.kind == "python":
            run_python(block.code, names, folder)
        elif block.kind == "yaml":
            run_yaml(block.code, folder)
        else:
            for line in commands(block.code):
                run_line(line, folder)


def filled_in(block: Block, example: Callable[[], Path]) -> Block:
    """The block with real folders; the example is made only for a block that needs it."""
    if "RUN_DIR" not in block.code and "SWEEP_DIR" not in block.code:
        return block
    run = example()
    code = block.code.replace("RUN_DIR", str(run)).replace("SWEEP_DIR", str(run.parent))
    return replace(block, code=code)


def run_python(code: str, names: dict[str, Any], folder: Path) -> None:
    """Run a block; in processes of its own if it asks for two."""
    if "devices=2" in code:
        (folder / "script.py").write_text(code)
        forked.check(*forked.run_twice("script.py", folder=folder, environment=ENVIRONMENT))
        return
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        assert statement.end_lineno is not None
        said = re.search(r"# -> (.*)$", lines[statement.end_lineno - 1])
        if said and isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), "<README>", "eval"), names)
            assert repr(value) == said[1], (lines[statement.lineno - 1], value)
        else:
            exec(compile(ast.Module([statement], []), "<README>", "exec"), names)


def run_yaml(code: str, folder: Path) -> None:
    """Instantiate a node as Hydra does; or fit what a part of a LightningCLI configuration describes."""
    config = yaml.safe_load(code)
    if "_target_" in config:
        instantiate(config)
        return
    from lightning.pytorch.cli import LightningCLI

    from tests.support.readme_names import MyData, MyModule

    config["trainer"].setdefault("max_epochs", 1)
    (folder / "part.yaml").write_text(yaml.safe_dump(config))
    LightningCLI(MyModule, MyData, args=["fit", "--config", str(folder / "part.yaml")])


def commands(code: str) -> list[list[str]]:
    """The commands of a block, split into words, without comments; `a && b` is two."""
    lines = code.replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [w for w in words if w]


def run_line(words: list[str], folder: Path) -> None:
    """Run one command, or check as much of it as can be checked without the network or an hour.

    * `pip install`: of this project, with extras that it has.
    * `pytest`, `ruff`, `mypy`: the tests that are running are the proof; what they are to look at is there.
    * `classprune`: its configuration is composed, for every job of a sweep; the first job on small data also runs.
    * `classprune-judge`: wants an interrupted job, which `tests/job/test_judge_app.py` has; its folder is there.
    * another command of this project: runs.
    * `python -m benchmarks.name`: takes minutes to hours, so it is there and knows the options.
    * `python file`: runs in the section's folder.
    """
    name, *arguments = words
    if words[:2] == ["pip", "install"]:
        check_install(arguments[1:])
    elif name in ("pytest", "ruff", "mypy"):
        missing = [a for a in arguments if "/" in a and not (ROOT / a).exists()]
        assert not missing, f"{missing} are not there"
    elif name == "classprune":
        run_job(arguments, folder)
    elif name == "classprune-judge":
        RunFolder.open(*arguments)
    elif name in PROJECT["scripts"]:
        module, function = PROJECT["scripts"][name].split(":")
        status = getattr(importlib.import_module(module), function)(arguments)
        assert not status, f"{shlex.join(words)} gave {status}"
    elif name == "python" and arguments[0] == "-m" and arguments[1].startswith("benchmarks."):
        check_benchmark(*arguments[1:])
    elif name == "python":
        check(*arguments, folder=folder)
    else:
        raise ValueError(f"no rule runs the command {shlex.join(words)!r}")


def check_benchmark(module: str, *arguments: str) -> None:
    """A benchmark is there, its options stand in its source, and the choices of groups in the configurations."""
    path = ROOT.joinpath(*module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    folder = path if path.is_dir() else path.parent
    files = [path.with_suffix(".py")] if folder.name == "benchmarks" else folder.glob("*.py")
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    if "from benchmarks.search.runs import" in source:  # where several take their command line from
        source += (ROOT / "benchmarks" / "search" / "runs.py").read_text(encoding="utf-8")
    for argument in arguments:
        if argument.startswith("--"):
            assert f'"{argument}"' in source, f"{module} has no option {argument}"
        group, _, choices = argument.partition("=")
        groups = [root / group for root in (folder / "conf", ROOT / "conf") if (root / group).is_dir()]
        for choice in choices.split(",") if groups else ():
            assert any((each / f"{choice}.yaml").is_file() for each in groups), f"{group} has no {choice}"


def check_install(arguments: list[str]) -> None:
    """Whatever is installed is this project, from its folder or by its name, with extras that it has."""
    targets = [argument for argument in arguments if not argument.startswith("-")]
    assert targets
    for target in targets:
        requirement = Requirement(PROJECT["name"] + target[1:] if target.startswith(".") else target)
        assert requirement.name == PROJECT["name"], target
        assert requirement.extras <= PROJECT["optional-dependencies"].keys(), target


def run_job(arguments: list[str], folder: Path) -> None:
    """Compose what `classprune` would run, and run the first job if it is a small one; a resumed one always."""
    if arguments and arguments[0].startswith("resume="):
        check("-m", "lightning_classprune", *arguments, folder=folder)
        return
    arguments = with_folder(arguments, folder)
    overrides = [open_protect(a.replace("…", "x")) for a in arguments if a not in ("-m", "--multirun")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    sweeps = len(jobs) > 1 or any(a.startswith("hparams_search=") for a in overrides)
    assert sweeps or len(overrides) == len(arguments), f"-m without anything to sweep over: {arguments}"
    for job in jobs:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            assert compose("config", job).callbacks
    if CHEAP in overrides:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", [*TINY, *jobs[0], f"run_dir={folder / 'run'}", "trainer.max_epochs=1"])
        from lightning_classprune.job import app

        app.run(cfg)


def with_folder(arguments: list[str], folder: Path) -> list[str]:
    """Arguments with `--config-dir DIR` as an override that says the same."""
    if arguments[:1] != ["--config-dir"]:
        return arguments
    own = folder / arguments[1]
    assert own.is_dir(), f"{own} is not there"
    return [*arguments[2:], f"hydra.searchpath=[file://{own}]"]


def check(*words: str, folder: Path) -> None:
    """Run `python WORDS`, which must succeed."""
    forked.check(forked.run(*words, folder=folder, environment=ENVIRONMENT))
