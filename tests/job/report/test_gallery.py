"""The guard samples whose decision changed."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.report import pictures
from lightning_classprune.job.report.gallery import changed_samples
from lightning_classprune.job.report.page import PageData, render
from tests.job.report.pages import (
    DENSE,
    GREY,
    GUARD,
    Page,
    counts,
    rendered,
    row,
)


def test_gallery_shows_the_pixels_and_says_what_changed() -> None:
    parsed = Page(rendered("finished"))
    alts = [picture["alt"] for picture in parsed.all("img")]
    assert alts == [
        "Guard sample guard0.png, crack: the dense network says crack, the delivered network sound",
        "Guard sample guard1.png, crack: the dense network says crack, the delivered network sound",
        "Guard sample guard3.png, crack: the dense network says sound, the delivered network crack",
    ]
    source = parsed.all("img")[2]["src"]
    assert source is not None
    head, _, content = source.partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(content)))), GREY[3])


def test_without_pictures_the_samples_are_numbered() -> None:
    parsed = Page(rendered("a table"))
    assert not parsed.all("img")
    assert "crack: 2 newly missed guard0.png, guard1.png." in parsed.text
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
    assert "And without a picture: no. 96, no. 98, " in Page(text).text
    assert "and 2 more" in Page(text).text
    assert len(text) < 1_000_000


def test_who_is_wrong_is_said_of_classes_and_of_labels() -> None:
    newly, found = changed_samples(GUARD, ["sound", "crack"], [1], GREY, {})
    assert (newly["kind"], newly["total"], newly["rest"]) == ("newly missed", 2, [])
    assert [one["caption"] for one in newly["pictures"]] == ["no. 0: now sound", "no. 1: now sound"]
    assert [one["caption"] for one in found["pictures"]] == ["no. 3: was sound"]
    target = torch.tensor([[1, 0], [1, 0]])
    labels = {"dense": Decisions(target, target, 2), "delivered": Decisions(target, 0 * target, 2)}
    newly, found = changed_samples(labels, ["rust", "dent"], [0], {1: GREY[1]}, {})
    assert [one["caption"] for one in newly["pictures"]] == ["no. 1: now not rust"]
    assert (newly["rest"], found["total"]) == (["no. 0"], 0)


def test_nothing_changed_is_nothing_to_show() -> None:
    assert changed_samples({}, ["a", "b"], [1], {}, {}) == []
    assert changed_samples({"dense": DENSE, "delivered": DENSE}, ["sound", "crack"], [1], GREY, {}) == []
