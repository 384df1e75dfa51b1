"""Corruptions: of any image an image of the same form, drawn from the generator alone; and what each does by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from lightning_classprune.guard import corruptions
from lightning_classprune.guard.corruptions import CORRUPTIONS, contrast, impulse_noise, pixelate

NAMES = list(CORRUPTIONS)


def picture(channels: int = 3, height: int = 24, width: int = 20) -> Tensor:
    """Edges and a slope, so that everything changes something."""
    x = torch.linspace(0, 1, width).expand(channels, height, width).clone()
    x[:, : height // 2, : width // 2] = 0.9
    x[..., ::3, ::4] = 0.1
    return x[None]


def at(strength: int) -> Any:
    """Let every corruption have that strength, the weakest being 0; the draw is made all the same."""

    def chosen(of: Any, generator: Generator) -> float:
        torch.randint(len(of), (), generator=generator)
        return float(of[strength])

    return chosen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 28, 28), (2, 7, 3), (3, 24, 20), (4, 5, 9)])
@pytest.mark.parametrize("strength", [0, 4])
def test_an_image_becomes_an_image(
    name: str, size: tuple[int, int, int], strength: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruptions, "_strength", at(strength))
    for given in (torch.rand(1, *size), torch.zeros(1, *size), torch.ones(1, *size)):
        before, state = given.clone(), torch.get_rng_state()
        changed = CORRUPTIONS[name](given, Generator().manual_seed(3))
        assert (changed.shape, changed.dtype) == (given.shape, torch.float32)
        assert 0 <= changed.min() <= changed.max() <= 1
        assert torch.equal(changed, CORRUPTIONS[name](given, Generator().manual_seed(3)))
        assert torch.equal(given, before)
        assert torch.equal(torch.get_rng_state(), state), "the global generator is let alone"


@pytest.mark.parametrize("name", NAMES)
def test_the_strongest_changes_more_than_the_weakest_and_the_weakest_something(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = []
    for strength in (0, 4):
        monkeypatch.setattr(corruptions, "_strength", at(strength))
        changed = CORRUPTIONS[name](picture(), Generator().manual_seed(3))
        changes.append(float((changed - picture()).abs().mean()))
    assert 0 < changes[0] < changes[1]


@pytest.mark.parametrize("name", NAMES)
def test_all_five_strengths_are_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[float]()
    drawn = corruptions._strength

    def watched(of: Any, generator: Generator) -> float:
        seen.add(drawn(of, generator))
        return float(of[0])

    monkeypatch.setattr(corruptions, "_strength", watched)
    for seed in range(40):
        CORRUPTIONS[name](torch.rand(1, 1, 4, 4), Generator().manual_seed(seed))
    assert len(seen) == 5


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"])
def test_what_moves_light_only_leaves_an_even_picture_as_it_is(name: str) -> None:
    even = torch.full((1, 2, 9, 13), 0.3)
    torch.testing.assert_close(CORRUPTIONS[name](even, Generator().manual_seed(0)), even)


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur"])
def test_a_point_is_spread_and_its_light_kept(name: str) -> None:
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1
    spread = CORRUPTIONS[name](point, Generator().manual_seed(0))
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float(spread.max()) < 0.9
    flipped = spread.flip(-1, -2)
    torch.testing.assert_close(spread, flipped)  # about the point


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "_strength", at(2))
    given = torch.tensor([0.0, 0.5, 0.5, 1.0]).view(1, 1, 2, 2)
    nearer = contrast(given, Generator())  # to .5, by .45
    torch.testing.assert_close(nearer.flatten(), torch.tensor([0.275, 0.5, 0.5, 0.725]))
    assert pixelate(given, Generator()).unique().tolist() == [0.5]  # half of two pixels is one, their mean
    lost = impulse_noise(torch.full((1, 1, 200, 200), 0.5), Generator().manual_seed(0))
    assert float((lost == 0.5).float().mean()) == pytest.approx(0.96, abs=0.005)
    assert float((lost == 0).float().mean()) == pytest.approx(0.02, abs=0.005)
