"""The report of a run: complete, escaped, self-contained."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lightning_classprune.job.report import page
from lightning_classprune.job.report.page import render
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.text import achievement
from tests.job.report.pages import (
    HOSTILE,
    PAGES,
    Page,
    example,
    rendered,
)

# --- what every page is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PAGES)
def test_every_page_stands_on_its_own(case: str) -> None:
    text = rendered(case)
    parsed = Page(text)
    assert text.lstrip().startswith("<!doctype html>")
    assert parsed.all("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all("meta")
    policies = [tag["content"] for tag in parsed.all("meta") if tag.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not parsed.all("script")
    assert not parsed.all("link")
    for _, attributes in parsed.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
                assert value is not None
                assert value.startswith(("data:image/", "#"))
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("case", PAGES)
def test_every_page_can_be_read_aloud(case: str) -> None:
    parsed = Page(rendered(case))
    assert len(parsed.titles(1)) == 1
    assert len(parsed.all("title")) >= 1
    levels = [level for level, _ in parsed.headings]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(picture["alt"] for picture in parsed.all("img"))
    assert all(figure["aria-label"] for figure in parsed.all("div") if figure.get("role") == "img")
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for attributes in parsed.all("section")}
    assert named <= set(ids)


@pytest.mark.parametrize("case", PAGES)
def test_what_svg_refers_to_is_there(case: str) -> None:
    text = rendered(case)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', text))
    assert used <= set(re.findall(r'\sid="([\w-]+)"', text))


# --- what it says ---------------------------------------------------------------------------------------------------


def test_it_says_everything_about_a_finished_run() -> None:
    data = example()
    parsed = Page(render(data))
    assert parsed.titles(1) == ["60.0% sparsity: crack missed 1 → 2 of 4, false alarms 1 → 0 of 4"]
    assert parsed.titles(2) == [
        "What is delivered",
        "Dense beside delivered",
        "Test data, all classes",
        "Rounds and verdicts",
        "Misses and false alarms against sparsity",
        "Sparsity by layer",
        "Confusion on the guard data",
        "Guard samples whose decision changed",
        "What the delivered network misses",
        "The data",
        "What a verdict means, and what it does not promise",
        "Settings and versions",
    ]
    text = parsed.text
    assert achievement(data.rows) in text
    assert "54 of 80 prunable weights are gone judged at 95% confidence" in text
    assert "2 of 4 dense network: 1 of 4 2 newly missed, 1 newly found; allowed rise 5 points" in text
    assert "False alarms, crack 0 of 4 dense network: 1 of 4 0 new, 1 gone; allowed rise 10 points" in text
    assert "net.0.weight 75.00% 18 72 " + "\N{MULTIPLICATION SIGN}".join("4233") in text
    minus = "\N{MINUS SIGN}"
    line = f"1 ● accepted delivered 60.00% crack 2 of 4 +2 {minus}1 3.1 / 5 0 of 4 +0 {minus}1 6.2 / 10"
    assert line in text
    assert "round 1, delivered 60.00% 3 epochs, 1.5 min" in text
    assert "Round 2, refused at 84.00% sparsity. crack: too many" in text
    assert "30 samples" in text
    assert "crack protected 10 4 2 3 1" in text
    assert "classprune 'protect={crack: 0.05}' seed=1" in text
    assert "aaaaaaaaaaaa, with changes" in text
    assert "torch 2.9.0" in text
    assert "lightning-classprune" not in text
    assert "seed: 1 name: <b>" in text
    assert "accepted.ckpt " + "ab" * 32 in text
    assert "2026-01-02 03:04 UTC · ElpvData · seed 1" in text


def test_dense_stands_beside_delivered_on_both_splits() -> None:
    text = Page(rendered("finished")).text
    assert "Guard, dense Guard, delivered Test, dense Test, delivered" in text
    # 1 of 4: Clopper and Pearson's interval
    assert "Missed 1 of 4 25.0% (0.6 to 80.6) 2 of 4 50.0% (6.8 to 93.2) 1 of 4" in text
    assert "False alarms 1 of 4 25.0% (0.6 to 80.6) 0 of 4 0.0% (0.0 to 60.2) 1 of 4" in text
    # 14 of the 16 pairs of a positive's and a negative's margin are in order.
    assert "Area under the ROC curve 0.875 0.875 0.875 0.875" in text
    assert "Missed at 5% false alarms 2 of 4" in text
    assert "what other thresholds would give" in text


def test_what_is_missed_and_what_the_data_are_is_named() -> None:
    text = Page(rendered("finished")).text
    assert "crack, guard data: 2 newly missed guard0.png, guard1.png" in text
    assert "crack, test data: 2 newly missed test0.png, test1.png" in text
    assert "guard 8 4 4" in text


def test_a_rise_of_false_alarms_colours_the_headline() -> None:
    parsed = Page(rendered("false alarms have risen"))
    assert parsed.all("h1") == [{"class": "alert"}]
    assert (
        "False alarms have risen. crack: 1 → 3 false alarms of 4, more than chance explains; a rise of 10 points"
        in (parsed.text)
    )
    assert Page(rendered("finished")).all("h1") == [{}]


def test_an_interrupted_run_says_how_to_go_on() -> None:
    text = Page(rendered("interrupted")).text
    assert "This run was interrupted. The guard has not judged what was kept" in text
    assert "◆ kept" in text


def test_what_would_go_further_stands_below_the_claim() -> None:
    rows = example().rows
    advice = recommendation(rows)
    text = Page(render(example())).text
    assert advice
    assert text.count(advice) == 1
    assert text.index(achievement(rows)) < text.index(advice) < text.index("What is delivered")
    running = example(status={"state": "running", "error": None})
    assert advice not in Page(render(running)).text


def test_confusion_matrices_count_and_share() -> None:
    text = Page(rendered("finished")).text
    # rows: sound, crack; columns: sound, crack
    assert "Dense network sound crack sound 3 75.0% 1 25.0% crack protected 1 25.0% 3 75.0%" in text
    assert "Delivered network sound crack sound 4 100.0% 0 0.0% crack protected 2 50.0% 2 50.0%" in text


def test_labels_are_set_against_all_others() -> None:
    parsed = Page(rendered("labels"))
    assert {"crack", "rust"} < set(parsed.titles(3))
    assert (
        "Delivered network crack others crack protected 1 50.0% 1 50.0% others 0 0.0% 2 100.0%" in parsed.text
    )
    assert "scratch" not in parsed.text


def test_of_many_classes_only_the_protected_are_set_out() -> None:
    text = Page(rendered("many classes")).text
    assert "Delivered network c7 others c7 protected 0 0.0% 2 100.0% others 0 0.0% 48 100.0%" in text


def test_the_verdict_is_told_by_word_and_sign_not_by_colour_alone() -> None:
    text = Page(rendered("retried")).text
    for verdict in ("baseline", "accepted", "refused", "unproven"):
        assert f"{page.MARKS[verdict]} {verdict}" in text
    assert "2.0 ✖ refused" in text
    assert "2.1 ▲ unproven" in text


def test_an_unfinished_run_says_so_first_and_delivers_nothing() -> None:
    failed = Page(rendered("failed"))
    assert "This run failed. MemoryError: <full> So far: " in failed.text
    running = Page(rendered("running"))
    assert "This run has not finished." in running.text
    assert "What is delivered" not in running.text
    assert "last accepted" in running.text
    nothing = Page(rendered("nothing"))
    assert "No network was judged." in nothing.text
    assert nothing.titles(2)[0].startswith("What a verdict means")


def test_a_first_step_that_was_refused_delivers_the_dense_network() -> None:
    text = Page(rendered("refused at once")).text
    assert "the dense network is delivered unchanged, because at 60.0% sparsity scores are NaN" in text
    assert "Dense network, delivered unchanged" in text
    assert "newly missed, " not in text


def test_names_cannot_become_markup_or_mathematics() -> None:
    parsed = Page(rendered("hostile name"))
    assert HOSTILE in parsed.text
    assert all(set(tag) == {"src", "alt", "class", "width", "height"} for tag in parsed.all("img"))


def test_the_figure_follows_the_page_in_its_colours() -> None:
    text = rendered("retried")
    svg = text[text.rindex("<svg") : text.rindex("</svg>")]
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) == set()
    for color in (
        "currentColor",
        "var(--page)",
        "var(--rule)",
        "var(--muted)",
        "var(--allowed)",
        "var(--refused)",
    ):
        assert color in svg


def test_the_same_run_gives_the_same_page() -> None:
    assert rendered("finished") == render(example())


# --- a browser ------------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<!doctype html><body><iframe style="width:{width}px;height:2000px" srcdoc="{page}"></iframe><script>
onload = () => {{
  const inner = document.querySelector("iframe").contentWindow, root = inner.document.documentElement;
  const boxes = [...root.querySelectorAll("img")].filter(i => !i.naturalWidth).length;
  const found = {{ width: root.scrollWidth, inner: inner.innerWidth, broken: boxes,
    loaded: inner.performance.getEntriesByType("resource").length,
    ground: inner.getComputedStyle(root.querySelector("body")).backgroundColor }};
  document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
}}</script>"""


def measured(text: str, width: int, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """What a browser makes of a page in a frame of that width: headless windows are 500 pixels wide at least."""
    assert BROWSER is not None
    wrapper = folder / "wrapper.html"
    wrapper.write_text(MEASURE.format(width=width, page=html.escape(text)), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars --dump-dom"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [BROWSER, *flags.split(), scheme, f"--user-data-dir={folder / 'profile'}", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(found[1])
    return result


@pytest.mark.processes
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: how the page looks is not checked")
@pytest.mark.parametrize("case", ["finished", "hostile name", "retried", "labels", "false alarms have risen"])
def test_a_browser_fits_the_page_on_a_telephone_and_fetches_nothing(case: str, tmp_path: Path) -> None:
    found = measured(rendered(case), 360, tmp_path)
    assert found["inner"] == 360
    assert found["width"] <= 360
    assert (found["broken"], found["loaded"]) == (0, 0)


@pytest.mark.processes
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: how the page looks is not checked")
def test_a_browser_shows_light_and_dark(tmp_path: Path) -> None:
    text = rendered("finished")
    assert measured(text, 1280, tmp_path)["ground"] == "rgb(255, 255, 255)"
    assert measured(text, 1280, tmp_path, dark=True)["ground"] == "rgb(20, 23, 26)"
