"""Trees of folders: what is a class, a part, or neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_classprune.job.data.folders import read_tree


def made(root: Path, *files: str) -> Path:
    """Empty files, and empty folders where a name ends in a slash."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


TWO = ("bad/1.png", "bad/2.JPG", "good/1.png")
SPLIT = tuple(f"{part}/{file}" for part in ("train", "test") for file in TWO)


def test_classes_are_the_folders_with_images(tmp_path: Path) -> None:
    tree = read_tree(made(tmp_path, *TWO))
    assert tree.classes == ["bad", "good"]
    assert tree.parts == {
        "": {"bad": [tmp_path / "bad/1.png", tmp_path / "bad/2.JPG"], "good": [tmp_path / "good/1.png"]}
    }
    assert tree.unused() is None


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "__pycache__", ".git", "$RECYCLE.BIN", "lost+found"]
)
def test_what_other_programs_leave_behind_is_no_class_and_said(name: str, tmp_path: Path) -> None:
    made(tmp_path, *TWO, f"{name}/1.png", f"bad/{name}/1.png", f"bad/{name}/below/1.png", "good/._1.png")
    tree = read_tree(tmp_path)
    assert tree.classes == ["bad", "good"]
    assert sum(map(len, tree.parts[""].values())) == 3
    assert tree.unused() == f"folders '{name}' (left by another program), 'bad/{name}' (in a class)"


def test_folders_and_files_without_images_are_said(tmp_path: Path) -> None:
    made(
        tmp_path,
        *TWO,
        "notes/a.txt",
        "empty/",
        "cover.png",
        "bad/a.txt",
        "bad/b.txt",
        "good/c.GIF",
        "good/raw",
    )
    unused = read_tree(tmp_path).unused()
    assert unused == (
        "folders 'empty' (no image), 'notes' (no image); files 3 .txt, 1 .png, 1 .gif, 1 without extension"
    )


@pytest.mark.parametrize(
    "named",
    [
        {"train": "Train", "val": "Val", "test": "Test"},
        {"train": "training", "val": "validation", "test": "testing"},
        {"train": "train", "val": "valid", "guard": "GUARD"},
    ],
)
def test_parts_are_known_by_other_names(named: dict[str, str], tmp_path: Path) -> None:
    for folder in named.values():
        made(tmp_path / folder, *TWO)
    tree = read_tree(tmp_path)
    assert list(tree.parts) == list(named)
    assert tree.parts["train"]["good"] == [tmp_path / named["train"] / "good/1.png"]


@pytest.mark.parametrize("names", [("train", "car"), ("valid", "invalid"), ("test", "control")])
def test_a_class_may_be_called_as_a_part_is(names: tuple[str, str], tmp_path: Path) -> None:
    assert read_tree(made(tmp_path, *(f"{name}/1.png" for name in names))).classes == sorted(names)


def test_what_stands_beside_the_parts_is_said(tmp_path: Path) -> None:
    made(tmp_path, *SPLIT, "extra/1.png", "__MACOSX/1.png", "labels.csv", "train/readme.txt")
    assert read_tree(tmp_path).unused() == (
        "folders 'extra' (no part), '__MACOSX' (no part); files 1 .csv, 1 .txt"
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no folder with images; there must be two classes or more; expected is root/CLASS/IMAGE"),
        (["bad/1.png"], r"holds only the class \['bad'\]"),
        (["bad/1.txt", "good/1.txt"], r"no folder with images \(not used: .*2 .txt\)"),
        (["set/bad/1.png", "set/good/1.png"], r"set holds .*are they the classes\? Then give root='.*set'"),
        (["animal/cat/1.png", "plant/oak/1.png"], r"animal holds the folders \['cat'\] with images in them"),
        ([*TWO, "bad/deep/deeper/1.png"], r"bad holds the folders \['deep'\]"),
        (["train/1.png", "test/1.png"], r"\['test', 'train'\] are named as parts are"),
        (["val/bad/1.png", "val/good/1.png", "test/bad/1.png"], r"\['test', 'val'\] are named as parts are"),
        ([*SPLIT, "Training/bad/1.png"], r"\['Training', 'train'\] are all train"),
        ([*SPLIT, "val/bad/1.png", "valid/bad/1.png"], r"\['val', 'valid'\] are all val"),
        ([*SPLIT, "val/bad/1.png"], r"val has classes \['bad'\].*: it lacks \['good'\]; expected"),
        ([*SPLIT, "guard/Bad/1.png"], r"it lacks \['bad', 'good'\] and has \['Bad'\] beside"),
        ([*SPLIT, "guard/1.png"], r"guard has classes \[\]"),
    ],
)
def test_other_trees_are_refused_with_the_layout(files: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_tree(made(tmp_path, *files))
    assert "root/train/CLASS/IMAGE" in str(caught.value) or " are all " in str(caught.value)


def test_a_root_that_is_none_and_a_name_that_no_text_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        read_tree(tmp_path / "nix")
    made(tmp_path, *TWO, "bad/\udcff.png")
    with pytest.raises(ValueError, match="is not UTF-8; rename it"):
        read_tree(tmp_path)


def test_a_tree_that_links_to_itself_ends(tmp_path: Path) -> None:
    made(tmp_path, *TWO)
    (tmp_path / "bad" / "again").symlink_to(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"bad holds the folders \['again'\]"):
        read_tree(tmp_path)
