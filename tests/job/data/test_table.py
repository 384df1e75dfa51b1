"""Tables: what is read, and what is refused with its row and column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_classprune.job.data.base import TensorBatches
from lightning_classprune.job.data.splits import PARTS
from lightning_classprune.job.data.table import TableData
from tests.job.data.test_base import labels_of

HEADER = ["id", "width", "height", "part", "fault"]


def rows(count: int = 80) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [
        [
            f"n{i}",
            f"{rng.normal(50, 9):.3f}",
            f"{rng.normal(-2, 0.1):.5f}",
            f"p{i // 4}",
            ("none", "crack")[i // 4 % 2],
        ]
        for i in range(count)
    ]


def written(path: Path, table: list[list[str]], header: list[str] = HEADER, apart: str = ",") -> Path:
    path.write_text("\n".join(apart.join(row) for row in [header, *table]) + "\n", encoding="utf-8")
    return path


def read(path: Path, **arguments: Any) -> TableData:
    data = TableData(str(path), **{"target": "fault", "drop": ["id", "part"]} | arguments)
    data.setup()
    return data


@pytest.mark.parametrize("apart", [",", ";", "\t", "|"])
def test_numbers_are_standardised_on_the_training_part(apart: str, tmp_path: Path) -> None:
    data = read(written(tmp_path / "a.csv", rows(), apart=apart))
    assert data.class_names == ["crack", "none"]
    assert (data.in_features, data.image_size, data.class_counts) == (2, (), [20, 20])
    x = torch.cat([x for x, _ in data.train_dataloader()])
    assert torch.allclose(x.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std(0, correction=0), torch.ones(2), atol=1e-5)
    assert [len(labels_of(data, part)) for part in PARTS] == [40, 8, 20, 12]
    name, label = data.splits.samples["test"][0]
    number = int(name.removeprefix("line ")) - 2
    row = rows()[number]
    assert data.class_names[label] == row[4]
    first, _ = data.splits.parts["test"][0]
    assert data.raw(first).tolist() == pytest.approx([float(row[1]), float(row[2])], rel=1e-5)


def test_rows_of_one_group_stay_in_one_part(tmp_path: Path) -> None:
    data = read(written(tmp_path / "a.csv", rows()), drop=["id"], groups="part")
    homes: dict[str, set[str]] = {}
    for part, its in data.splits.samples.items():
        for name, _ in its:
            homes.setdefault(rows()[int(name.removeprefix("line ")) - 2][3], set()).add(part)
    assert len(homes) == 20
    assert all(len(parts) == 1 for parts in homes.values())


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    for names in (["2", "10"], ["2.0", "10.0"]):
        table = [[*row[:4], names[row[4] == "crack"]] for row in rows()]
        assert read(written(tmp_path / "a.csv", table)).class_names == ["2", "10"]


def changed(row: int, column: int, value: str) -> list[list[str]]:
    table = rows()
    table[row][column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(17, 1, ""), r"a\.csv: line 19, column 'width' is missing; fill it in"),
        (changed(17, 1, "NaN"), "line 19, column 'width' is missing"),
        (changed(17, 2, " "), "line 19, column 'height' is missing"),
        (changed(3, 1, "inf"), "line 5, column 'width' is inf, must be finite"),
        (
            changed(3, 1, "wide"),
            r"line 5, column 'width' is 'wide', which is no number; .*data.drop=\[width\]",
        ),
        (changed(3, 1, "1,5"), "line 5 has 6 values for 5 columns"),
        (changed(3, 1, "x" * 500), r"column 'width' is 'x{76}\.\.\."),
        (changed(3, 4, ""), "line 5, column 'fault' is missing"),
        (
            [[*row[:4], str(i)] for i, row in enumerate(rows())],
            "target='fault': 80 different values in 80 rows",
        ),
        ([[*row[:4], "same"] for row in rows()], "must be the names of two or more classes"),
        ([], "has no rows"),
        (
            [[row[0], f"{1.7e9 + i}", *row[2:]] for i, row in enumerate(rows())],
            "'width' runs from 17000000.* seven digits",
        ),
    ],
)
def test_what_is_wrong_is_said_with_row_and_column(
    table: list[list[str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "a.csv", table))


def test_text_is_said_before_what_is_missing(tmp_path: Path) -> None:
    table = changed(60, 1, "red")
    table[2][1] = ""
    with pytest.raises(ValueError, match="line 62, column 'width' is 'red'"):
        read(written(tmp_path / "a.csv", table))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "kind"}, r"target='kind': .*has no such column; it has \['id', 'width'"),
        ({"groups": "patient"}, "groups='patient'"),
        ({"drop": ["id", "no"]}, "drop='no'"),
        ({"drop": HEADER[:4]}, "no column is left"),
        ({"drop": ["part"]}, "line 2, column 'id' is 'n0', which is no number"),
    ],
)
def test_columns_that_are_not_there_are_named(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path / "a.csv", rows()), **arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line must name two or more columns"),
        (b"one\n1\n", "the first line must name two or more columns"),
        (b"a,a\n1,2\n", "each differently"),
        (b"a,\n1,2\n", "each differently"),
        (b"\xff\xfe\x00a,b", "is no CSV file in UTF-8"),
        (b'a,fault\n"' + b"x" * 200_000 + b'",1\n', "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"path='.*lost\.csv' is not a file"):
        read(tmp_path / "lost.csv")


def test_columns_that_say_nothing_are_warned_of(tmp_path: Path) -> None:
    table = [[*row[:2], "7", *row[3:]] for row in rows()]
    with pytest.warns(UserWarning, match=r"1 columns hold one value in the training part: \['height'\]"):
        read(written(tmp_path / "a.csv", table))


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="reads Parquet")
    pytest.importorskip("pyarrow", reason="reads Parquet for pandas")
    frame = pandas.DataFrame(rows(), columns=HEADER).astype({"width": float, "height": float})
    frame.to_parquet(tmp_path / "a.parquet")
    ours = read(tmp_path / "a.parquet").splits.parts["test"]
    theirs = read(written(tmp_path / "a.csv", rows())).splits.parts["test"]
    assert isinstance(ours, TensorBatches)
    assert isinstance(theirs, TensorBatches)
    assert torch.equal(ours.x, theirs.x)
    frame.loc[17, "width"] = None
    frame.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: row 17, column 'width' is missing"):
        read(tmp_path / "b.parquet")


def test_parquet_without_its_packages_and_what_is_no_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises((ValueError, ModuleNotFoundError), match=r"is no Parquet file|\[parquet\]"):
        read(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-classprune\[parquet\]'"):
        read(tmp_path / "a.parquet")
