"""Groups of files, by pattern, by table and by guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_classprune.job.data.file_groups import check_one_side, file_groups, suggested

NAMES = ["bad/p1_1.png", "bad/p1_2.png", "bad/p2_1.png", "good/p2_2.png", "good/p1_3.png", "good/p2_3.png"]


@pytest.mark.parametrize("pattern", ["^[^_]+", "^(p.)_", r"^p(\d)", r"^(?:p)(\d)_(?=\d)"])
def test_a_pattern_names_the_group(pattern: str) -> None:
    found = file_groups(pattern, NAMES)
    assert found is not None
    assert [found.index(one) for one in found] == [0, 0, 2, 2, 0, 2]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^q", r"groups='\^q' matches nothing in 'bad/p1_1\.png'"),
        ("x*", "matches nothing"),  # the empty text everywhere is no group
        ("(", "nor a regular expression"),
        ("bad", "matches nothing in 'bad/p1_1"),  # a class is no group
    ],
)
def test_a_pattern_that_does_not_fit_is_named(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        file_groups(pattern, NAMES)


def test_a_table_names_the_group(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    lines = [
        "group,file",
        *(f"{name[-7:-6]},{name}" for name in NAMES[:5]),
        "z,p2_3.png",
        "q,of another set.png",
    ]
    table.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert file_groups(str(table), NAMES) == [*(name[-7:-6] for name in NAMES[:5]), "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,patient\n", r"has the columns \['file', 'patient'\]"),
        ("", "has the columns None"),
        ("file,group\nbad/p1_1.png,a\n", r"has no line for 'bad/p1_2\.png'"),
        ("file,group\nbad/p1_1.png,\n", "line 2 lacks its file or its group"),
        ("file,group\nbad/p1_1.png\n", "line 2 lacks"),
        ("file,group\na.png,1\na.png,2\n", r"line 3 gives 'a\.png' a second group"),
    ],
)
def test_a_table_that_does_not_fit_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        file_groups(str(tmp_path / "groups.csv"), NAMES)
    with pytest.raises(ValueError, match=r"lost\.csv.*No such file"):
        file_groups(str(tmp_path / "lost.csv"), NAMES)


def test_one_name_in_two_folders_needs_its_path(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("file,group\n1.png,a\n")
    with pytest.raises(ValueError, match=r"no line for 'bad/1.png'"):
        file_groups(str(tmp_path / "groups.csv"), ["bad/1.png", "good/1.png"])


def several(*forms: str) -> list[str]:
    return [form.format(a=a, b=b) for form in forms for a in range(5) for b in range(4)]


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (several("bad/patient{a}_{b}.png"), "patient0"),
        (several("p{a}-left{b}.png", "p{a}-right{b}.png"), "p0"),
        (several("2023-01-0{a} {b}.jpg"), "2023-01-00"),
        (several("img{a} ({b}).png"), "img0"),
        (several("slide_{a}_tile_{b}.tif"), "slide_0_tile"),
    ],
)
def test_names_that_suggest_groups(names: list[str], group: str) -> None:
    found = suggested(names)
    assert found is not None
    assert (found[0], found[2]) == (5, group)
    with pytest.warns(UserWarning, match=f"suggest 5 groups, such as '{group}'.*data.groups=none"):
        assert file_groups("auto", names) is None


@pytest.mark.parametrize(
    "names",
    [
        several("IMG_{a}{b}.jpg"),
        several("{a}{b}.png"),
        several("frame_{a}{b}_crack.png"),
        [f"{n:032x}.png" for n in range(40)],
        several("cat.{a}{b}.jpg"),
        [],
    ],
)
def test_names_that_do_not(names: list[str], recwarn: pytest.WarningsRecorder) -> None:
    assert file_groups("auto", names) is None
    assert file_groups("none", several("patient{a}_{b}.png")) is None
    assert not recwarn


def test_a_group_in_two_given_parts_is_refused() -> None:
    check_one_side(["a", "a", "b"], ["1", "2", "3"], ["train", "train", "test"])
    with pytest.raises(ValueError, match=r"groups: 'a' is in train \('1'\) and in test \('3'\)"):
        check_one_side(["a", "b", "a"], ["1", "2", "3"], ["train", "train", "test"])
