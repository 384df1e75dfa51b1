"""C text in eight bits: what is stored, how numbers are rounded, and what lies between the layers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_classprune.export.c_bytes import write_bytes
from lightning_classprune.export.c_integers import Integers, Rounding
from lightning_classprune.export.c_library import CLibrary
from lightning_classprune.export.c_network import Layer, Pool
from lightning_classprune.export.c_source import Decision, Source

PLAIN = Decision(False, None, None, np.zeros(2, np.float32), None)
ONE = Rounding(np.float32(1), 128)


def linear(
    weight: list[list[int]], reads: Rounding = ONE, writes: Rounding | None = None
) -> tuple[Layer, Integers]:
    """A linear layer of whole numbers."""
    whole = np.array(weight)[:, :, None, None]
    outputs, inputs = whole.shape[:2]
    step = Layer(
        "head",
        whole.astype(np.float32),
        np.zeros(outputs, np.float32),
        (1, 1),
        (0, 0),
        (1, 1),
        1,
        (inputs, 1, 1),
        (outputs, 1, 1),
    )
    unit = reads.scale / (np.float32(1) if writes is None else writes.scale)
    multiplier = np.full(outputs, unit, np.float32)
    return step, Integers(whole.astype(np.int8), np.zeros(outputs, np.int32), reads, writes, multiplier)


def run(source: Source, folder: Path, x: list[list[float]], scores: int = 2) -> torch.Tensor:
    (folder / "model.c").write_text(source.code)
    (folder / "model.h").write_text(source.header)
    return CLibrary(folder / "model.c", scores)(torch.tensor(x))[0]


def test_a_sparse_weight_is_gaps_counts_and_bytes() -> None:
    step, own = linear([[0, 0, 5, *[0] * 300, -7], [0] * 304])
    source = write_bytes([step], [own], PLAIN, ["a claim */"])
    assert "static const int8_t values_0[3] = {\n    5, 0, -7\n};" in source.code
    assert "gaps_0[3] = {\n    2, 255, 46\n}" in source.code
    assert source.flash == 2 * 2 + 3 + 3 + 2 * 4 + 2 * 4, "counts, gaps, bytes, biases, multipliers"
    assert source.ram == 304 + 2 + 4
    assert source.multiplications == 2
    assert "bytes_dense(" not in source.code  # a compiler would warn of it
    assert "a claim _/" in source.code


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
class TestCompiled:
    def test_numbers_become_the_nearest_byte_the_even_one_of_two(self, tmp_path: Path) -> None:
        step, own = linear([[1], [-1]])
        given = [0.5, 1.5, 2.5, -0.5, -1.5, 2.4999, 300, -300, 1e9, -3e38]
        got = run(write_bytes([step], [own], PLAIN, []), tmp_path, [[one] for one in given])
        assert got[:, 0].tolist() == [0, 2, 2, 0, -2, 2, 127, -128, 127, -128]
        assert torch.equal(got[:, 1], -got[:, 0])

    def test_bytes_of_one_scale_become_those_of_another_between_layers(self, tmp_path: Path) -> None:
        half = Rounding(np.float32(0.5), 0)
        first, of_first = linear([[1], [2]], ONE, half)
        second, of_second = linear([[1, 1], [0, 1]], ONE)
        source = write_bytes([first, second], [of_first, of_second], PLAIN, [])
        assert "again(arena" in source.code
        got = run(source, tmp_path, [[3.0], [-3.0], [100.0]])
        # Halves reach from 0 to 127.5, and back in whole numbers: 127.5 -> 128, which is 127 at most.
        assert got.tolist() == [[3 + 6, 6], [0, 0], [100 + 127, 127]]

    @pytest.mark.parametrize(("kind", "expected"), [("max", 9.0), ("average", 2.0)])
    def test_pools_of_bytes(self, kind: str, expected: float, tmp_path: Path) -> None:
        first, of_first = linear([[1, 0], [0, 1]], ONE, ONE)
        wide = Layer("c", first.weight[:, :1], first.bias, (1, 1), (0, 0), (1, 1), 1, (1, 2, 2), (2, 2, 2))
        ints = Integers(of_first.weight[:, :1], of_first.bias, ONE, ONE, np.ones(2, np.float32))
        pool = Pool("p", kind, (2, 2), (2, 2), (0, 0), (2, 2, 2), (2, 1, 1), relu=True)  # type: ignore[arg-type]
        second, of_second = linear([[1, 0], [0, 1]], ONE)
        source = write_bytes([wide, pool, second], [ints, of_second], PLAIN, [])
        assert run(source, tmp_path, [[9.0, -4.0, 1.0, 2.0], [-9.0, -4.0, -1.0, -2.0]]).tolist() == [
            [expected, 0.0],
            [0.0, 0.0],
        ]
