"""A table in a file: a row a sample, a column for the class, numbers in the others."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.checks import read_names
from lightning_classprune.job.data.splits import FRACTIONS, split_indices

#: How many times its spread a column may lie from zero: float32, in which networks compute, has seven digits.
FARTHEST = 1e5
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """Columns as they were read.

    Attributes:
        columns: Name -> text (of a CSV file) or numbers or objects, one a row.
        rows: What an error calls each row.
    """

    columns: Mapping[str, np.ndarray]
    rows: Sequence[str]


class TableData(SplitDataModule):
    """The rows of a CSV or Parquet file, standardised by the mean and standard deviation of the training part.

    All columns but `target`, `groups` and those of `drop` are features, in the file's order, and hold numbers; text
    must be encoded before. What a network gets and an exported file takes are these columns.

    Args:
        path: A `.csv` file with a header (its columns apart by commas, semicolons, tabs or bars), or a `.parquet` file,
            which needs pandas.
        target: The column of the classes, text or whole numbers.
        groups: A column whose equal values stay on one side of the split, such as a patient's number.
        drop: Columns that are not used, such as identifiers.
        fractions: Shares of train, val, guard and test.
        seed: Of the split.
        batch_size: Samples a batch.
        num_workers: Processes that read; 0 is fastest here.

    Raises:
        ValueError: (in `setup`) no such file or column; a value that is missing or no number, with its row and column.
        ModuleNotFoundError: A Parquet file without pandas.
    """

    def __init__(
        self,
        path: str,
        target: str,
        groups: str | None = None,
        drop: Sequence[str] = (),
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.path, self.target, self.groups, self.drop = Path(path), target, groups, tuple(drop)
        self.fractions, self.seed = fractions, seed

    def load(self) -> Splits:
        """Read, check and split the rows."""
        table = read_table(self.path)
        used = {self.target, *self.drop} | ({self.groups} if self.groups is not None else set())
        for argument, asked in (("target", [self.target]), ("groups", [self.groups]), ("drop", self.drop)):
            for name in asked:
                if name is not None and name not in table.columns:
                    raise ValueError(
                        f"{argument}={name!r}: {self.path} has no such column; it has {list(table.columns)}"
                    )
        features = [name for name in table.columns if name not in used]
        if not features:
            raise ValueError(f"{self.path}: no column is left for the features beside {sorted(used)}")
        y, names = self._classes(table)
        x = np.stack([self._numbers(table, name) for name in features], axis=1)
        groups = None if self.groups is None else self._groups(table, self.groups)
        indices = split_indices(y, self.fractions, self.seed, groups)
        splits = tensor_splits(torch.from_numpy(x), y, names, indices, names=table.rows)
        _check_spread(x[indices["train"].numpy()], features, self.path)
        return splits

    def _classes(self, table: Table) -> tuple[Tensor, list[str]]:
        values = self._text(table, self.target)
        names = sorted(set(values))
        if all(_whole(name) is not None for name in names):
            values = [str(_whole(value)) for value in values]
            names = sorted(set(values), key=int)
        if 2 * len(names) > len(values):
            raise ValueError(
                f"target={self.target!r}: {len(names)} different values in {len(values)} rows are no classes; give the "
                "column whose values repeat"
            )
        names = read_names(np.array(names), f"{self.path}: column {self.target!r}")
        index = {name: place for place, name in enumerate(names)}
        return torch.tensor([index[value] for value in values]), names

    def _numbers(self, table: Table, name: str) -> np.ndarray:
        column = table.columns[name]
        try:
            numbers = column.astype(np.float64)
        except (ValueError, TypeError):
            numbers = np.array([_number(value) for value in column.tolist()])
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if not len(wrong):
            return numbers
        # A text says more of a column than a missing value does.
        text = [
            row for row in wrong.tolist() if not _is_missing(column[row]) and math.isnan(_number(column[row]))
        ]
        row = text[0] if text else int(wrong[0])
        where = f"{self.path}: {table.rows[row]}, column {name!r}"
        if text:
            raise ValueError(
                f"{where} is {_told(column[row])}, which is no number; encode the column, or leave it out by "
                f"data.drop=[{name}]"
            )
        what = "is missing" if _is_missing(column[row]) else f"is {column[row]}, must be finite"
        more = f" ({len(wrong)} rows of this column are so)" if len(wrong) > 1 else ""
        raise ValueError(f"{where} {what}{more}; fill it in, or leave the row or the column out")

    def _groups(self, table: Table, name: str) -> Tensor:
        return torch.from_numpy(np.unique(self._text(table, name), return_inverse=True)[1])

    def _text(self, table: Table, name: str) -> list[str]:
        """A column as text, in which nothing is missing."""
        column = table.columns[name].tolist()
        row = next((row for row, value in enumerate(column) if _is_missing(value, text=True)), None)
        if row is not None:
            raise ValueError(f"{self.path}: {table.rows[row]}, column {name!r} is missing")
        return [str(value).strip() for value in column]


def read_table(path: Path) -> Table:
    """Read a file's columns.

    Raises:
        ValueError: It is not there, or no table; names the line.
        ModuleNotFoundError: A Parquet file without pandas, or what pandas needs for it.
    """
    if not path.is_file():
        raise ValueError(f"path={str(path)!r} is not a file")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read_csv(file, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def _read_csv(file: Any, path: Path) -> Table:
    header = file.readline()
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t|", key=header.count))
    names = [name.strip() for name in next(reader, [])]
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise ValueError(
            f"{path}: the first line must name two or more columns, each differently; it is {names[:20]}"
        )
    rows, lines = [], []
    for row in reader:
        if not row:
            continue  # an empty line
        if len(row) != len(names):
            raise ValueError(f"{path}: line {reader.line_num} has {len(row)} values for {len(names)} columns")
        rows.append(row)
        lines.append(f"line {reader.line_num}")
    if not rows:
        raise ValueError(f"{path} has no rows")
    return Table(
        {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}, lines
    )


def _read_parquet(path: Path) -> Table:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        hint = "a Parquet file needs pandas and pyarrow: pip install 'lightning-classprune[parquet]'"
        raise ModuleNotFoundError(hint, name=error.name) from error
    except Exception as error:  # of whichever reader pandas has
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    return Table(columns, [f"row {row}" for row in range(len(frame))])


def _check_spread(train: np.ndarray, features: Sequence[str], path: Path) -> None:
    """Warn of columns that say nothing, and refuse those of which float32 cannot hold the differences."""
    low, high = train.min(0), train.max(0)
    constant = [name for name, one in zip(features, low == high, strict=True) if one]
    if constant:
        rank_zero_warn(
            f"{path}: {len(constant)} columns hold one value in the training part: {constant[:_SHOWN]}"
        )
    far = np.abs(train.mean(0)) > FARTHEST * np.where(low == high, np.inf, train.std(0))
    if far.any():
        name, place = features[int(far.argmax())], int(far.argmax())
        raise ValueError(
            f"{path}: column {name!r} runs from {low[place]:.10g} to {high[place]:.10g}: networks compute with seven "
            "digits, which do not tell its values apart; subtract an offset before, or leave it out with "
            f"data.drop=[{name}]"
        )


def _is_missing(value: Any, *, text: bool = False) -> bool:
    """Whether nothing stands there; `none` and the like may be a class' name, nothing at all may not."""
    if isinstance(value, str):
        return value.strip() == "" if text else value.strip().casefold() in _MISSING
    return value is None or value != value or str(value) == "<NA>"


def _number(value: Any) -> float:
    """The number, or NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _whole(text: str) -> int | None:
    number = _number(text)
    return int(number) if abs(number) < 2**53 and number == int(number) else None


def _told(value: Any) -> str:
    shown = repr(value if not isinstance(value, np.generic) else value.item())
    return shown if len(shown) < 80 else f"{shown[:77]}..."
