"""What the report of a run reads from its folder, without the command or the job."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_classprune.job.report.report_run import page_data, write_report
from lightning_classprune.job.run_folder import RunFolder

pytestmark = pytest.mark.processes  # git, which the environment asks


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """As a job leaves it that has only begun."""
    facts = {"class_names": ["benign", "malignant"], "protected": [1]}
    parts = {"data": {"_target_": "a.Data"}, "model": {"_target_": "b.c.net"}}
    folder = RunFolder(tmp_path)
    folder.begin(OmegaConf.create({"run_dir": str(tmp_path), "seed": 5, "facts": facts, **parts}))
    return folder


def test_a_run_that_has_only_begun_has_a_page(folder: RunFolder) -> None:
    data = page_data(folder)
    assert (data.rows, data.class_names, data.protected) == ([], ["benign", "malignant"], [1])
    assert data.notes == ["Data", "net", "seed 5"]
    assert data.config == folder.config_file.read_text()
    assert write_report(folder) == folder.report
    assert "malignant" in folder.report.read_text()


def test_a_line_that_is_no_row_is_named(folder: RunFolder) -> None:
    folder.ledger_file.write_text('{"round": 0, "attempt": 1, "sparsity": 0.0}\n')
    with pytest.raises(
        ValueError, match=r"line 1: not a row of a ledger, it has no \['units', 'verdict', .*\]"
    ):
        write_report(folder)
    assert not folder.report.exists()


@pytest.mark.parametrize("facts", ["{}", "{class_names: [a, b]}", "{class_names: [a, b], num_outputs: 2}"])
def test_facts_that_were_cut_short_are_said(folder: RunFolder, facts: str) -> None:
    folder.config_file.write_text(f"seed: 5\nfacts: {facts}\n")
    with pytest.raises(ValueError, match=r"config\.yaml has no facts of the data; was it cut short"):
        write_report(folder)
