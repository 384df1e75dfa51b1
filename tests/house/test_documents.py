"""What the documents say is what the code has: arguments, choices, tables, links, and the front page's form."""

from __future__ import annotations

import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from lightning_classprune import (
    Adaptive,
    ClassAwarePruningCallback,
    Cut,
    Files,
    Fixed,
    FNTolerance,
    Gradual,
    Guard,
    chance_at_setup,
)
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.ledger.rows import ClassCounts, Row, round_metrics
from lightning_classprune.ledger.text import STYLES
from lightning_classprune.rounds.settings import MOVED
from tests.support import ROOT
from tests.support.snippets import pages, sections

TEXT = pages()
README = TEXT["README.md"]
VERDICTS = TEXT["lightning_classprune/guide/verdicts.md"]
STATISTICS = TEXT["lightning_classprune/guide/statistics.md"]
ARGUMENTS = TEXT["lightning_classprune/guide/arguments.md"]


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


@pytest.mark.parametrize("page", TEXT)
def test_links_resolve(page: str) -> None:
    assert broken_links(ROOT / page, TEXT[page]) == []


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
    assert {file.suffix for file in (ROOT / "lightning_classprune" / "guide").iterdir()} == {".md"}


def test_every_argument_is_described() -> None:
    parameters = inspect.signature(ClassAwarePruningCallback.__init__).parameters.values()
    known = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    described = table(ARGUMENTS, "Arguments")
    assert list(described) == known
    assert described["target_sparsity"][0] == "`0.99`"
    assert described["search"][0] == '`"fixed"`'


@pytest.mark.parametrize("options", [Fixed, Adaptive, Gradual, Guard, Cut, Files, FNTolerance])
def test_every_field_is_described_with_its_default(options: type) -> None:
    described = table(ARGUMENTS, options.__name__)
    defaults = {f.name: f.default for f in fields(options)}
    assert described.keys() == defaults.keys()
    for name, default in defaults.items():
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        assert described[name][0] == f"`{shown}`", name


def test_every_verdict_is_described() -> None:
    for text, heading in ((README, "What a verdict means"), (VERDICTS, "The words")):
        assert table(text, heading).keys() == STYLES.keys(), heading


@pytest.mark.parametrize(("heading", "keys"), [("A row", Row), ("A class of a row", ClassCounts)])
def test_every_key_of_the_ledger_is_described(heading: str, keys: type) -> None:
    assert list(table(VERDICTS, heading)) == list(keys.__annotations__)


def test_every_logged_number_is_described() -> None:
    counts = dict.fromkeys(ClassCounts.__annotations__, 0)
    row = dict.fromkeys(Row.__annotations__, 0) | {"classes": {"c": counts}}
    metrics = round_metrics(row, ErrorBudget(0.05, 0, 1))  # type: ignore[arg-type]
    names = {name.removeprefix("classprune/").replace("/c", "/…") for name in metrics}
    described = set(
        re.findall(r"`(?:classprune/)?([\w/…]+)`", TEXT["lightning_classprune/guide/notebooks.md"])
    )
    assert names <= described


def test_the_front_page_shows_the_four_common_arguments() -> None:
    example = (
        next(block for block in sections(README) if block.title == "Add it to your trainer").blocks[0].code
    )
    call = re.search(r"ClassAwarePruningCallback\((.*?)^\)", example, re.M | re.S)
    assert call is not None
    assert re.findall(r"^    (\w+)=", call[1], re.M) == [
        "num_classes",
        "protect",
        "guard_dataloader",
        "search",
    ]


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
    assert module.table() in STATISTICS


def test_power_table_is_what_the_function_gives() -> None:
    rows = re.findall(r"^\| (\d+) \| (\.\d\d) \| ([\d. |]+) \|$", STATISTICS, re.M)
    assert len(rows) == 10
    for positives, tolerance, chances in rows:
        known = [chance_at_setup(int(positives), d, float(tolerance), 0.05) for d in (0.05, 0.10, 0.20, 0.35)]
        assert chances.split(" | ") == [f"{chance:.2f}" for chance in known], (positives, tolerance)


def test_ci_calls_the_readme_command() -> None:
    blocks = [block.code for section in sections(README) for block in section.blocks if block.kind == "bash"]
    command = next(code.strip() for code in blocks if "pytest" in code)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
