"""Every snippet of every document runs, links resolve, and figures and tables are those that the code gives."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lightning_classprune import (
    Adaptive,
    ClassAwarePruningCallback,
    Cut,
    Files,
    Fixed,
    FNTolerance,
    Guard,
)
from lightning_classprune.job import app
from lightning_classprune.rounds.settings import MOVED
from tests.support import ROOT
from tests.support.snippets import (
    CHEAP,
    TINY,
    Block,
    Section,
    check_benchmark,
    check_install,
    commands,
    run_section,
    sections,
)

GUIDE = ROOT / "lightning_classprune" / "guide"
PAGES = [
    ROOT / "README.md",
    *sorted(GUIDE.glob("*.md")),
    ROOT / "conf" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "lightning_classprune" / "README.md",
]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXT["README.md"]
ARGUMENTS = TEXT["lightning_classprune/guide/arguments.md"]


def is_slow(section: Section) -> bool:
    """Whether it starts processes of its own."""
    bash = [block.code for block in section.blocks if block.kind == "bash"]
    starts = any(re.search(r"^python [a-z]|resume=RUN_DIR", code, re.M) for code in bash)
    return starts or any("devices=2" in block.code for block in section.blocks)


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
        pytest.param(
            section, id=f"{page}: {section.title}", marks=pytest.mark.slow if is_slow(section) else ()
        )
        for page, text in TEXT.items()
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


# -- what the documents say --


def prose(text: str) -> str:
    """A document without its code blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.M | re.S)


def anchors(text: str) -> set[str]:
    """The places that a link can name, as GitHub makes them from headings."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a document to files and places that are not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"https?:", link):
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (place and place not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def table(text: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by what stands in backquotes in their first cell."""
    section = re.split(r"^#+ ", text, flags=re.M)
    (found,) = (part for part in section if part.split("\n", 1)[0] == heading)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines() if line[:3] == "| `"
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# One `two`, three\n[a](#one-two-three) [b](other.md) [c](#four) [d](https://x.org)\n"
    text += "```python\nx[0](1)\n```\n"
    page.write_text(text)
    assert broken_links(page, text) == ["other.md", "#four"]


@pytest.mark.parametrize("page", PAGES, ids=list(TEXT))
def test_links_resolve(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_the_readme_is_a_front_page_in_its_order() -> None:
    assert len(README.splitlines()) <= 220
    assert re.findall(r"^#+ .*$", prose(README), re.M) == [
        "# lightning-classprune",
        "## Two commands",
        "## Add it to your trainer",
        "## What a verdict means",
        "## Words",
        "## Where to go next",
    ]
    before, _ = README.split("## Two commands")
    (picture,) = re.findall(r"!\[[^\]]+\]\((.*\.png)\)", before)
    assert (ROOT / picture).stat().st_size <= 200_000


def test_the_readme_leads_to_every_page() -> None:
    _, last = README.split("## Where to go next")
    linked = set(re.findall(r"\]\(([^)#]+)\)", last))
    assert linked == set(TEXT) - {"README.md"}


def test_the_guide_is_a_folder_of_pages_only() -> None:
    assert {file.suffix for file in GUIDE.iterdir()} == {".md"}


def test_every_argument_is_described() -> None:
    parameters = inspect.signature(ClassAwarePruningCallback.__init__).parameters.values()
    known = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    described = table(ARGUMENTS, "Arguments")
    assert list(described) == known
    assert described["target_sparsity"][0] == "`0.99`"
    assert described["search"][0] == '`"fixed"`'


@pytest.mark.parametrize("options", [Fixed, Adaptive, Guard, Cut, Files, FNTolerance])
def test_every_field_is_described_with_its_default(options: type) -> None:
    described = table(ARGUMENTS, options.__name__)
    defaults = {f.name: f.default for f in fields(options)}
    assert described.keys() == defaults.keys()
    for name, default in defaults.items():
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        assert described[name][0] == f"`{shown}`", name


def test_every_moved_argument_is_told() -> None:
    told = table(ARGUMENTS, "Where did my argument go")
    assert {name: row[0].strip("`") for name, row in told.items()} == MOVED


def test_every_config_group_and_choice_is_described() -> None:
    described = table(TEXT["conf/README.md"], "The groups")
    groups = {p.name: p for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "plugin"}
    assert described.keys() == groups.keys()
    for name, folder in groups.items():
        choices = {file.stem for file in folder.glob("*.yaml")}
        assert set(re.findall(r"`(\w+)`", described[name][0])) == choices, name


def test_every_benchmark_and_result_is_described() -> None:
    folder, text = ROOT / "benchmarks", TEXT["benchmarks/README.md"]
    scripts = [file for file in folder.rglob("*.py") if '== "__main__"' in file.read_text(encoding="utf-8")]
    packages = [file.parent for file in folder.rglob("__main__.py")]
    results = [file for file in (folder / "results").glob("*.*") if file.suffix != ".json"]
    for file in [*scripts, *packages, *results]:
        if file.name != "__main__.py":
            assert f"{file.relative_to(folder).as_posix()}{'/' * file.is_dir()}" in text, file.name


def test_every_room_is_described() -> None:
    package = ROOT / "lightning_classprune"
    rooms = {p.parent.name for p in package.glob("*/__init__.py")}
    assert set(table(TEXT["lightning_classprune/README.md"], "The rooms")) >= rooms


def test_files_that_the_documents_name_are_there() -> None:
    for name, text in TEXT.items():
        named = re.findall(r"`((?:lightning_classprune|conf|tests|benchmarks)/[\w/.]+\.\w+)`", text)
        missing = [path for path in named if not (ROOT / path).exists()]
        assert not missing, (name, missing)


def test_positives_table_is_what_the_benchmark_prints() -> None:
    spec = importlib.util.spec_from_file_location("positives", ROOT / "benchmarks" / "positives_needed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in TEXT["lightning_classprune/guide/statistics.md"]


def test_ci_calls_the_readme_command() -> None:
    blocks = [block.code for section in sections(README) for block in section.blocks if block.kind == "bash"]
    command = next(code.strip() for code in blocks if "pytest" in code)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
