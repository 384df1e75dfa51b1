"""Trees of folders: which folders are classes, which are parts, and what in them is not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_classprune.job.data.splits import PARTS

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = (
    "expected is root/CLASS/IMAGE for every class, or root/train/CLASS/IMAGE and the same below any of root/val, "
    "root/guard and root/test"
)
#: What a folder of a part may be called, in any case.
SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "guard": "guard",
    "test": "test",
    "testing": "test",
}
#: What other programs leave beside a user's folders; names that begin with a dot are no user's either.
_LEFT_BEHIND = {
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "__macosx",
    "__pycache__",
    "lost+found",
    "system volume information",
}
_DEEPEST = 8
_SHOWN = 5

Classes = Mapping[str, list[Path]]


@dataclass(frozen=True)
class Tree:
    """Images by part and class.

    Attributes:
        parts: Part -> class -> its files, sorted; the one part `""` where the tree is not cut into parts.
        folders: That were not used, and why.
        files: That were not used, by extension.
    """

    parts: Mapping[str, Classes]
    folders: tuple[str, ...]
    files: Mapping[str, int]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted; all parts have the same."""
        return sorted(next(iter(self.parts.values())))

    def unused(self) -> str | None:
        """What was not used, in one line."""
        told = []
        if self.folders:
            more = f" and {len(self.folders) - _SHOWN} more" if len(self.folders) > _SHOWN else ""
            told.append(f"folders {', '.join(self.folders[:_SHOWN])}{more}")
        if self.files:
            counts = ", ".join(
                f"{count} {suffix or 'without extension'}" for suffix, count in self.files.items()
            )
            told.append(f"files {counts}")
        return "; ".join(told) or None


def read_tree(root: Path) -> Tree:
    """Find the classes of `root`, and its parts if it has some.

    A tree has parts where a folder named `train`, or as `SYNONYMS` has it, holds class folders. Folders that other
    programs left behind and folders without an image are no classes.

    Raises:
        ValueError: There is no such folder or class; classes are inside classes; the parts have other classes than
            `train`; says which layout was expected.
    """
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder")
    return _Reader(root).read()


class _Reader:
    """Reads one tree, and notes on its way what is not used."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: list[str] = []
        self._files: Counter[str] = Counter()

    def read(self) -> Tree:
        parts = self._parts() or {"": self._classes(self._root)}
        first, *others = parts.items()
        if len(first[1]) < 2:
            raise ValueError(self._too_few(self._root / first[0], first[1]))
        for part, classes in others:
            if classes.keys() != first[1].keys():
                missing, more = (
                    sorted(first[1].keys() - classes.keys()),
                    sorted(classes.keys() - first[1].keys()),
                )
                told = [f"lacks {missing}"] * bool(missing) + [f"has {more} beside"] * bool(more)
                raise ValueError(
                    f"root={str(self._root)!r}: {part} has classes {sorted(classes)}, train {sorted(first[1])}: it "
                    f"{' and '.join(told)}; {LAYOUT}"
                )
        for file in (file for classes in parts.values() for files in classes.values() for file in files):
            _check_text(file)
        return Tree(parts, tuple(self._folders), dict(self._files.most_common()))

    def _parts(self) -> dict[str, Classes] | None:
        """The classes of each part; None where the tree has no parts."""
        named: dict[str, list[Path]] = {}
        others = []
        for folder in _folders(self._root):
            part = SYNONYMS.get(folder.name.casefold())
            if part is None:
                others.append(folder)
            else:
                named.setdefault(part, []).append(folder)
        if not any(_holds_images(inner) for train in named.get("train", []) for inner in _folders(train)):
            if named and not others:
                names = sorted(folder.name for folders in named.values() for folder in folders)
                raise ValueError(
                    f"root={str(self._root)!r}: {names} are named as parts are, and there is no train with classes in "
                    f"it; {LAYOUT}"
                )
            return None
        for part, folders in named.items():
            if len(folders) > 1:
                names = sorted(folder.name for folder in folders)
                raise ValueError(f"root={str(self._root)!r}: {names} are all {part}; leave one of them")
        for folder in (*others, *self._left_behind(self._root)):
            self._note(folder, "no part")
        self._count_files(self._root, images=True)
        return {part: self._classes(named[part][0]) for part in PARTS if part in named}

    def _classes(self, folder: Path) -> Classes:
        """Class -> its files."""
        found: dict[str, list[Path]] = {}
        for one in self._left_behind(folder):
            self._note(one, "left by another program")
        self._count_files(folder, images=True)
        for one in _folders(folder):
            images = sorted(file for file in _files(one) if _is_image(file))
            inner = [below for below in _folders(one) if _holds_images(below, _DEEPEST)]
            if inner:
                raise ValueError(self._too_deep(folder, one, inner, images))
            if not images:
                self._note(one, "no image")
                self._count_files(one)
                continue
            for below in (*self._left_behind(one), *_folders(one)):
                self._note(below, "in a class")
            self._count_files(one)
            found[one.name] = images
        return found

    def _too_deep(self, folder: Path, one: Path, inner: list[Path], images: list[Path]) -> str:
        """Why classes inside classes are refused, and what may be meant."""
        names = [below.name for below in inner[:_SHOWN]]
        told = f"root={str(self._root)!r}: {one.relative_to(self._root)} holds the folders {names} with images in them"
        if len(_folders(folder)) == 1 and folder == self._root and not images:
            return f"{told}; are they the classes? Then give root={str(one)!r}; {LAYOUT}"
        return f"{told}, and classes have no classes in them: move the images up, or give that folder as root; {LAYOUT}"

    def _too_few(self, folder: Path, classes: Classes) -> str:
        there = f"only the class {list(classes)}" if classes else "no folder with images"
        unused = Tree({"": classes}, tuple(self._folders), dict(self._files)).unused()
        said = f" (not used: {unused})" if unused else ""
        return f"root={str(self._root)!r}: {folder} holds {there}{said}; there must be two classes or more; {LAYOUT}"

    def _left_behind(self, folder: Path) -> list[Path]:
        return [one for one in _entries(folder) if one.is_dir() and _is_left_behind(one)]

    def _note(self, folder: Path, why: str) -> None:
        self._folders.append(f"{folder.relative_to(self._root).as_posix()!r} ({why})")

    def _count_files(self, folder: Path, *, images: bool = False) -> None:
        """Count the files of a folder that are not used; of a class folder these are no images."""
        self._files.update(file.suffix.lower() for file in _files(folder) if images or not _is_image(file))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[Path]:
    return [one for one in _entries(folder) if one.is_dir() and not _is_left_behind(one)]


def _files(folder: Path) -> Iterator[Path]:
    return (one for one in _entries(folder) if not one.is_dir() and not one.name.startswith("."))


def _is_left_behind(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name.casefold() in _LEFT_BEHIND


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS


def _holds_images(folder: Path, depth: int = 0) -> bool:
    """Whether there are images in a folder, or in folders so deep below it."""
    return any(_is_image(file) for file in _files(folder)) or (
        depth > 0 and any(_holds_images(one, depth - 1) for one in _folders(folder))
    )


def _check_text(file: Path) -> None:
    """Refuse a name that no text file can hold, such as that of the samples."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the file name {str(file)!r} is not UTF-8; rename it") from error
