"""The chances of a harmless candidate, as a table: those of `chance_at_setup`."""

from __future__ import annotations

import pytest

from lightning_classprune.job.power_table import DISCORDANCES, print_tables, table


def test_the_chances_are_those_of_the_exact_test() -> None:
    made = table("guard positives", 205, [0.05], 0.05)
    columns = {str(column.header): list(column.cells) for column in made.columns}
    chances = dict(zip(columns["networks differ on"], columns["tolerance 0.05"], strict=True))
    assert list(chances) == [f"{share:.0%}" for share in DISCORDANCES]
    expected = {"5%": "0.88", "10%": "0.69", "15%": "0.55", "20%": "0.46"}
    assert {share: chances[share] for share in expected if share in chances} == {
        share: chance for share, chance in expected.items() if share in chances
    }
    assert {"5%", "10%", "20%"} <= set(chances)


def test_a_table_for_each_count(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([60], [0.1], 0.05)
    assert capsys.readouterr().out.count("confidence") == 1
    print_tables([60, 90], [0.1], 0.05)
    assert capsys.readouterr().out.count("confidence") == 2
