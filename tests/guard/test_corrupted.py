"""Corrupted batches: the same for every sample whatever it is batched with, on the scale of the data, nothing left."""

from __future__ import annotations

import random
from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from lightning_classprune.guard.corrupted import Corruption, normalization_of, read_normalization
from lightning_classprune.guard.corruptions import CORRUPTIONS
from lightning_classprune.trainer.randomness import random_state
from tests.support.compare import assert_same

IMAGES = torch.rand(6, 3, 8, 10, generator=Generator().manual_seed(1))
TARGET = torch.tensor([0, 1, 0, 1, 1, 0])


def noise(normalization: Any = None) -> Corruption:
    return Corruption("gaussian_noise", CORRUPTIONS["gaussian_noise"], normalization)


def of(function: Any, images: Tensor = IMAGES) -> Tensor:
    """The images under a function of a user's."""
    changed, target = Corruption("mine", function)((images, TARGET))
    assert target is TARGET
    assert isinstance(changed, Tensor)
    return changed


def test_a_sample_is_corrupted_alike_in_any_batch_and_order() -> None:
    whole, _ = noise()((IMAGES, TARGET))
    assert not torch.equal(whole, IMAGES)
    order = torch.tensor([4, 0, 5])
    some, _ = noise()([IMAGES[order], TARGET[order]])
    assert torch.equal(some, whole[order])
    single = [noise()((IMAGES[i : i + 1], TARGET[i : i + 1]))[0] for i in range(6)]
    assert torch.equal(torch.cat(single), whole)


def test_samples_and_corruptions_differ_in_what_is_drawn() -> None:
    shifted = IMAGES.clone()
    shifted[1:] = IMAGES[:1]
    shifted[2:, 0, 0, 0] += 1e-3
    changed = of(lambda x, g: torch.rand(x.shape, generator=g), shifted)
    assert torch.equal(changed[0], changed[1]), "equal samples"
    assert not torch.equal(changed[1], changed[2])
    other, _ = Corruption("yours", lambda x, g: torch.rand(x.shape, generator=g))((shifted, TARGET))
    assert not torch.equal(other, changed)


def test_a_function_that_changes_its_input_changes_nothing_else() -> None:
    before = IMAGES.clone()

    def inverted(images: Tensor, generator: Generator) -> Tensor:
        return images.neg_().add_(1)

    assert torch.equal(of(inverted), 1 - before)
    assert torch.equal(IMAGES, before)
    listed = list(IMAGES)
    Corruption("mine", inverted)((listed, [{}] * 6))
    assert torch.equal(IMAGES, before)


def test_global_randomness_is_seeded_by_the_sample_and_put_back() -> None:
    def drawn(images: Tensor, generator: Generator) -> Tensor:
        return images * 0 + random.random() / 3 + float(np.random.rand()) / 3 + torch.rand(()) / 3

    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)
    before = random_state()
    first = of(drawn)
    assert_same(random_state(), before)
    torch.rand(3), random.random()
    assert torch.equal(of(drawn), first)
    assert len(first.unique()) == 6


def test_what_the_function_is_given() -> None:
    seen = []

    def watched(images: Tensor, generator: Generator) -> Tensor:
        seen.append((images.shape, images.dtype, float(images.min()) >= 0, float(images.max()) <= 1))
        return images

    mean, deviation = read_normalization(([0.2, 0.5, 0.4], [0.2, 0.3, 0.4]))
    for images in (IMAGES, (IMAGES * 255).to(torch.uint8), (IMAGES - mean) / deviation):
        known = (mean, deviation) if images.min() < 0 else None
        Corruption("mine", watched, known)((images, TARGET))
    assert set(seen) == {((1, 3, 8, 10), torch.float32, True, True)}
    assert len(seen) == 18


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_type_and_scale(dtype: torch.dtype, channels: int) -> None:
    images = IMAGES[:, :channels]
    given = (images * 255).round().to(dtype) if dtype == torch.uint8 else images.to(dtype)
    same = of(lambda x, g: x, given)
    assert same.dtype == dtype
    torch.testing.assert_close(same, given, rtol=0, atol=0 if dtype != torch.float64 else 1e-7)
    black = of(lambda x, g: x * 0, given)
    assert not black.any()


def test_normalised_images_are_corrupted_on_their_own_scale() -> None:
    mean, deviation = read_normalization((torch.tensor([0.2, 0.5, 0.4]), [0.2, 0.3, 0.4]))
    given = (IMAGES - mean) / deviation
    black, _ = Corruption("mine", lambda x, g: x * 0, (mean, deviation))((given, TARGET))
    torch.testing.assert_close(black, (-mean / deviation).expand_as(black))
    same, _ = Corruption("mine", lambda x, g: x, (mean, deviation))((given, TARGET))
    torch.testing.assert_close(same, given)


def test_normalised_images_whose_scale_nobody_named_are_refused_with_the_mend() -> None:
    for wrong in (IMAGES * 4 - 2, IMAGES * 255, torch.full_like(IMAGES, float("nan"))):
        with pytest.raises(ValueError, match=r"images have values from .*Guard\(normalization=\(\[\.\.\.\]"):
            noise()((wrong, TARGET))
    with pytest.raises(ValueError, match=r"once Guard.normalization \(or that of the datamodule\) is undone"):
        noise(read_normalization(([0.5], [0.5])))((IMAGES * 4, TARGET))
    with pytest.raises(ValueError, match="names 2 channels, and images have 3"):
        noise(read_normalization(([0.5, 0.4], [0.5, 0.4])))((IMAGES, TARGET))


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ((torch.rand(6, 30), TARGET), r"the data yield float32 \(6, 30\), which are no images"),
        ((torch.randint(9, (6, 3, 8, 8)), TARGET), r"the data yield int64"),
        (
            {"input_ids": torch.rand(6, 9), "labels": TARGET},
            "which part of a batch is the images cannot be told",
        ),
        (
            ((IMAGES, IMAGES), TARGET),
            r"the data yield float32 \(6, 3, 8, 10\), which are no images: \(channels",
        ),
        ((np.zeros((6, 3, 8, 8)), TARGET), "batches hold ndarray where images must be"),
        ((IMAGES, IMAGES, TARGET), "which part of a batch is the images cannot be told"),
    ],
)
def test_what_has_no_images_is_refused(batch: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^Guard.corruptions: .*{why}"):
        noise()(batch)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x, g: None, "returned NoneType"),
        (lambda x, g: x[0], r"returned float32 \(3, 8, 10\)"),
        (lambda x, g: x[..., :4], r"returned float32 \(1, 3, 8, 4\)"),
        (lambda x, g: x.double(), "returned float64"),
        (lambda x, g: x * float("nan"), "returned values from nan to nan"),
        (lambda x, g: x + 1, "returned values from 1"),
        (lambda x, g: x / 0, "returned values from"),
    ],
)
def test_what_a_function_returns_must_be_such_an_image(function: Any, why: str) -> None:
    with pytest.raises(ValueError, match=rf"corruption 'mine' {why}.*must return float32 \(1, 3, 8, 10\)"):
        of(function)


@dataclass(frozen=True)
class Batch:
    image: Any
    label: Any
    mask: Any = None


Pair = namedtuple("Pair", "label image")


@pytest.mark.parametrize(
    ("batch", "read"),
    [
        ((IMAGES, TARGET), lambda b: b[0]),
        ([IMAGES, TARGET, ["a"] * 6], lambda b: b[0]),
        ((TARGET, IMAGES, TARGET), lambda b: b[1]),
        ({"image": IMAGES, "mask": IMAGES[:, :1]}, lambda b: b["image"]),
        ({"photo": IMAGES, "y": TARGET}, lambda b: b["photo"]),
        (UserDict(pixel_values=IMAGES, labels=TARGET), lambda b: b["pixel_values"]),
        (Batch(IMAGES, TARGET, IMAGES), lambda b: b.image),
        (Pair(TARGET, IMAGES), lambda b: b.image),
        (([*IMAGES], [{}] * 6), lambda b: torch.stack(b[0])),
    ],
)
def test_batches_of_any_kind_keep_it(batch: Any, read: Any) -> None:
    expected, _ = noise()((IMAGES, TARGET))
    before = IMAGES.clone()
    changed = noise()(batch)
    assert type(changed) is type(batch)
    assert torch.equal(read(changed), expected)
    assert torch.equal(read(batch), before)


def test_images_of_different_sizes_and_none_at_all() -> None:
    listed = [IMAGES[0], IMAGES[1, :, :5]]
    changed, _ = noise()((listed, [{}, {}]))
    assert [one.shape for one in changed] == [one.shape for one in listed]
    empty, _ = noise()((IMAGES[:0], TARGET[:0]))
    assert empty.shape == (0, 3, 8, 10)


def test_a_datamodule_may_know_its_normalization() -> None:
    class Known:
        normalization = (torch.tensor([0.5]).view(-1, 1, 1), torch.tensor([0.2]).view(-1, 1, 1))

    class Other:
        normalization = "batch"

    known = normalization_of(Known())
    assert known is not None
    assert (known[0].shape, float(known[1])) == ((1, 1, 1), pytest.approx(0.2))
    assert normalization_of(Other()) is normalization_of(None) is None
