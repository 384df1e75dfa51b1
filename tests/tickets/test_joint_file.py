"""A ladder in one file: the same tickets, fewer bytes, and no harm from files of strangers."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from lightning_classprune.tickets.joint import MOST_MEMBERS
from lightning_classprune.tickets.joint_file import FORMAT, read_ladder, save_ladder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import open_blobs
from tests.support.compare import assert_same
from tests.support.ladders import card, network, written


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A nested ladder in one file, beside the folder that it comes from."""
    written(tmp_path / "tickets", offsets={"crack": 0.25})
    save_ladder(tmp_path / "one.safetensors", read_ladder(tmp_path / "tickets"))
    return tmp_path / "one.safetensors"


@pytest.mark.parametrize("nested", [True, False])
def test_one_file_holds_every_ticket(nested: bool, tmp_path: Path) -> None:
    made = written(tmp_path, nested, offsets={"crack": 0.25})
    ladder = read_ladder(tmp_path)
    counted = tuple(replace(one, multiplications=7, ms=1.5) for one in ladder.members)
    size = save_ladder(tmp_path / "one", replace(ladder, members=counted))
    found = read_ladder(tmp_path / "one", network())
    assert size == (tmp_path / "one").stat().st_size
    for number, (state, masks) in enumerate(made):
        assert_same(found.network(number)[0], state)
        assert_same(found.network(number)[1], masks)
    # Milliseconds are of the machine that measured them.
    assert found.members == tuple(replace(one, ms=None) for one in counted)
    assert [[part.of for part in parts] for parts in found.parts] == [
        [part.of for part in parts] for parts in ladder.parts
    ]


def test_the_same_tickets_make_the_same_bytes(saved: Path) -> None:
    again = saved.with_name("again")
    save_ladder(again, read_ladder(saved))
    assert again.read_bytes() == saved.read_bytes()


def test_nested_tickets_together_are_hardly_more_than_the_densest(tmp_path: Path) -> None:
    sizes = {}
    for nested in (True, False):
        folder = tmp_path / str(nested)
        written(folder, nested)
        ladder = read_ladder(folder)
        save_ladder(folder / "one", ladder)
        blobs, _ = open_blobs(folder / "one")
        sizes[nested] = sum(len(blob) for name, blob in blobs.items() if name.startswith(("index", "values")))
        alone = sum(len(b) for n, b in blobs.items() if n.startswith(("index.0", "values.0")))
        assert sizes[nested] < 1.2 * alone or not nested
    assert sizes[True] < 0.75 * sizes[False]


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A file in which JSON and blobs are others, with hashes that are right."""
    blobs = {name: array.tobytes() for name, array in load_file(path).items()}
    content: dict[str, Any] = {
        name: json.loads(zlib.decompress(blobs[name])) for name in ("tensors", "members")
    } | {name: blob for name, blob in blobs.items() if name not in ("tensors", "members")}
    change(content)
    packed = {
        name: one if isinstance(one, bytes) else zlib.compress(json.dumps(one).encode())
        for name, one in content.items()
    }
    return write(path.with_name("changed"), packed)


def write(path: Path, blobs: dict[str, bytes]) -> Path:
    told = zlib.decompressobj().decompress(blobs["members"], 2**20)
    metadata = {"format": FORMAT, "version": "1", "members_sha256": sha256(told).hexdigest()}
    save_file({name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}, path, metadata)
    return path


def set_part(number: int, place: int, code: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["members"][number]["parts"].__setitem__(place, code)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_part(0, 0, 4 + 1), "a tensor that is told by 5"),  # by its own places
        (set_part(0, 0, 1), "a tensor that is told by 1"),  # by nobody's values
        (set_part(1, 0, -3), "a tensor that is told by -3"),
        (set_part(1, 0, "4"), "a tensor that is told by 4"),
        (set_part(1, 0, 4 + 2), "is damaged"),  # no mask, so more values than there are
        (lambda c: c["members"][1]["parts"].pop(), "does not have 9 tensors"),
        (lambda c: c["members"].reverse(), "not in order"),
        (lambda c: c.update(members=[]), "it has 0 tickets"),
        (lambda c: c.update(members=c["members"] * MOST_MEMBERS), "1 to 64 are read"),
        (lambda c: c.update(members={"a": 1}), "without a round"),
        (lambda c: c["members"][1].update(sha256="0" * 64), "SHA-256 of round 1"),
        (lambda c: c["members"][1].update(multiplications=-1), "round 1 is not what a ladder says"),
        (lambda c: c["members"][1]["card"].pop("verdict"), "no verdict of round 1"),
        (lambda c: c.pop("index.1"), "is damaged"),
        (lambda c: c.update({"index.7": zlib.compress(b"")}), "parts of no ticket: index.7"),
        (lambda c: c["tensors"][0].__setitem__(2, [2**30, 2**10]), "is damaged"),
        (lambda c: c["tensors"][0].__setitem__(1, "qint8"), "is damaged"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None], error: str, saved: Path
) -> None:
    with pytest.raises(ValueError, match=error):
        read_ladder(changed(saved, change))


def test_no_flipped_bit_goes_unnoticed(saved: Path) -> None:
    whole, ladder = saved.read_bytes(), read_ladder(saved)
    unnoticed = 0
    for place in range(0, len(whole), 41):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            found = read_ladder(saved)
        except ValueError:
            continue
        unnoticed += 1
        assert found.members == ladder.members
        assert_same(found.network(2)[0], ladder.network(2)[0])
    assert unnoticed < 5
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_ladder(saved)


def test_what_is_no_ladder_is_said(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ladder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"round=00\.safetensors is no ladder: a run's folder"):
        read_ladder(tmp_path / "tickets" / "round=00.safetensors")
    blobs, metadata = open_blobs(saved)
    save_file({n: np.frombuffer(b, np.uint8) for n, b in blobs.items()}, saved, metadata | {"version": "2"})
    with pytest.raises(ValueError, match="a ladder of version 2; this package reads 1"):
        read_ladder(saved)
    save_file(
        {n: np.frombuffer(b, np.uint8) for n, b in blobs.items()}, saved, metadata | {"members_sha256": ""}
    )
    with pytest.raises(ValueError, match="what it says of its tickets was changed"):
        read_ladder(saved)


@pytest.mark.parametrize("name", ["index.1", "members", "values.0.float32"])
def test_a_file_that_expands_to_more_than_it_claims_allocates_nothing(name: str, saved: Path) -> None:
    blobs, _ = open_blobs(saved)
    path = write(saved.with_name("bomb"), blobs | {name: zlib.compress(b" " * 48 * 2**20, 1)})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="bomb is damaged"):
            read_ladder(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 45e6, f"{peak / 1e6:.0f} MB"


def test_many_tickets_of_a_small_file_may_not_be_large_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself is no larger than a network of which nothing is known may be."""
    told, state = card(0, 0.5), {"w": torch.zeros(1000)}
    for number in range(5):
        state["w"][number] = 1.0
        told["verdict"]["round"] = number
        Ladder(tmp_path).add(told["verdict"], state, {}, told)
    size = save_ladder(tmp_path / "one", read_ladder(tmp_path))
    monkeypatch.setattr("lightning_classprune.tickets.joint_file.LARGEST_UNKNOWN", 16_000)
    monkeypatch.setattr("lightning_classprune.tickets.joint_file.MOST_EXPANDED", 1)
    with pytest.raises(ValueError, match=f"it claims more values than a file of {size:,} bytes holds"):
        read_ladder(tmp_path / "one")


def test_a_compiled_model_fits(saved: Path) -> None:
    compiled = nn.Module()
    compiled._orig_mod = network()  # what torch.compile puts around a module
    assert len(read_ladder(saved, compiled).members) == 3
    with pytest.raises(
        ValueError, match=r"0\.weight is float32 \[20, 40\] in the file and float32 \[2, 2\] in the"
    ):
        read_ladder(saved, nn.Sequential(nn.Linear(2, 2), *list(network())[1:]))
