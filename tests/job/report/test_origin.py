"""Where a run comes from."""

from __future__ import annotations

from lightning_classprune.job.report.origin import command_line, facts
from tests.job.report.pages import example


def test_the_command_can_be_pasted() -> None:
    made = dict(example().environment or {})
    assert command_line(made) == "classprune 'protect={crack: 0.05}' seed=1"
    assert command_line(made | {"command": ["/x/lightning_classprune/__main__.py", "-m"]}) == (
        "python -m lightning_classprune -m"
    )
    assert command_line(None) == command_line(made | {"command": []}) == ""


def test_what_is_not_known_is_left_out() -> None:
    told = dict(facts(example().environment))
    assert told["commit"] == "aaaaaaaaaaaa, with changes"
    assert told["machine"] == "CPU, 2 cores"
    assert "lightning-classprune" not in told
    assert facts(None) == []
