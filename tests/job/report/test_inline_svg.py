"""A figure inside a page: bare, in the page's colours, and the same every time."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from lightning_classprune.job.report.inline_svg import inline_svg


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#123456")
    axes.set_title("A <title>")
    return figure


def test_the_element_alone_without_size_or_metadata() -> None:
    svg = inline_svg(drawn(), "one", {})
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    head = svg[: svg.index(">")]
    assert "viewBox" in head
    assert not re.search(r"\s(width|height)=", head)
    assert "<metadata" not in svg
    assert "<text" not in svg  # text is drawn: no font is needed


def test_colours_stand_for_others() -> None:
    svg = inline_svg(drawn(), "one", {"#123456": "var(--ink)"})
    assert "var(--ink)" in svg
    assert "#123456" not in svg
    assert "#123456" in inline_svg(drawn(), "one", {})


def test_ids_are_those_of_one_figure() -> None:
    first, second = (inline_svg(drawn(), prefix, {}) for prefix in ("one", "two"))
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own
    assert first == inline_svg(drawn(), "one", {})
