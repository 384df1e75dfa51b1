"""The command that says what chance a run has."""

from __future__ import annotations

import pytest

from lightning_classprune import __version__
from lightning_classprune.job import power_app


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --positives"),
        (["--positives", "0"], "--positives and --negatives must be 1 or more"),
        (["--positives", "9", "--negatives", "0"], "must be 1 or more"),
        (["--positives", "many"], "invalid int value"),
        (["--positives", "9", "--confidence", "0.4"], "--confidence 0.4 is out of range"),
        (["--positives", "9", "--confidence", "1"], "--confidence 1.0 is out of range"),
        (["--positives", "9", "--tolerance", "0.1", "1.5"], "between 0 and 1"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        power_app.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        power_app.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"lightning-classprune {__version__}\n"


def test_a_table_for_the_misses_and_one_for_the_false_alarms(capsys: pytest.CaptureFixture[str]) -> None:
    power_app.main(["--positives", "205", "--negatives", "450", "--tolerance", "0.1", "0.05"])
    said = capsys.readouterr().out
    assert "205 guard positives (misses), 95% confidence" in said
    assert "450 guard negatives (false alarms), 95% confidence" in said
    assert said.index("tolerance 0.05") < said.index("tolerance 0.1")
    power_app.main(["--positives", "205"])
    assert "negatives" not in capsys.readouterr().out
