"""C text: what is stored and how much of it, by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_classprune.export.c_network import Layer, read_steps
from lightning_classprune.export.c_source import Decision, multiplications, write_source

PLAIN = Decision(False, None, None, np.zeros(2, np.float32), None)


def linear(*rows: list[float]) -> Layer:
    weight = np.array(rows, np.float32)[:, :, None, None]
    return Layer(
        "head",
        weight,
        np.zeros(len(rows), np.float32),
        (1, 1),
        (0, 0),
        (1, 1),
        1,
        (weight.shape[1], 1, 1),
        (len(rows), 1, 1),
    )


def test_a_sparse_weight_is_gaps_counts_and_values() -> None:
    source = write_source([linear([0, 0, 1.5, *[0] * 300, 2.5], [0] * 304)], PLAIN, [])
    assert "counts_0[2] = {\n    3, 0\n}" in source.code
    assert "gaps_0[3] = {\n    2, 255, 46\n}" in source.code
    assert "values_0[3] = {\n    1.5f, 0.0f, 2.5f\n}" in source.code
    assert source.flash == 2 * 2 + 3 + 3 * 4 + 2 * 4
    assert source.ram == 4 * (304 + 2)
    assert source.multiplications == 2
    assert (
        f"Constants: {source.flash} bytes; the code comes on top. Static buffers: {source.ram} bytes."
        in source.code
    )
    assert "linear_sparse(" in source.code
    assert "linear_dense(" not in source.code  # a compiler would warn of it
    assert "#define MODEL_INPUTS 304" in source.header


def test_a_full_weight_is_dense_and_an_empty_one_has_arrays() -> None:
    source = write_source([linear([1, 2], [3, 4])], PLAIN, [])
    assert "weights_0[4] = {\n    1.0f, 2.0f, 3.0f, 4.0f\n}" in source.code
    assert source.flash == 4 * 4 + 2 * 4
    assert "gaps_0[1]" in write_source([linear([0] * 8, [0] * 8)], PLAIN, []).code


@pytest.mark.parametrize("value", [0.1, 1e-30, -3.4e38, 16777217.0, 1.0])
def test_numbers_come_back_to_the_last_bit(value: float) -> None:
    code = write_source([linear([value], [1])], PLAIN, []).code
    (text,) = re.findall(r"weights_0\[2\] = \{\n    ([^,]+)f,", code)
    assert np.float32(text) == np.float32(value)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_multiplications_are_of_the_places_that_a_weight_meets(padding: int) -> None:
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=padding, dilation=2, bias=False)
    nn.init.ones_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = 0
    (step,) = read_steps(nn.Sequential(conv), torch.ones(1, 2, 9, 7))
    # Of ones with weights of one, the sum of the outputs is the number of products.
    expected = F.conv2d(torch.ones(1, 2, 9, 7), conv.weight, None, 2, padding, 2).sum()
    assert multiplications(step) == int(expected)


def test_no_name_ends_a_comment() -> None:
    step = replace(linear([1, 2], [3, 4]), name="a*/b")
    source = write_source([step], PLAIN, ["0 */ int x; /*", "1 ??/", "ü @kernels@"])
    for text in (source.code, source.header):
        comments = re.findall(r"/\*.*?\*/", text, re.DOTALL)
        assert "int x" in comments[0]
        assert "??" not in text
        assert "_kernels_" in comments[0]
    assert "/* a_/b */" in source.code
