"""Every snippet of the README runs, and its figures are those that the code gives."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.job import app
from tests.support.snippets import (
    CHEAP,
    ROOT,
    TINY,
    Block,
    Section,
    check_install,
    commands,
    run_section,
    sections,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = sections(README)


def is_slow(section: Section) -> bool:
    """Whether it starts processes of its own."""
    return any(
        "devices=2" in b.code or re.search(r"^(python|classprune-)", b.code, re.M) for b in section.blocks
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished job, the first of a sweep, for snippets that read one."""
    folder = tmp_path_factory.mktemp("sweep") / "0"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*TINY, CHEAP, "trainer.max_epochs=3", f"run_dir={folder}"])
    app.run(cfg)
    return folder


@pytest.mark.parametrize(
    "section",
    [pytest.param(s, id=s.title, marks=pytest.mark.job if is_slow(s) else ()) for s in SECTIONS],
)
def test_the_snippets_of_each_section_run(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_TRAINER_ACCELERATOR", "cpu")
    monkeypatch.setattr(sys, "argv", ["README"])  # LightningCLI warns of arguments that are not its own
    names = run_section(section, tmp_path, lambda: request.getfixturevalue("finished"))
    pruning = names.get("pruning")
    if pruning is not None:
        assert isinstance(pruning, ClassAwarePruningCallback)
        assert pruning.ledger[0]["verdict"] == "baseline"


# -- the reader of snippets itself --


def test_blocks_are_read_by_section() -> None:
    text = "# A\n```python\nx = 1\n```\ntext\n## B\n```bash\n# no heading\nls  # what\n```\n## C\n"
    assert sections(text) == [
        Section("A", [Block("python", "x = 1\n")]),
        Section("B", [Block("bash", "# no heading\nls  # what\n")]),
    ]
    assert commands("# no command\na 'b c' && d  # e\nf \\\n  g\n") == [["a", "b c"], ["d"], ["f", "g"]]
    assert Block("yaml", "# a/b.yaml\nx: 1\n").file == "a/b.yaml"
    assert Block("yaml", "# a comment\nx: 1\n").file is None


def test_a_block_that_nothing_runs_is_an_error() -> None:
    for text, why in (("```toml\nx = 1\n```\n", "'toml' is not run"), ("```python\nx\n", "not closed")):
        with pytest.raises(ValueError, match=why):
            sections(text)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("python", "1 / 0\n"),
        ("python", "model.net(train_loader)\n"),
        ("python", "1 + 1  # -> 3\n"),
        ("python", "# unused.py\nx = 1\n"),
        ("python", "# broken.py\nx =\n"),
        ("bash", "make everything\n"),
        ("bash", 'pip install "lightning-classprune[nothing]"\n'),
        ("bash", "pip install another-project\n"),
        ("bash", "classprune data=no_such_data\n"),
        ("bash", "classprune callbacks.classprune.no_such_argument=1\n"),
        ("bash", "classprune -m seed=1\n"),
        ("bash", "python no_such_file.py\n"),
        ("yaml", "trainer: {callbacks: [{class_path: lightning_classprune.NoSuchCallback}]}\n"),
        ("", "pip install something\n"),
        ("text", "    import something\n"),
    ],
)
def test_a_snippet_that_does_not_work_fails(
    kind: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit)):
        run_section(Section("broken", [Block(kind, code)]), tmp_path, lambda: tmp_path)


def test_what_works_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [Block("python", "x = 1 + 1\n"), Block("python", "x  # -> 2\n"), Block("", "a --> b\n")]
    assert run_section(Section("fine", blocks), tmp_path, lambda: tmp_path)["x"] == 2
    check_install(["-e", ".[elpv]"])
    check_install(["lightning-classprune[notebook,elpv]"])


def test_snippets_may_read_a_finished_job(tmp_path: Path, finished: Path) -> None:
    code = "from lightning_classprune import ledger\nlen(ledger.read_jsonl('RUN_DIR/ledger.jsonl'))  # -> 2\n"
    code += "import os\n'0' in os.listdir('SWEEP_DIR')  # -> True\n"
    run_section(Section("reads", [Block("python", code)]), tmp_path, lambda: finished)


# -- what the README says --


def test_positives_table_is_what_the_benchmark_prints() -> None:
    spec = importlib.util.spec_from_file_location("positives", ROOT / "benchmarks" / "positives_needed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in README


def test_every_argument_and_config_group_is_described() -> None:
    import inspect

    for name in list(inspect.signature(ClassAwarePruningCallback.__init__).parameters)[1:]:
        assert f"`{name}`" in README, name
    for group in (p for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "plugin"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group.name}` |"))
        for choice in group.glob("*.yaml"):
            assert re.search(rf"\b{choice.stem}\b", row), (group.name, choice.stem)


def test_ci_calls_the_readme_command() -> None:
    blocks = [block.code for section in SECTIONS for block in section.blocks if block.kind == "bash"]
    command = next(code.strip() for code in blocks if "pytest" in code)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
