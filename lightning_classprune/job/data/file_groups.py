"""Groups of files: what must stay on one side of a split, as a pattern or a table says, and where names suggest it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_warn

#: `patient07_3`, `slide 2-left`, `IMG_1 (2)`: what stands before the last piece.
_LAST_PIECE = re.compile(r"^(?P<group>.*\d.*?)[ _.\-]+\(?[0-9a-zA-Z]+\)?$")


def file_groups(groups: str, names: Sequence[str]) -> list[str] | None:
    """The group of each file; None where there are no groups.

    Args:
        groups: `auto` (none, and a warning where the names suggest some), `none`, the path of a `.csv` file with the
            columns `file` and `group`, or a regular expression that is searched for in each file's name: what its
            parentheses match, or without any the whole match, is the group.
        names: Of the files, relative to the folder of all data.

    Raises:
        ValueError: A pattern that is none or fits a file nowhere; a table that cannot be read or lacks a file.
    """
    if groups == "none":
        return None
    if groups == "auto":
        warn_of_groups(names)
        return None
    if groups.lower().endswith(".csv"):
        return _from_table(Path(groups), names)
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise ValueError(
            f"groups={groups!r} is neither 'auto', 'none', a .csv file nor a regular expression: {error}"
        ) from error
    return [_matched(pattern, name) for name in names]


def _matched(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.search(name.rpartition("/")[2])
    if found is None or not found[0]:
        raise ValueError(
            f"groups={pattern.pattern!r} matches nothing in {name!r}; it must match in every file's name"
        )
    return "\0".join(part or "" for part in found.groups()) if pattern.groups else found[0]


def _from_table(path: Path, names: Sequence[str]) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                raise ValueError(f"has the columns {reader.fieldnames}; 'file' and 'group' are needed")
            rows = [(row["file"], row["group"]) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"groups={str(path)!r}: {error}") from error
    table: dict[str, str] = {}
    for row, (file_name, group) in enumerate(rows, start=2):
        if not file_name or not group:
            raise ValueError(f"groups={str(path)!r}: line {row} lacks its file or its group")
        if table.setdefault(file_name, group) != group:
            raise ValueError(f"groups={str(path)!r}: line {row} gives {file_name!r} a second group")
    short = Counter(name.rpartition("/")[2] for name in names)
    found = []
    for name in names:
        last = name.rpartition("/")[2]
        group = table.get(name) or (table.get(last) if short[last] == 1 else None)
        if group is None:
            raise ValueError(
                f"groups={str(path)!r} has no line for {name!r}; a line holds a file's path below the folder of all "
                "data, or its name where no other file has that"
            )
        found.append(group)
    return found


def warn_of_groups(names: Sequence[str]) -> None:
    """Say that names suggest groups, where they do."""
    if (example := suggested(names)) is not None:
        count, name, group = example
        rank_zero_warn(
            f"file names such as {name!r} suggest {count} groups, such as {group!r}: images of one part, patient or "
            "photograph on both sides of a split make every number too good. Keep them together by a pattern, such as "
            "data.groups='\"^(.*)[-_ ]\"', or by a table; data.groups=none if they are not related"
        )


def suggested(names: Sequence[str]) -> tuple[int, str, str] | None:
    """How many groups the names suggest, one of those names, and its group; None where they suggest none.

    They do where most names have a number before their last piece, and that much is shared by two files on average.
    """
    stems = [(name, name.rpartition("/")[2].rpartition(".")[0]) for name in names]
    found = {name: match["group"] for name, stem in stems if (match := _LAST_PIECE.match(stem))}
    groups = Counter(found.values())
    if 2 * len(found) < len(names) or len(groups) < 2 or 2 * len(groups) > len(found):
        return None
    group, _ = groups.most_common(1)[0]
    return len(groups), next(name for name, one in found.items() if one == group), group


def check_one_side(groups: Sequence[str], names: Sequence[str], parts: Sequence[str]) -> None:
    """Refuse groups with files in several parts that were given.

    Raises:
        ValueError: Names the group, and a file of it in either part.
    """
    home: dict[str, int] = {}
    for place, group in enumerate(groups):
        first = home.setdefault(group, place)
        if parts[first] != parts[place]:
            one, other = (f"{parts[i]} ({names[i]!r})" for i in (first, place))
            raise ValueError(f"groups: {group!r} is in {one} and in {other}; move its files to one side")
