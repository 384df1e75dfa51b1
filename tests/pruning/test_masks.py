import hashlib
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_classprune.pruning.masks import (
    HeldMasks,
    apply_masks,
    count_kept,
    count_weights,
    digest,
    full_masks,
    pack,
    sparsity,
    unpack,
)
from lightning_classprune.trainer.sharding import local
from tests.support.compare import assert_same

torch.set_num_threads(1)


def test_full_masks_keep_everything_in_the_shape_of_each_parameter():
    masks = full_masks({"a": torch.zeros(2, 3), "b": torch.zeros(())})
    assert {name: mask.tolist() for name, mask in masks.items()} == {"a": [[True] * 3] * 2, "b": True}
    assert all(mask.dtype == torch.bool for mask in masks.values())


def test_full_masks_are_contiguous_where_the_weight_is_channels_last():
    weight = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    mask = full_masks({"w": weight})["w"]
    assert mask.is_contiguous()
    assert mask.shape == weight.shape


def test_local_is_the_same_storage_outside_the_graph():
    weight = nn.Parameter(torch.ones(3))
    assert not local(weight).requires_grad
    assert local(weight).data_ptr() == weight.data_ptr()


def test_local_is_the_shard_of_a_distributed_tensor():
    class Sharded:
        def detach(self):
            return self

        def to_local(self):
            return torch.tensor([7.0])

    assert local(Sharded()).tolist() == [7.0]


def test_counts_and_sparsity_by_hand():
    masks = {"a": torch.tensor([True, False, False, True]), "b": torch.tensor([[False]])}
    assert count_kept(masks) == 2
    assert count_weights(masks) == 5
    assert sparsity(masks) == 3 / 5
    assert sparsity({}) == 0.0
    assert sparsity({"a": torch.ones(4, dtype=torch.bool)}) == 0.0
    assert sparsity({"a": torch.zeros(4, dtype=torch.bool)}) == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_applied_masks_set_positive_zero_and_touch_nothing_else(dtype):
    weight = nn.Parameter(torch.tensor([-1.5, -2.0, -0.0, float("nan"), float("inf"), 4.0], dtype=dtype))
    storage = weight.data_ptr()
    mask = torch.tensor([False, True, True, False, False, True])
    apply_masks({"w": mask}, {"w": weight, "other": nn.Parameter(torch.ones(1))})
    assert weight.data_ptr() == storage
    assert weight.requires_grad
    assert weight.tolist() == [0.0, -2.0, 0.0, 0.0, 0.0, 4.0]
    # The pruned ones are +0.0 even where they were negative or not finite; the kept -0.0 stays what it was.
    assert torch.signbit(weight.detach()).tolist() == [False, True, True, False, False, False]


def test_masks_apply_to_channels_last_weights_by_logical_index():
    weight = torch.arange(1.0, 9.0).view(1, 2, 2, 2).to(memory_format=torch.channels_last)
    mask = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 0, 1] = False
    apply_masks({"w": mask}, {"w": weight})
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.reshape(-1).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 8.0]


def test_packing_by_hand_is_eight_weights_a_byte_first_weight_highest():
    packed = pack(torch.tensor([[True, False, False], [False, False, True], [True, True, True]]))
    assert packed["shape"] == [3, 3]
    assert packed["bits"].dtype == torch.uint8
    assert packed["bits"].tolist() == [0b10000111, 0b10000000]


shapes = st.lists(st.integers(0, 5), max_size=3)


@given(shapes, st.integers(0, 2**20))
def test_packed_masks_come_back_also_from_a_file(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    file = io.BytesIO()
    torch.save(pack(mask), file)
    file.seek(0)
    packed = torch.load(file, weights_only=True)
    assert packed["bits"].numel() == -(-mask.numel() // 8)
    back = unpack(packed)
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)


def test_packing_follows_logical_order_and_shares_no_storage():
    mask = torch.tensor([[True, False], [True, True]])
    assert pack(mask.T)["bits"].tolist() == [0b11010000]
    packed = pack(mask)
    unpack(packed).fill_(False)
    mask.fill_(False)
    assert unpack(packed).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("as_bits", [False, True])
def test_masks_of_pieces_are_held_in_an_eighth_of_a_byte_a_weight(as_bits):
    masks = {"a": torch.arange(999) % 3 == 0, "b": torch.tensor([[True], [False]])}
    held = HeldMasks(masks, as_bits=as_bits)
    assert_same(held.get(), masks)
    held.put({"a": ~masks["a"]})
    assert_same(held.get(), {"a": ~masks["a"]})
    storages = [value for state in vars(held).values() if isinstance(state, dict) for value in state.values()]
    assert len(storages) == 1
    bits = storages[0]["bits"] if as_bits else storages[0]
    assert bits.untyped_storage().nbytes() == (125 if as_bits else 999)


def test_digest_by_hand_and_without_regard_to_order():
    a, b = torch.tensor([True, False, True]), torch.tensor([[False]])
    expected = hashlib.sha256(b"a[3]" + bytes([0b10100000]) + b"b[1, 1]" + bytes([0])).hexdigest()
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([True, True, True])},
        {"b": torch.tensor([True, False, True])},
        {"a": torch.tensor([[True, False, True]])},
        {"a": torch.tensor([True, False, True, False])},
        {"a": torch.tensor([True, False, True]), "b": torch.tensor([True])},
        {},
    ],
)
def test_digest_differs_where_a_bit_a_name_or_a_shape_does(other):
    assert digest(other) != digest({"a": torch.tensor([True, False, True])})
