"""The picture of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_classprune.job.sweep.frontier_figure import frontier_figure
from lightning_classprune.job.sweep.job_rows import read_jobs


def test_figure_shows_settings_spread_and_frontier(sweep: Path) -> None:
    before = set(sys.modules)
    figure = frontier_figure(read_jobs(sweep))
    axes = figure.axes[0]
    assert axes.get_title("left") == "6 jobs: 4 finished (2 without an accepted step), 1 failed, 1 running"
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {
        "mean over seeds; bars: all seeds",
        "no step accepted",
        "frontier: nothing is sparser and errs less",
        "dense networks",
    }
    assert {text.get_text() for text in axes.texts} == {"1", "2"}
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ["1: loss=a", "2: loss=b"]
    bars = [segment for bar in axes.containers for part in bar[2] for segment in part.get_segments()]
    assert [pytest.approx(0.5), pytest.approx(0.25)] in [sorted(line[:, 0], reverse=True) for line in bars]
    assert [panel.get_ylabel().split(" on")[0] for panel in figure.axes] == ["miss rate", "false-alarm rate"]
    hollow = [
        line for line in axes.get_lines() if line.get_fillstyle() == "none" and line.get_marker() == "s"
    ]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [(1.0, 0.2), (1.0, 0.2)]
    assert "matplotlib.pyplot" not in set(sys.modules) - before
