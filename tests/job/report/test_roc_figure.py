"""The ROC figure: curves through the right points, and markers where the networks decide."""

from __future__ import annotations

import pytest

from lightning_classprune.job.report.roc_figure import roc_figure
from tests.job.report.pages import scores


def test_markers_are_the_decisions_and_lines_the_curves() -> None:
    figure = roc_figure(scores("crack")["test"], "crack")
    assert figure is not None
    lines = figure.axes[0].get_lines()
    markers = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines if line.get_linestyle() == "None"]
    assert markers == [pytest.approx((0.25, 0.75)), pytest.approx((0.0, 0.5))]
    curves = [line for line in lines if line.get_linestyle() in ("-", "--")]
    assert [(line.get_xdata()[0], line.get_ydata()[-1]) for line in curves] == [(0, 1), (0, 1)]
