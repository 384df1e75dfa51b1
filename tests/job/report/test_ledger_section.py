"""The ledger's lines on the page."""

from __future__ import annotations

from lightning_classprune.job.report.ledger_section import HEADS, corruption_lines, data_lines, ledger_lines
from tests.job.report.pages import DELIVERED, DENSE, counts, example, row

MINUS = "\N{MINUS SIGN}"


def test_a_round_has_both_sides_and_what_it_took() -> None:
    dense, accepted, refused = ledger_lines(example().rows)
    assert dense["classes"] == [{"name": "crack", "numbers": ["1 of 4", "", "", "1 of 4", "", ""]}]
    assert accepted["classes"][0]["numbers"] == [
        "2 of 4",
        f"+2 {MINUS}1",
        "3.1 / 5",
        "0 of 4",
        f"+0 {MINUS}1",
        "6.2 / 10",
    ]
    assert [one["delivered"] for one in (dense, accepted, refused)] == [False, True, False]
    assert (accepted["epochs"], accepted["minutes"]) == (3, 1.5)


def test_what_is_not_guarded_or_not_known_is_said() -> None:
    now = counts(DENSE, DELIVERED, 1, judged=True, max_fp_rise=None, upper_bound=None)
    numbers = ledger_lines([row(1, "accepted", 0.5, {"crack": now})])[0]["classes"][0]["numbers"]
    assert numbers[2] == "\N{EN DASH} / 5"
    assert numbers[5] == "not guarded"
    (abandoned,) = ledger_lines([row(1, "abandoned", 0.5, {})])
    assert abandoned["classes"][0]["numbers"] == [""] * len(HEADS)


def test_an_improvement_has_a_minus() -> None:
    now = counts(DENSE, DELIVERED, 1, judged=True, upper_bound=-0.012)
    assert (
        ledger_lines([row(1, "accepted", 0.5, {"crack": now})])[0]["classes"][0]["numbers"][2]
        == f"{MINUS}1.2 / 5"
    )


def test_samples_are_counted_by_split_and_class() -> None:
    samples = {"guard": [("a", 0), ("b", 1), ("c", 1)], "test": []}
    assert data_lines(samples, ["x", "y"]) == [
        {"split": "guard", "size": 3, "classes": [1, 2]},
        {"split": "test", "size": 0, "classes": [0, 0]},
    ]


def test_a_corruption_has_dense_beside_delivered() -> None:
    dense, now = (counts(DENSE, one, 1, judged=one is DELIVERED) for one in (DENSE, DELIVERED))
    rows = [
        row(0, "baseline", 0.0, {"crack": dense}),
        row(1, "accepted", 0.5, {"crack": now}),
        row(2, "refused", 0.7, {"crack": now}),
    ]
    assert corruption_lines(rows) == []
    for one, there in zip(rows, (dense, now, dense), strict=True):
        one["corruptions"] = {"fog": {"verdict": one["verdict"], "reason": "", "classes": {"crack": there}}}
    (line,) = corruption_lines(rows)
    assert (line["corruption"], line["name"]) == ("fog", "crack")
    assert (line["dense"], line["missed"], line["change"]) == ("1 of 4", "2 of 4", f"+2 {MINUS}1")
    assert (line["rise"], line["alarms_rise"]) == ("3.1 / 5", "6.2 / 10")
    assert (line["dense_alarms"], line["alarms"]) == ("1 of 4", "0 of 4")
    assert corruption_lines([]) == []
