"""The report of a run: complete, escaped, self-contained, and rebuilt from the run folder alone."""

from __future__ import annotations

import base64
import functools
import html
import io
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_classprune.guard.outcomes import Decisions, evidence
from lightning_classprune.job import app
from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.report import page, pictures, report_app
from lightning_classprune.job.report.page import PageData, render
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.text import achievement
from lightning_classprune.pruning import masks
from tests.support.app_job import LENIENT, config

HOSTILE = '<img src=x onerror="alert(1)"> & $\\frac$'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A parsed page: tags with attributes, text, headings, and whether every tag was closed where it had to be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def titles(self, level: int) -> list[str]:
        return [text for height, text in self.headings if height == level]


def row(
    round_: int,
    verdict: str,
    sparsity: float,
    classes: Mapping[str, Any],
    attempt: int = 0,
    reason: str = "told",
) -> dict[str, Any]:
    return {
        "round": round_,
        "attempt": attempt,
        "sparsity": sparsity,
        "verdict": verdict,
        "reason": reason,
        "classes": dict(classes),
        "level": 0.05,
        "epochs": 3,
        "seconds": 1.0,
        "seed": 1,
    }


def counts(dense: Decisions, now: Decisions, index: int, *, judged: bool) -> dict[str, Any]:
    pair = evidence(dense, now, index)
    numbers = {"p_value": 0.01, "upper_bound": 0.031, "tolerance": 0.05}
    return {
        "support": pair.support,
        "fn": pair.fn,
        "recall": pair.recall,
        "newly_missed": pair.newly_missed,
        "newly_found": pair.newly_found,
        **(numbers if judged else dict.fromkeys(numbers)),
    }


#                       0  1  2  3  4  5  6  7
TARGET = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
DENSE = Decisions(TARGET, torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]), 2)  # misses 3
DELIVERED = Decisions(TARGET, torch.tensor([0, 0, 1, 1, 0, 0, 0, 0]), 2)  # misses 0 and 1, finds 3
GUARD = {"dense": DENSE, "delivered": DELIVERED}
GREY = {i: np.full((4, 4), 10 * i, np.uint8) for i in (0, 1, 3)}


def example(name: str = "crack", **changes: Any) -> PageData:
    rows = [
        row(0, "baseline", 0.0, {name: counts(DENSE, DENSE, 1, judged=False)}),
        row(1, "accepted", 0.6, {name: counts(DENSE, DELIVERED, 1, judged=True)}),
        row(2, "refused", 0.84, {name: counts(DENSE, DELIVERED, 1, judged=True)}, reason=f"{name}: too many"),
    ]
    content: dict[str, Any] = {
        "rows": rows,
        "class_names": ["sound", name],
        "protected": [1],
        "guard": GUARD,
        "layers": [
            {"name": "net.0.weight", "shape": [4, 2, 3, 3], "kept": 18, "total": 72},
            {"name": "net.1.weight", "shape": [2, 4], "kept": 8, "total": 8},
        ],
        "pictures": GREY,
        "test": {
            "samples": 30,
            "accuracy": 0.9,
            "classes": {
                "sound": {"support": 20, "fn": 1, "fp": 2, "recall": 0.95},
                name: {"support": 10, "fn": 2, "fp": 1, "recall": 0.8},
            },
        },
        "environment": {
            "started": "2026-01-02T03:04:05+00:00",
            "command": ["/usr/bin/classprune", "protect={crack: 0.05}", "seed=1"],
            "folder": "/home/me",
            "python": "3.11.0",
            "platform": "Linux",
            "cores": 2,
            "threads": 1,
            "accelerators": [],
            "versions": {"torch": "2.9.0", "lightning-classprune": None},
            "git": {"commit": "a" * 40, "dirty": True},
        },
        "config": "seed: 1\nname: <b>\n",
        "notes": ["ElpvData", "seed 1"],
    }
    return PageData(**(content | changes))


def labels_example() -> PageData:
    target = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    dense = Decisions(target, torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1]]), 3)
    now = Decisions(target, torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), 3)
    names = ["crack", "rust", "scratch"]
    rows = [
        row(0, "baseline", 0.0, {n: counts(dense, dense, i, judged=False) for i, n in enumerate(names[:2])}),
        row(1, "accepted", 0.5, {n: counts(dense, now, i, judged=True) for i, n in enumerate(names[:2])}),
    ]
    return PageData(rows, names, [0, 1], guard={"dense": dense, "delivered": now})


def many_classes_example() -> PageData:
    target = torch.arange(25).repeat(2)
    dense, now = Decisions(target, target, 25), Decisions(target, (target + (target == 7)) % 25, 25)
    rows = [
        row(0, "baseline", 0.0, {"c7": counts(dense, dense, 7, judged=False)}),
        row(1, "accepted", 0.5, {"c7": counts(dense, now, 7, judged=True)}),
    ]
    return PageData(rows, [f"c{i}" for i in range(25)], [7], guard={"dense": dense, "delivered": now})


REFUSED_AT_ONCE = example(rows=[example().rows[0], row(1, "refused", 0.6, {}, reason="scores are NaN")])
RETRIED = example(
    rows=[
        *example().rows[:2],
        row(2, "refused", 0.84, example().rows[2]["classes"]),
        row(2, "unproven", 0.7, example().rows[2]["classes"], attempt=1),
    ]
)
PAGES = {
    "finished": example(),
    "hostile name": example(HOSTILE),
    "failed": example(status={"state": "failed", "error": "MemoryError: <full>"}),
    "running": example(
        status={"state": "running", "error": None}, test=None, guard={}, layers=(), pictures={}
    ),
    "nothing": PageData([], status={"state": "running", "error": None}),
    "only a dense network": example(rows=example().rows[:1], guard={"dense": DENSE, "delivered": DENSE}),
    "a dense network of NaN": PageData([row(0, "baseline", 0.0, {})]),
    "a table": example(pictures={}),
    "refused at once": REFUSED_AT_ONCE,
    "retried": RETRIED,
    "labels": labels_example(),
    "many classes": many_classes_example(),
}


@functools.cache
def rendered(case: str) -> str:
    return render(PAGES[case])


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
    assert parsed.titles(1) == ["Pruning report"]
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
    assert parsed.titles(2) == [
        "What is delivered",
        "Rounds and verdicts",
        "Misses against density",
        "Density by layer",
        "Confusion on the guard data",
        "Test data, delivered network",
        "Guard samples whose decision changed",
        "What a verdict means, and what it does not promise",
        "Settings and versions",
    ]
    text = parsed.text
    assert achievement(data.rows) in text
    assert "26 of 80 prunable weights kept" in text
    assert "2 of 4 dense network: 1 of 4 2 newly missed, 1 newly found" in text
    assert "False positives, crack 0 dense network: 1" in text
    assert "net.0.weight 25.00% 18 72 " + "\N{MULTIPLICATION SIGN}".join("4233") in text
    assert "1 ● accepted delivered 60.00% crack 2 of 4 0.500 2 1 0.01 +0.031 +0.05" in text
    assert "Round 2, refused at 84.00% sparsity. crack: too many" in text
    assert "30 samples" in text
    assert "crack protected 10 2 80.0% 1" in text
    assert "classprune 'protect={crack: 0.05}' seed=1" in text
    assert "aaaaaaaaaaaa, with changes" in text
    assert "torch 2.9.0" in text
    assert "lightning-classprune" not in text
    assert "seed: 1 name: <b>" in text
    assert "2026-01-02 03:04 UTC · ElpvData · seed 1" in text


def test_what_would_go_further_stands_below_the_claim() -> None:
    """The counts of `test_recommend.test_the_counts_of_a_near_miss`."""
    numbers = {"support": 205, "recall": 0.7, "upper_bound": 0.04, "tolerance": 0.037}
    dense = {**numbers, "fn": 53, "newly_missed": 0, "newly_found": 0, "p_value": None}
    proven = {**numbers, "fn": 48, "newly_missed": 3, "newly_found": 8, "p_value": 0.001}
    missed = {**numbers, "fn": 56, "newly_missed": 3, "newly_found": 0, "p_value": 0.0528}
    rows = [
        row(0, "baseline", 0.0, {"crack": dense}),
        row(1, "accepted", 0.988, {"crack": proven}),
        row(2, "unproven", 0.995, {"crack": missed}),
    ]
    advice = (
        "1.2% density is proven; 0.5% density was not proven (crack: 3 newly missed and 0 newly found of 205); "
        "about 78 more guard positives of crack would likely prove it."
    )
    text = Page(render(example(rows=rows))).text
    assert text.count(advice) == 1
    assert text.index(achievement(rows)) < text.index(advice) < text.index("What is delivered")
    running = example(rows=rows, status={"state": "running", "error": None})
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


@given(st.integers(2, 6), st.integers(0, 60), st.randoms(use_true_random=False))
def test_matrices_agree_with_the_outcomes_counts(classes: int, samples: int, random: Any) -> None:
    target, predicted = (
        torch.tensor([random.randrange(classes) for _ in range(samples)]).long() for _ in "ab"
    )
    outcomes = Decisions(target, predicted, classes)
    names = [f"c{i}" for i in range(classes)]
    data = PageData([], names, [0], guard={"dense": outcomes, "delivered": outcomes})
    (group,) = page._matrices(data)
    for index, (tp, fp, _, fn, support) in enumerate(outcomes.counts().tolist()):
        cells = [[cell["count"] for cell in line["cells"]] for line in group["matrices"][0]["rows"]]
        assert (cells[index][index], sum(cells[index])) == (tp, support)
        assert sum(cells[index]) - cells[index][index] == fn
        assert sum(line[index] for line in cells) - cells[index][index] == fp


def test_the_verdict_is_told_by_word_and_sign_not_by_colour_alone() -> None:
    text = Page(rendered("retried")).text
    for verdict, sign in page.MARKS.items():
        assert f"{sign} {verdict}" in text
    assert "2.0 ✖ refused" in text
    assert "2.1 ▲ unproven" in text


def test_an_unfinished_run_says_so_first_and_delivers_nothing() -> None:
    failed = Page(rendered("failed"))
    assert (
        failed.text.split("Pruning report", 2)[2]
        .strip()
        .startswith("This run failed. MemoryError: <full> So far: ")
    )
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
    svg = text[text.index("<svg") : text.index("</svg>")]
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


# --- pictures -------------------------------------------------------------------------------------------------------


def test_changed_samples_of_a_class() -> None:
    assert pictures.changed(DENSE, DELIVERED, 1) == ([0, 1], [3])
    assert pictures.changed(DENSE, DELIVERED, 0) == ([], [7])


def test_gallery_shows_the_pixels_and_says_what_changed() -> None:
    parsed = Page(rendered("finished"))
    alts = [picture["alt"] for picture in parsed.all("img")]
    assert alts == [
        "Guard sample 0, crack: the dense network says crack, the delivered network sound",
        "Guard sample 1, crack: the dense network says crack, the delivered network sound",
        "Guard sample 3, crack: the dense network says sound, the delivered network crack",
    ]
    source = parsed.all("img")[2]["src"]
    assert source is not None
    head, _, content = source.partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(content)))), GREY[3])


def test_without_pictures_the_samples_are_numbered() -> None:
    parsed = Page(rendered("a table"))
    assert not parsed.all("img")
    assert "crack: 2 newly missed Guard samples 0, 1 (counted from 0)." in parsed.text
    assert "pictures are part of this file" not in parsed.text


def test_pages_with_very_many_pictures_stay_small() -> None:
    target = torch.ones(500, dtype=torch.long)
    dense = Decisions(target, torch.tensor([1, 0] * 250), 2)
    now = Decisions(target, torch.tensor([0, 1] * 250), 2)
    smooth = np.linspace(0, 255, 96 * 96 * 3).reshape(96, 96, 3)
    shown = {i: ((smooth + 5 * i) % 256).astype(np.uint8) for i in range(500)}
    rows = [row(0, "baseline", 0.0, {"c": counts(dense, dense, 1, judged=False)})]
    rows += [row(1, "accepted", 0.5, {"c": counts(dense, now, 1, judged=True)})]
    text = render(PageData(rows, ["a", "c"], [1], guard={"dense": dense, "delivered": now}, pictures=shown))
    assert len(Page(text).all("img")) == 2 * pictures.SHOWN
    assert "And without a picture, guard samples 96, 98, " in Page(text).text
    assert "and 2 more" in Page(text).text
    assert len(text) < 1_000_000


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_what_the_network_saw(channels: int) -> None:
    stored = torch.randint(256, (channels, 20, 10), dtype=torch.uint8)
    mean, std = torch.rand(channels, 1, 1), torch.rand(channels, 1, 1) + 0.1
    picture = pictures.pixels((stored / 255 - mean) / std, (mean, std))
    if channels == 1:
        assert np.array_equal(picture, stored[0].numpy())
    elif channels == 3:
        assert np.array_equal(picture, stored.permute(1, 2, 0).numpy())
    else:
        assert np.abs(picture - stored.float().mean(0).numpy()).max() <= 0.51


def test_large_pictures_shrink_and_keep_their_shape() -> None:
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    assert pictures.pixels(torch.rand(3, 400, 200), (zero, one)).shape == (96, 48, 3)
    assert pictures.pixels(torch.rand(3, 2, 4000), (zero, one)).shape == (1, 96, 3)


class Noise(SplitDataModule):
    """Eight images, or eight table rows, in every part."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def load(self) -> Splits:
        x = torch.randint(256, (32, *self.shape), dtype=torch.uint8)
        x = x if len(self.shape) == 3 else x.float()
        indices = {part: torch.arange(8) + 8 * i for i, part in enumerate(("train", "val", "guard", "test"))}
        self.stored = x[indices["guard"]]
        return tensor_splits(x, torch.arange(32) % 2, ["sound", "crack"], indices)


def test_thumbnails_are_those_of_the_changed_guard_samples(tmp_path: Path) -> None:
    data = Noise((1, 6, 5))
    data.setup()
    taken = pictures.thumbnails(data, GUARD, [1])
    assert sorted(taken) == [0, 1, 3]
    assert all(np.array_equal(taken[i], data.stored[i, 0].numpy()) for i in taken)
    folder = RunFolder(tmp_path)
    folder.write_pictures(taken)
    read = folder.pictures()
    assert sorted(read) == [0, 1, 3]
    assert all(np.array_equal(read[i], taken[i]) for i in taken)
    folder.write_pictures({})
    assert folder.pictures() == {}


def test_a_table_has_no_thumbnails() -> None:
    data = Noise((5,))
    data.setup()
    assert pictures.thumbnails(data, GUARD, [1]) == {}


def test_layers_are_counted() -> None:
    kept = {"a": torch.tensor([[True, False], [True, True]]), "b": torch.zeros(3, dtype=torch.bool)}
    assert masks.layer_counts(kept) == [
        {"name": "a", "shape": [2, 2], "kept": 3, "total": 4},
        {"name": "b", "shape": [3], "kept": 0, "total": 3},
    ]


# --- the run folder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    app.run(config(folder, *LENIENT))
    return folder


def test_a_job_ends_with_its_report(finished: Path) -> None:
    folder = RunFolder.open(finished)
    parsed = Page(folder.report.read_text(encoding="utf-8"))
    assert achievement(folder.ledger()) in parsed.text
    assert "has not finished" not in parsed.text
    assert "BreastCancerData" in parsed.text
    kept = sum(layer["kept"] for layer in folder.layers())
    total = sum(layer["total"] for layer in folder.layers())
    assert 1 - kept / total == pytest.approx(folder.ledger()[-1]["sparsity"])
    assert not parsed.all("img")


def test_a_copy_of_the_folder_is_enough_to_rebuild_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("*.ckpt", "metrics", "report.html"))
    assert report_app.main([str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    assert (copy / "report.html").read_text() == (finished / "report.html").read_text()


def test_a_job_that_fails_in_training_reports_what_was_judged(tmp_path: Path) -> None:
    bad = "+callbacks.bad={_target_: test_page.Failing}"
    with pytest.raises(RuntimeError, match="out of luck"):
        app.run(config(tmp_path, *LENIENT, bad))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "This run failed. RuntimeError: out of luck" in text
    assert "■ baseline" in text


class Failing(app.Callback):
    """Fails in the round after the dense one."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 4:
            raise RuntimeError("out of luck")


def test_a_report_that_cannot_be_drawn_does_not_lose_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").mkdir()  # so that the page cannot take its place
    (tmp_path / "ledger.png").mkdir()
    with pytest.warns(UserWarning, match=r"could not be written .*the run itself is not affected") as told:
        app.run(config(tmp_path, *LENIENT))
    said = [str(warning.message).split(" could not")[0] for warning in told]
    assert {"report.html", "ledger.png"} <= set(said)
    assert RunFolder.open(tmp_path).status()["state"] == "finished"
    assert (tmp_path / "accepted.ckpt").is_file()
    assert (tmp_path / "test.json").is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ledger.jsonl", '{"round": 0', r"ledger\.jsonl, line 1: not JSON"),
        (
            "ledger.jsonl",
            '{"round": 0}\n',
            r"ledger\.jsonl, line 1: not a row of a ledger, it has no \['attempt'",
        ),
        ("guard.npz", "no archive", r"guard\.npz cannot be read"),
        ("test.json", "{", r"test\.json cannot be read"),
        ("layers.json", "", r"layers\.json cannot be read"),
        ("guard_pictures.npz", "", r"guard_pictures\.npz cannot be read"),
    ],
)
def test_a_broken_file_is_named_and_the_old_report_stays(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("*.ckpt", "metrics"))
    (copy / name).write_text(content)
    before = (copy / "report.html").read_bytes()
    assert report_app.main([str(copy)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert (copy / "report.html").read_bytes() == before


def test_another_folder_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_app.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: how the page looks is not checked")
@pytest.mark.parametrize("case", ["finished", "hostile name", "retried", "labels"])
def test_a_browser_fits_the_page_on_a_telephone_and_fetches_nothing(case: str, tmp_path: Path) -> None:
    found = measured(rendered(case), 360, tmp_path)
    assert found["inner"] == 360
    assert found["width"] <= 360
    assert (found["broken"], found["loaded"]) == (0, 0)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: how the page looks is not checked")
def test_a_browser_shows_light_and_dark(tmp_path: Path) -> None:
    text = rendered("finished")
    assert measured(text, 1280, tmp_path)["ground"] == "rgb(255, 255, 255)"
    assert measured(text, 1280, tmp_path, dark=True)["ground"] == "rgb(20, 23, 26)"
