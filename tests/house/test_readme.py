"""Every snippet of every document runs as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.job import app
from tests.support import ROOT
from tests.support.snippets import (
    CHEAP,
    TINY,
    Block,
    Section,
    check_benchmark,
    check_install,
    commands,
    pages,
    run_section,
    sections,
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
    [
        pytest.param(section, id=f"{page}: {section.title}")
        for page, text in pages().items()
        for section in sections(text)
    ],
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
        ("python", "model\n"),
        ("python", "train_loader\n"),
        ("python", "torch\n"),
        ("python", "from my_project import model\n"),
        ("python", "1 + 1  # -> 3\n"),
        ("python", "# unused.py\nx = 1\n"),
        ("python", "# broken.py\nx =\n"),
        ("bash", "make everything\n"),
        ("bash", 'pip install "lightning-classprune[nothing]"\n'),
        ("bash", "pip install another-project\n"),
        ("bash", "classprune data=no_such_data\n"),
        ("bash", "classprune callbacks.classprune.no_such_argument=1\n"),
        ("bash", "classprune -m seed=1\n"),
        ("bash", "classprune-report no_such_folder\n"),
        ("bash", "classprune-judge no_such_folder\n"),
        ("bash", "classprune-power --positives none\n"),
        ("bash", "python no_such_file.py\n"),
        ("bash", "python -m benchmarks.no_such_file\n"),
        ("bash", "python -m benchmarks.overhead --no-such-option\n"),
        ("bash", "python -m benchmarks.paper arm=no_such_arm\n"),
        ("bash", "pytest tests/no_such_folder\n"),
        ("yaml", "trainer: {callbacks: [{class_path: lightning_classprune.NoSuchCallback}]}\n"),
        ("yaml", "_target_: lightning_classprune.NoSuchCallback\n"),
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
    check_benchmark("benchmarks.overhead", "--repeats", "15")
    check_benchmark("benchmarks.paper", "arm=blind,weighted", "scheduler=cosine")


def test_the_readers_module_is_there_and_forgotten_afterwards(tmp_path: Path) -> None:
    block = Block("python", "from my_project import MyData, MyModule, guard_loader\nmodel = MyModule()\n")
    assert "model" in run_section(Section("imports", [block]), tmp_path, lambda: tmp_path)
    assert "my_project" not in sys.modules
    assert str(tmp_path) not in sys.path


def test_snippets_may_read_a_finished_job(tmp_path: Path, finished: Path) -> None:
    code = "from lightning_classprune.ledger.text import read_jsonl\n"
    code += "len(read_jsonl('RUN_DIR/ledger.jsonl'))  # -> 2\n"
    code += "import os\n'0' in os.listdir('SWEEP_DIR')  # -> True\n"
    run_section(Section("reads", [Block("python", code)]), tmp_path, lambda: finished)
