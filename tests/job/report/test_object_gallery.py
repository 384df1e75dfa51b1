"""What a report shows of objects: outlines by unit, the tables, and what it leaves out."""

from __future__ import annotations

from lightning_classprune.job.comparison import compared
from lightning_classprune.job.report.comparison_section import COLUMNS, comparison_lines
from lightning_classprune.job.report.object_gallery import missed_objects, outlined_objects
from lightning_classprune.job.report.page import PageData, render
from tests.job.objects.test_answers import DELIVERED, DENSE, PICTURES, SAMPLES


def test_objects_are_outlined_where_they_are_by_unit() -> None:
    group = outlined_objects({"dense": DENSE, "delivered": DELIVERED}, PICTURES, SAMPLES, [1])[0]
    assert group["counts"] == {"lost": 2, "won": 1, "alarms": 1}
    first = group["pictures"][0]
    assert first["caption"] == "unit 5, a.png: 1 newly missed, 1 new false alarm"
    assert {"kind": "lost", "x": 0.0, "y": 0.0, "width": 2.0, "height": 2.0} in first["outlines"]
    assert {"kind": "alarm", "x": 10.0, "y": 10.0, "width": 2.0, "height": 2.0} in first["outlines"]
    assert len(group["pictures"]) == 2
    assert outlined_objects({}, None, {}, [1]) == []


def test_a_page_of_objects_has_outlines_and_neither_curve_nor_matrix() -> None:
    page = render(
        PageData(
            rows=[],
            class_names=("background", "cell"),
            protected=[1],
            guard={"dense": DENSE.found, "delivered": DELIVERED.found},
            scores={"guard": {"dense": DENSE, "delivered": DELIVERED}},
            samples=SAMPLES,
            object_pictures=PICTURES,
        )
    )
    assert page.count('<svg class="outlines" viewBox') == 2
    assert '<rect class="lost" x="0.0" y="0.0" width="2.0" height="2.0"/>' in page
    assert "cell: 2 newly missed, 1 newly found; more unmatched predictions in 1 samples" in page
    assert "Objects have no ROC curve" in page
    assert "Confusion on the guard data" not in page


def test_the_tables_tell_objects_without_and_units_with_an_interval() -> None:
    scores = {"guard": {"dense": DENSE, "delivered": DELIVERED}}
    lines = {line["what"]: line["cells"] for line in comparison_lines(compared(scores, ["cell"]))["cell"]}
    assert list(lines) == [
        "Missed objects",
        "Unmatched predictions",
        "Units that count as missed",
        "Units with unmatched predictions",
    ]
    dense, delivered, *test = lines["Missed objects"]
    assert (dense["rate"].count, delivered["rate"].count, delivered["rate"].interval) == (1, 2, None)
    assert [one["told"] for one in test] == ["\N{EN DASH}"] * 2
    assert lines["Unmatched predictions"][1]["told"] == "2"
    assert lines["Units that count as missed"][1]["rate"].interval is not None
    assert len(COLUMNS) == len(lines["Missed objects"])


def test_samples_with_missed_objects_are_listed_the_worst_first() -> None:
    found = missed_objects({"guard": {"delivered": DELIVERED}}, SAMPLES, ["cell"])
    assert found[0]["total"] == 2
    assert found[0]["shown"] == ["a.png (1)", "c.png (1)"]
