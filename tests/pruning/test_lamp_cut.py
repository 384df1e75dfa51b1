"""A LAMP cut: the masks are those of all exact scores, to the last tie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.pruning import lamp_cut
from lightning_classprune.pruning.lamp import lamp
from lightning_classprune.pruning.lamp_cut import lamp_masks
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.selection import shrink_masks

KINDS: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    "usual": lambda g, n: torch.randn(n, generator=g),
    "small": lambda g, n: torch.randn(n, generator=g) * 1e-30,
    "wide": lambda g, n: torch.randn(n, generator=g) * 10.0 ** torch.randint(-30, 15, (n,), generator=g),
    "ties": lambda g, n: torch.randint(0, 4, (n,), generator=g).float(),
    "half": lambda g, n: torch.randn(n, generator=g).bfloat16(),
    "zeros": lambda g, n: torch.zeros(n),
    "one large": lambda g, n: torch.cat((torch.full((1,), 1e9), torch.rand(n, generator=g)))[:n],
}


def exactly(masks: Masks, sizes: dict[str, Tensor], pruned: int) -> Masks:
    """By the scores of all that is kept, each layer sorted whole."""
    scores = {}
    for name, mask in masks.items():
        scores[name] = torch.zeros(mask.shape)
        scores[name][mask] = lamp(sizes[name][mask].double().square())
    return shrink_masks(masks, scores.__getitem__, pruned, "global")


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 90)), min_size=1, max_size=4),
    st.integers(0, 2**20),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_masks_are_those_of_all_exact_scores(
    layers: list[tuple[str, int]], seed: int, steps: list[float]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = {str(i): KINDS[kind](generator, n) for i, (kind, n) in enumerate(layers)}
    masks = {name: torch.ones(one.shape, dtype=torch.bool) for name, one in sizes.items()}
    most = sum(n - 1 for _, n in layers)
    for share in sorted(steps):
        pruned = int(share * most)
        expected = exactly(masks, sizes, pruned)
        found = lamp_masks(masks, sizes.__getitem__, pruned)
        assert found is not None
        for name, mask in found.items():
            assert torch.equal(mask, expected[name])
        masks = expected


def test_only_what_is_near_the_threshold_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, seen = torch.Generator().manual_seed(0), list[int]()
    sizes = {str(i): torch.randn(20_000, generator=generator) * 10.0**i for i in range(3)}
    masks = {name: torch.ones(one.shape, dtype=torch.bool) for name, one in sizes.items()}
    whole = lamp_cut.lamp_of_some

    def noting(relative: Tensor, *more: object) -> Tensor:
        seen.append(len(relative))
        return whole(relative, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(lamp_cut, "lamp_of_some", noting)
    found = lamp_masks(masks, sizes.__getitem__, 30_000)
    assert found is not None
    assert all(torch.equal(mask, exactly(masks, sizes, 30_000)[name]) for name, mask in found.items())
    assert sum(seen) < 60_000 * 0.05


def test_layouts_give_one_mask() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(weight.shape, dtype=torch.bool)
    plain = lamp_masks({"w": mask}, {"w": weight}.__getitem__, 100)
    last = {"w": weight.to(memory_format=torch.channels_last)}
    assert plain is not None
    other = lamp_masks({"w": mask.to(memory_format=torch.channels_last)}, last.__getitem__, 100)
    assert other is not None
    assert torch.equal(plain["w"], other["w"])


def test_what_cannot_be_cut_so() -> None:
    mask, weight = {"w": torch.ones(4, dtype=torch.bool)}, torch.arange(4.0)
    assert lamp_masks(mask, {"w": weight.double()}.__getitem__, 1) is None
    with pytest.raises(ValueError, match="from 0 to 3"):
        lamp_masks(mask, {"w": weight}.__getitem__, 4)
    with pytest.raises(ValueError, match="shape"):
        lamp_masks(mask, {"w": weight[:3]}.__getitem__, 1)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="infinite or NaN"):
            lamp_masks(mask, {"w": weight + bad}.__getitem__, 1)
