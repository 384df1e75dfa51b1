"""The page's figures: drawn for each protected class, and told in words."""

from __future__ import annotations

import torch

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.report.figures import ledger_figures, roc_figures
from tests.job.report.pages import example, labels_example, scores


def test_a_figure_of_the_ledger_for_each_class() -> None:
    (one,) = ledger_figures(example().rows)
    assert (one["name"], one["support"], one["negatives"]) == ("crack", 4, 4)
    assert "60.00% sparsity, accepted: 2 missed, 0 false alarms" in one["alt"]
    assert [figure["name"] for figure in ledger_figures(labels_example().rows)] == ["crack", "rust"]
    assert ledger_figures([]) == []


def test_roc_curves_of_the_test_data() -> None:
    (one,) = roc_figures(scores("crack")["test"], ["crack"])
    assert "dense: area 0.875, decides at 75.0% recall and 25.0% false alarms" in one["alt"]
    assert "delivered: area 0.875, decides at 50.0% recall and 0.0% false alarms" in one["alt"]
    assert one["svg"].startswith("<svg")
    assert roc_figures({}, ["crack"]) == []


def test_without_negatives_there_is_no_curve() -> None:
    target = torch.ones(3, dtype=torch.long)
    alone = Answers(Decisions(target, target, 2, ("sound", "crack")), {"crack": torch.ones(3)})
    assert roc_figures({"delivered": alone}, ["crack"]) == []
