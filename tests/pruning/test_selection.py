import itertools
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_classprune.pruning import selection
from lightning_classprune.pruning.criteria import magnitude, magnitude_increase
from lightning_classprune.pruning.masks import count_kept, count_weights, full_masks
from lightning_classprune.pruning.selection import layer_quotas, shrink_masks

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
INF = math.inf


def shrink(scores, pruned, scope="global", masks=None):
    """Masks as lists of 0 and 1, from scores as tensors."""
    masks = full_masks(scores) if masks is None else masks
    return {n: m.int().tolist() for n, m in shrink_masks(masks, scores.__getitem__, pruned, scope).items()}


def reference(masks, scores, pruned):
    """A plain sort of everything by (score, tensor, flat index), the last kept weight of each tensor left out."""
    order = []
    for place, (name, mask) in enumerate(masks.items()):
        values, bits = scores[name].reshape(-1).tolist(), mask.reshape(-1).tolist()
        kept = sorted((values[i], place, i) for i in range(len(bits)) if bits[i])
        order += kept[:-1]
    result = {name: mask.clone().contiguous() for name, mask in masks.items()}
    names = list(masks)
    for _, place, i in sorted(order)[: pruned - (count_weights(masks) - count_kept(masks))]:
        result[names[place]].view(-1)[i] = False
    return result


def assert_equal(masks, expected):
    assert list(masks) == list(expected)
    assert all(torch.equal(masks[name], expected[name]) for name in expected)


# --- hand-worked ---


def test_the_smallest_scores_of_all_tensors_go_first():
    scores = {"a": torch.tensor([[5.0, 1.0], [4.0, 2.0]]), "b": torch.tensor([3.0, 0.5, 9.0])}
    assert shrink(scores, 0) == {"a": [[1, 1], [1, 1]], "b": [1, 1, 1]}
    assert shrink(scores, 1) == {"a": [[1, 1], [1, 1]], "b": [1, 0, 1]}
    assert shrink(scores, 3) == {"a": [[1, 0], [1, 0]], "b": [1, 0, 1]}
    assert shrink(scores, 4) == {"a": [[1, 0], [1, 0]], "b": [0, 0, 1]}
    assert shrink(scores, 5) == {"a": [[1, 0], [0, 0]], "b": [0, 0, 1]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_by_tensor_order_then_by_flat_index(dtype):
    scores = {"b": torch.ones(2, 2, dtype=dtype), "a": torch.ones(3, dtype=dtype)}
    assert shrink(scores, 1) == {"b": [[0, 1], [1, 1]], "a": [1, 1, 1]}
    assert shrink(scores, 2) == {"b": [[0, 0], [1, 1]], "a": [1, 1, 1]}
    assert shrink(scores, 3) == {"b": [[0, 0], [0, 1]], "a": [1, 1, 1]}
    assert shrink(scores, 4) == {"b": [[0, 0], [0, 1]], "a": [0, 1, 1]}
    assert shrink(scores, 5) == {"b": [[0, 0], [0, 1]], "a": [0, 0, 1]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_at_the_threshold_only(dtype):
    scores = {
        "a": torch.tensor([2.0, 1.0, 2.0, 3.0], dtype=dtype),
        "b": torch.tensor([2.0, 0.0, 2.0, 2.0], dtype=dtype),
    }
    assert shrink(scores, 4) == {"a": [0, 0, 0, 1], "b": [1, 0, 1, 1]}
    assert shrink(scores, 5) == {"a": [0, 0, 0, 1], "b": [0, 0, 1, 1]}


def test_every_tensor_keeps_its_best_weight():
    scores = {"weak": torch.tensor([0.1, 0.3, 0.2]), "strong": torch.tensor([9.0, 7.0, 8.0])}
    assert shrink(scores, 2) == {"weak": [0, 1, 0], "strong": [1, 1, 1]}
    assert shrink(scores, 3) == {"weak": [0, 1, 0], "strong": [1, 0, 1]}
    assert shrink(scores, 4) == {"weak": [0, 1, 0], "strong": [1, 0, 0]}
    assert shrink({"one": torch.tensor([0.0]), "two": torch.tensor([5.0, 6.0])}, 1) == {
        "one": [1],
        "two": [0, 1],
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_zero_is_zero_and_infinities_have_their_places(dtype):
    scores = {"a": torch.tensor([INF, 0.0, -0.0, -INF, 0.0, -1.0, 1.0], dtype=dtype)}
    orders = {1: [3], 2: [5], 3: [1], 4: [2], 5: [4], 6: [6]}
    gone = set()
    for pruned, new in orders.items():
        gone |= set(new)
        assert shrink(scores, pruned) == {"a": [int(i not in gone) for i in range(7)]}


@pytest.mark.parametrize("value", [INF, -INF, 0.0, -0.0, 1e-45, -3.4e38])
def test_all_scores_equal(value):
    assert shrink({"a": torch.full((4,), value)}, 2) == {"a": [0, 0, 1, 1]}


def test_negative_scores_of_magnitude_increase():
    weight, start = torch.tensor([1.0, -1.0, 3.0, 0.5]), torch.tensor([4.0, 1.5, -1.0, 0.5])
    # -3, -0.5, 2, 0
    scores = {"w": magnitude_increase(weight, start)}
    assert shrink(scores, 1) == {"w": [0, 1, 1, 1]}
    assert shrink(scores, 2) == {"w": [0, 0, 1, 1]}
    assert shrink(scores, 3) == {"w": [0, 0, 1, 0]}


def test_doubles_that_floats_cannot_tell_apart():
    scores = {"a": torch.tensor([1 + 3e-16, 1 + 1e-15, 1.0, 2.0], dtype=torch.float64)}
    assert shrink(scores, 1) == {"a": [1, 1, 0, 1]}
    assert shrink(scores, 2) == {"a": [0, 1, 0, 1]}
    mixed = scores | {"b": torch.tensor([1.0, 3.0])}
    assert shrink(mixed, 2) == {"a": [1, 1, 0, 1], "b": [0, 1]}


def test_whole_numbers_that_floats_cannot_tell_apart():
    scores = {"a": torch.tensor([2**24 + 1, 2**24, 2**30], dtype=torch.int64)}
    assert shrink(scores, 1) == {"a": [1, 0, 1]}
    assert shrink({"a": scores["a"].int()}, 1) == {"a": [1, 0, 1]}
    assert shrink({"a": torch.tensor([True, False, True])}, 1) == {"a": [1, 0, 1]}


def test_what_is_pruned_stays_pruned_and_its_score_is_not_looked_at():
    scores = {"a": torch.tensor([9.0, 1.0, 2.0, 3.0])}
    masks = {"a": torch.tensor([False, True, True, True])}
    assert shrink(scores, 1, masks=masks) == {"a": [0, 1, 1, 1]}
    assert shrink(scores, 2, masks=masks) == {"a": [0, 0, 1, 1]}
    assert shrink(scores, 3, masks=masks) == {"a": [0, 0, 0, 1]}


def test_the_given_masks_are_not_changed():
    masks = {"a": torch.ones(4, dtype=torch.bool)}
    for pruned, scope in itertools.product((0, 2), ("global", "layer")):
        shrunk = shrink_masks(masks, lambda _: torch.arange(4.0), pruned, scope)
        shrunk["a"].fill_(False)
        assert masks["a"].all()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_last_weights_are_chosen_by_logical_index(scope):
    plain = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    last = plain.to(memory_format=torch.channels_last)
    expected = shrink_masks(full_masks({"w": plain}), lambda _: magnitude(plain, plain), 77, scope)["w"]
    for mask in (full_masks({"w": last})["w"], torch.ones_like(last, dtype=torch.bool)):
        shrunk = shrink_masks({"w": mask}, lambda _: magnitude(last, last), 77, scope)["w"]
        assert shrunk.is_contiguous()
        assert torch.equal(shrunk, expected)


# --- refusals ---


@pytest.mark.parametrize("pruned", [-1, 0, 6, 7])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_fewer_than_before_or_more_than_the_floor_allows_is_refused(pruned, scope):
    masks = {"a": torch.tensor([True, True, False, True]), "b": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=f"cannot have {pruned} weights pruned: it must be from 1 to 5"):
        shrink_masks(masks, lambda name: torch.ones(masks[name].shape), pruned, scope)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_refused_by_name(scope, dtype):
    scores = {"good": torch.ones(4, dtype=dtype), "bad": torch.tensor([1.0, 2.0, math.nan, 0.0], dtype=dtype)}
    with pytest.raises(ValueError, match="criterion: a score of `bad` is NaN"):
        shrink_masks(full_masks(scores), scores.__getitem__, 4, scope)


@pytest.mark.parametrize(
    "scores", [torch.ones(2, 3), torch.ones(6), torch.ones(3, 2, 1), torch.ones(3, 2, dtype=torch.complex64)]
)
def test_scores_of_another_shape_or_kind_are_refused_by_name(scores):
    masks = {"layer.weight": torch.ones(3, 2, dtype=torch.bool)}
    with pytest.raises(
        ValueError, match=r"criterion: scores of `layer.weight` .*a real tensor of shape \(3, 2\)"
    ):
        shrink_masks(masks, lambda _: scores, 1, "global")


# --- against the sort ---

few_values = st.sampled_from([-INF, -2.0, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 1.0, 2.0, INF])
any_value = st.floats(allow_nan=False, width=32)
tensor_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@st.composite
def problems(draw, values=None):
    """Scores, masks with at least one kept weight a tensor, and a reachable number of pruned weights."""
    dtype = draw(st.sampled_from(DTYPES))
    value = draw(st.sampled_from([few_values, any_value])) if values is None else values
    scores, masks = {}, {}
    for i, size in enumerate(draw(tensor_sizes)):
        name = f"t{i}"
        scores[name] = torch.tensor(draw(st.lists(value, min_size=size, max_size=size)), dtype=dtype)
        kept = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        masks[name] = torch.tensor(kept if any(kept) else [True] * size)
    already = count_weights(masks) - count_kept(masks)
    return masks, scores, draw(st.integers(already, count_weights(masks) - len(masks)))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_global_selection_equals_a_sort(problem):
    masks, scores, pruned = problem
    shrunk = shrink_masks(masks, scores.__getitem__, pruned, "global")
    assert count_weights(masks) - count_kept(shrunk) == pruned
    assert_equal(shrunk, reference(masks, scores, pruned))


@settings(max_examples=80, deadline=None)
@given(problems())
def test_layer_selection_equals_a_sort_of_each_tensor(problem):
    masks, scores, pruned = problem
    shrunk = shrink_masks(masks, scores.__getitem__, pruned, "layer")
    assert count_weights(masks) - count_kept(shrunk) == pruned
    sizes = [m.numel() for m in masks.values()]
    quotas = layer_quotas(sizes, [m.numel() - int(m.sum()) for m in masks.values()], pruned)
    expected = {}
    for (name, mask), quota in zip(masks.items(), quotas, strict=True):
        expected |= reference({name: mask}, scores, quota)
    assert_equal(shrunk, expected)


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["global", "layer"]), st.data())
def test_masks_only_shrink_no_tensor_dies_and_no_step_matters(problem, scope, data):
    """Pruning in two steps under the same scores comes to the same masks as in one (global)."""
    masks, scores, pruned = problem
    between = data.draw(st.integers(count_weights(masks) - count_kept(masks), pruned))
    first = shrink_masks(masks, scores.__getitem__, between, scope)
    second = shrink_masks(first, scores.__getitem__, pruned, scope)
    for name in masks:
        assert not (second[name] & ~first[name]).any()
        assert not (first[name] & ~masks[name]).any()
        assert second[name].any()
        best = scores[name][masks[name]].max()
        assert scores[name][second[name]].max() == best
    if scope == "global":
        assert_equal(second, shrink_masks(masks, scores.__getitem__, pruned, scope))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_number_is_exact_at_size_under_masses_of_ties(dtype, scope):
    generator = torch.Generator().manual_seed(5)
    scores = {
        "a": torch.randn(40, 3, 7, 7, generator=generator).to(dtype),
        "b": torch.randn(300, 70, generator=generator).mul(4).round().to(dtype),  # 30 values
        "c": torch.zeros(1000, dtype=dtype),
    }
    masks, total = full_masks(scores), 40 * 147 + 21_000 + 1000
    for pruned in (1, 2_000, 9_999, 20_001, total - 4, total - 3):
        masks = shrink_masks(masks, scores.__getitem__, pruned, scope)
        assert total - count_kept(masks) == pruned
        if scope == "global":
            assert_equal(masks, reference(full_masks(scores), scores, pruned))


# --- quotas of layers ---


@pytest.mark.parametrize(
    ("sizes", "already", "pruned", "quotas"),
    [
        ([10, 20, 30], [0, 0, 0], 30, [5, 10, 15]),
        ([10, 20, 30], [0, 0, 0], 31, [5, 10, 16]),  # ideal 5.17, 10.33, 15.5
        ([10, 20, 30], [0, 0, 0], 32, [5, 11, 16]),  # ideal 5.33, 10.67, 16
        ([3, 3, 3], [0, 0, 0], 1, [1, 0, 0]),  # equal remainders: the first
        ([3, 3, 3], [0, 0, 0], 2, [1, 1, 0]),
        ([3, 3, 3], [0, 0, 0], 4, [2, 1, 1]),
        ([1, 9], [0, 0], 8, [0, 8]),  # a single weight stays
        ([2, 98], [0, 0], 96, [1, 95]),  # ideal 1.92 is above size - 1
        ([10, 10], [8, 0], 8, [8, 0]),  # never below what is pruned
        ([10, 10], [8, 0], 10, [8, 2]),
        ([10, 10], [8, 0], 16, [8, 8]),
        ([10, 10], [8, 0], 17, [9, 8]),
        ([100, 10, 10], [0, 8, 0], 30, [20, 8, 2]),  # 22 over 110 weights: one sparsity, not equal numbers
        ([4, 4], [0, 0], 6, [3, 3]),
        ([0, 4], [0, 0], 3, [0, 3]),
    ],
)
def test_quotas_by_hand(sizes, already, pruned, quotas):
    assert layer_quotas(sizes, already, pruned) == quotas


@st.composite
def quota_problems(draw):
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
    already = [draw(st.integers(0, size - 1)) for size in sizes]
    return sizes, already, draw(st.integers(sum(already), sum(sizes) - len(sizes)))


@settings(max_examples=300, deadline=None)
@given(quota_problems())
def test_quotas_sum_exactly_inside_their_bounds_at_one_sparsity(problem):
    sizes, already, pruned = problem
    quotas = layer_quotas(sizes, already, pruned)
    assert sum(quotas) == pruned
    assert all(low <= q <= size - 1 for low, q, size in zip(already, quotas, sizes, strict=True))
    # One sparsity: where q could have been one less and p one more, both inside their bounds, the sparsities are less
    # than a weight apart.
    for (low, q, m), (_, p, n) in itertools.permutations(zip(already, quotas, sizes, strict=True), 2):
        if q > low and p < n - 1:
            assert Fraction(q - 1, m) < Fraction(p + 1, n)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.data())
def test_quotas_without_bounds_are_largest_remainders(sizes, data):
    pruned = data.draw(st.integers(0, sum(sizes) - len(sizes)))
    ideals = [Fraction(pruned * size, sum(sizes)) for size in sizes]
    assume(all(ideal <= size - 1 for ideal, size in zip(ideals, sizes, strict=True)))
    floors = [math.floor(ideal) for ideal in ideals]
    order = sorted(range(len(sizes)), key=lambda i: (floors[i] - ideals[i], i))
    for i in order[: pruned - sum(floors)]:
        floors[i] += 1
    assert layer_quotas(sizes, [0] * len(sizes), pruned) == floors


def test_quotas_of_a_large_model_far_from_its_present_sparsities_are_quick():
    sizes = [2_000_000] * 50
    already = [1_900_000, *[0] * 49]
    assert layer_quotas(sizes, already, 49_000_000 + 1_900_000) == [1_900_000, *[1_000_000] * 49]


# --- shards ---


class Ranks:
    """Processes as threads of this one: `gather` waits for all."""

    def __init__(self, count):
        self.given, self.barrier = [None] * count, threading.Barrier(count)

    def of(self, rank):
        return RankedShards(self, rank)


class RankedShards:
    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.calls = ranks, rank, 0

    def gather(self, tensor):
        self.calls += 1
        self.ranks.given[self.rank] = tensor
        self.ranks.barrier.wait(10)
        gathered = torch.stack(self.ranks.given)
        self.ranks.barrier.wait(10)
        return gathered


def sharded(masks, scores, pruned, scope, cuts):
    """Selection with the tensors cut at `cuts` (by name, places along the flat index), put together again."""
    count = len(next(iter(cuts.values()))) + 1
    ranks = Ranks(count)

    def part(tensor, name, rank):
        edges = [0, *cuts[name], tensor.numel()]
        return tensor.reshape(-1)[edges[rank] : edges[rank + 1]]

    def work(rank):
        mine = {name: part(mask, name, rank) for name, mask in masks.items()}
        return shrink_masks(mine, lambda name: part(scores[name], name, rank), pruned, scope, ranks.of(rank))

    with ThreadPoolExecutor(count) as pool:
        shares = list(pool.map(work, range(count)))
    return {
        name: torch.cat([share[name] for share in shares]).view(mask.shape) for name, mask in masks.items()
    }


def test_tied_weights_are_taken_rank_by_rank_within_a_tensor():
    scores = {"a": torch.ones(6), "b": torch.ones(3)}
    expected = {"a": [0, 0, 0, 1, 1, 1], "b": [1, 1, 1]}
    shrunk = sharded(full_masks(scores), scores, 3, "global", {"a": [2, 4], "b": [1, 2]})
    assert {name: mask.int().tolist() for name, mask in shrunk.items()} == expected


def test_a_tensor_that_lives_on_one_rank_only():
    scores = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([0.5, 4.0])}
    shrunk = sharded(full_masks(scores), scores, 3, "global", {"a": [0], "b": [2]})
    assert {name: mask.int().tolist() for name, mask in shrunk.items()} == {"a": [1, 0, 0], "b": [0, 1]}


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["global", "layer"]), st.integers(1, 3), st.data())
def test_sharded_selection_equals_unsharded(problem, scope, count, data):
    masks, scores, pruned = problem
    cuts = {
        name: sorted(data.draw(st.lists(st.integers(0, m.numel()), min_size=count - 1, max_size=count - 1)))
        for name, m in masks.items()
    }
    expected = shrink_masks(masks, scores.__getitem__, pruned, scope)
    assert_equal(sharded(masks, scores, pruned, scope, cuts), expected)


# --- memory ---


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["global", "layer"]), st.integers(1, 5))
def test_the_size_of_the_pieces_does_not_matter(problem, scope, chunk):
    masks, scores, pruned = problem
    expected = shrink_masks(masks, scores.__getitem__, pruned, scope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_CHUNK", chunk)
        assert_equal(shrink_masks(masks, scores.__getitem__, pruned, scope), expected)


class Peak(TorchDispatchMode):
    """Bytes of the storages that operations made and that are alive, and their greatest sum."""

    def __init__(self, *before):
        super().__init__()
        self.before = {tensor.untyped_storage().data_ptr() for tensor in before}
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in self.alive.keys() | self.before:
                    self.alive[storage.data_ptr()] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage.data_ptr(), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_memory_beyond_the_new_masks_is_a_small_multiple_of_the_largest_tensor(scope, monkeypatch):
    monkeypatch.setattr(selection, "_CHUNK", 1 << 14)
    tensors, size = 40, 100_000
    weights = {f"w{i}": torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(tensors)}
    masks = full_masks(weights)
    with Peak(*masks.values(), *weights.values()) as used:
        shrunk = shrink_masks(masks, lambda n: magnitude(weights[n], weights[n]), tensors * size // 2, scope)
    assert count_kept(shrunk) == tensors * size // 2
    new_masks, largest, histograms = tensors * size, 4 * size, 4 * 8 * 65_536
    assert used.peak >= new_masks
    assert used.peak <= new_masks + 2 * largest + histograms


def test_scores_are_asked_for_again_rather_than_kept():
    """The contract of a criterion: deterministic, called several times a tensor; nothing holds on to old scores."""
    weights = {f"w{i}": torch.arange(float(i + 5)) for i in range(3)}
    made = []

    def scores(name):
        assert sum(old() is not None for old in made) <= 1
        values = magnitude(weights[name], weights[name])
        made.append(weakref.ref(values))
        return values

    shrink_masks(full_masks(weights), scores, 9, "global")
    assert len(made) > 2 * len(weights)
