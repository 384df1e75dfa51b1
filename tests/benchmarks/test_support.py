"""benchmarks/support.py: tables, files and networks that several benchmarks share."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from benchmarks import support


def test_markdown_by_hand():
    assert support.markdown([{"a": 1, "b": 0.123456}]) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |"


def test_results_go_where_out_says_and_the_folder_is_made(tmp_path):
    assert support.command_line(None).parse_args([]).out == support.RESULTS
    out = support.command_line(None).parse_args(["--out", str(tmp_path / "new")]).out
    support.write(out / "a.md", ["one", "two"])
    assert (out / "a.md").read_text() == "one\ntwo\n"


def test_runs_come_in_the_order_of_their_files_and_none_are_told(tmp_path):
    for seed in (2, 1):
        support.write(tmp_path / "elpv" / f"now-{seed}.json", [f'{{"seed": {seed}}}'])
    assert support.read_runs(tmp_path) == [{"seed": 1}, {"seed": 2}]
    with pytest.raises(ValueError, match=r"no runs \(\*\.json\); make them first"):
        support.read_runs(tmp_path, "*.json")


def test_drawn_statistics_make_every_channel_different():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    support.draw_statistics(network)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert len(torch.unique(getattr(network[1], name))) == 4, name
    assert network[1].running_var.min() >= 0.5


def test_the_configuration_is_the_ready_made_jobs():
    cfg = support.job_config(["search=fixed", "search.fraction=0.3"])
    assert cfg.callbacks.classprune.search.fraction == 0.3


def test_the_quiet_trainer_writes_nothing_and_takes_callbacks_that_count_as_checkpoints():
    assert support.quiet_trainer().checkpoint_callbacks == []
    mine = Checkpoint()
    made = support.quiet_trainer(mine, max_epochs=3)
    assert made.checkpoint_callbacks == [mine]
    assert (made.max_epochs, made.loggers) == (3, [])
