"""What is packed comes back bit for bit, and in few bytes."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.tickets.packing import pack_network, unpack_network
from tests.support.compare import assert_same


def there_and_back(state, masks, values="fp32"):
    return unpack_network(pack_network(state, masks, values))


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_identical(a, b):
    assert list(a) == list(b)
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert bits(a[name]) == bits(b[name]), name


def masked(shape, density, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    return torch.randn(shape, generator=generator).to(dtype).masked_fill(~mask, 0), mask


@pytest.mark.parametrize(
    ("kept", "stream"),
    [
        ([0], [0]),
        ([3], [3]),
        ([0, 1, 2], [0, 0, 0]),
        ([254], [254]),
        ([255], [255, 0]),  # a gap of 255 is an escape and nothing
        ([256], [255, 1]),
        ([510, 511], [255, 255, 0, 0]),
        ([0, 766], [0, 255, 255, 255, 0]),
        ([], []),
    ],
)
def test_gaps_are_bytes_with_an_escape(kept, stream):
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[kept] = True
    blobs = pack_network({"w": mask.float()}, {"w": mask})
    assert list(zlib.decompress(blobs["index"])) == stream
    assert torch.equal(unpack_network(blobs)[1]["w"], mask)


def test_masks_lie_end_to_end_so_a_gap_may_cross_several_layers():
    state = {name: torch.zeros(100) for name in "abcd"}
    masks = {name: torch.zeros(100, dtype=torch.bool) for name in "abcd"}
    state["a"][10] = state["d"][9] = 1.0
    masks["a"][10] = masks["d"][9] = True
    blobs = pack_network(state, masks)
    assert list(zlib.decompress(blobs["index"])) == [10, 255, 298 - 255]
    back, again = unpack_network(blobs)
    assert_identical(back, state)
    assert_identical(again, masks)


def test_values_are_stored_by_byte_planes_and_the_table_says_what_they_are():
    state = {"w": torch.tensor([[0.0, 1.0], [-2.0, 0.0]]), "n": torch.tensor(258)}
    blobs = pack_network(state, {"w": state["w"] != 0})
    planes = np.frombuffer(zlib.decompress(blobs["values.float32"]), np.uint8).reshape(4, 2)
    assert planes.T.copy().view("<f4").ravel().tolist() == [1.0, -2.0]
    assert list(zlib.decompress(blobs["values.int64"])) == [2, 1, 0, 0, 0, 0, 0, 0]
    assert json.loads(zlib.decompress(blobs["tensors"])) == [
        ["w", "float32", [2, 2], "float32", True],
        ["n", "int64", [], "int64", False],
    ]


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@given(data=st.data())
def test_everything_comes_back_bit_for_bit(data):
    """Any dtype, any shape down to empty and 0-d, any bits (NaN, infinity, -0.0), any mask."""
    state, masks = {}, {}
    for i in range(data.draw(st.integers(0, 5))):
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = data.draw(st.lists(st.integers(0, 9), max_size=3))
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8).copy()
        raw = raw & 1 if dtype is torch.bool else raw
        tensor = torch.from_numpy(raw).view(dtype) if size else torch.empty(0, dtype=dtype)
        state[f"t{i}"] = tensor.reshape(shape)
        if data.draw(st.booleans()):
            density = data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
            masks[f"t{i}"] = torch.rand(shape, generator=torch.Generator().manual_seed(i)) < density
            state[f"t{i}"] = state[f"t{i}"].masked_fill(~masks[f"t{i}"], 0)
    back, again = there_and_back(state, masks)
    assert_identical(back, state)
    assert_identical(again, masks)


def test_a_mask_is_stored_not_what_is_not_zero():
    """A kept weight may be 0.0 or -0.0 and must stay trainable; a pruned -0.0 is 0."""
    mask = torch.tensor([True, True, False, True, False])
    back, masks = there_and_back({"w": torch.tensor([0.0, -0.0, -0.0, 5.0, 0.0])}, {"w": mask})
    assert torch.equal(masks["w"], mask)
    assert torch.signbit(back["w"]).tolist() == [False, True, False, False, False]


def test_other_memory_formats_and_gradients_do_not_matter():
    weight, mask = masked((8, 3, 5, 5), 0.2)
    state = {"w": torch.nn.Parameter(weight.to(memory_format=torch.channels_last))}
    back, masks = there_and_back(state, {"w": mask.to(memory_format=torch.channels_last)})
    assert_identical(back, {"w": weight})
    assert_identical(masks, {"w": mask})
    assert not back["w"].requires_grad


@pytest.mark.parametrize(("values", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_cast_rounds_weights_and_leaves_the_rest(values, dtype):
    weight, mask = masked((20, 30), 0.3)
    weight[mask.nonzero()[0][0], mask.nonzero()[0][1]] = 1e-30  # underflows in fp16 and is kept all the same
    state = {
        "w": weight,
        "dense": torch.randn(4, 4),
        "bias": torch.tensor([1 / 3, 1e6]),
        "double": torch.full((2, 2), 1 / 3, dtype=torch.float64),
        "half": torch.full((2, 2), 1 / 3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
    }
    back, masks = there_and_back(state, {"w": mask}, values)
    expected = dict(state)
    for name in ("w", "dense", "double"):
        expected[name] = state[name].to(dtype).to(state[name].dtype)
    assert_identical(back, expected)
    assert_identical(masks, {"w": mask})


def test_a_cast_that_would_make_infinities_is_refused():
    state = {"w": torch.full((2, 2), 1e6)}
    with pytest.raises(ValueError, match=r"state\['w'\].*float16.*'bf16'"):
        pack_network(state, {}, "fp16")
    assert_same(there_and_back(state, {}, "bf16")[0]["w"], torch.full((2, 2), 999424.0))


@pytest.mark.parametrize(
    ("state", "masks", "values", "message"),
    [
        ({"w": torch.ones(2)}, {}, "fp8", "values='fp8' is unknown"),
        ({"w": [1.0]}, {}, "fp32", r"state\['w'\] is a list"),
        ({"w": torch.ones(2)}, {"v": torch.ones(2).bool()}, "fp32", r"masks\['v'\] has no tensor"),
        ({"w": torch.ones(2)}, {"w": torch.ones(3).bool()}, "fp32", r"masks\['w'\].*torch.bool \(2,\)"),
        ({"w": torch.ones(2)}, {"w": torch.ones(2)}, "fp32", r"masks\['w'\] is torch.float32"),
        (
            {"w": torch.ones(3)},
            {"w": torch.tensor([True, False, False])},
            "fp32",
            r"state\['w'\] has 2 weights",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(state, masks, values, message):
    with pytest.raises(ValueError, match=message):
        pack_network(state, masks, values)


@pytest.mark.parametrize("change", ["values", "index", "more", "dtype"])
def test_blobs_that_contradict_each_other_are_refused(change):
    weight, mask = masked((10, 10), 0.5)
    blobs = pack_network({"w": weight}, {"w": mask})
    if change == "values":
        blobs["values.float32"] = zlib.compress(bytes(4 * int(mask.sum()) - 4))
    elif change == "more":
        blobs["values.float32"] = zlib.compress(bytes(4 * int(mask.sum()) + 4))
    elif change == "index":
        blobs["index"] = zlib.compress(bytes([100]))
    else:
        blobs["values.float99"] = blobs["values.float32"]
    with pytest.raises(ValueError, match=r"it holds|its index|expands to more"):
        unpack_network(blobs)


@pytest.mark.parametrize("density", [0.1, 0.05, 0.01])
def test_the_index_is_within_two_percent_of_its_entropy(density):
    """By hand: log2 of the number of masks with as many kept weights."""
    _, mask = masked((1000, 1000), density)
    n, k = mask.numel(), int(mask.sum())
    entropy = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2) / 8
    size = len(pack_network({"w": mask.float()}, {"w": mask})["index"])
    assert entropy * 0.98 < size < entropy * 1.02


def test_many_small_tensors_cost_little_more_than_their_values():
    """122 tensors, as in a ResNet-18: 60 kB of random values, and less than 1.5 kB of everything else."""
    state = {f"layers.{i}.block.{i % 7}.weight": torch.randn(123) for i in range(122)}
    blobs = pack_network(state, {})
    assert len(blobs["values.float32"]) < 4 * 122 * 123
    assert len(blobs["tensors"]) + len(blobs["index"]) < 1500
