"""What samples and labels must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job.data.checks import check_images, read_labels, whole_numbers


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_numbers_are_kept_as_they_are_or_the_first_that_is_not_whole_is_named(values: list[float]) -> None:
    values = [float(np.clip(value, -1e15, 1e15)) if np.isfinite(value) else value for value in values]
    wrong = [row for row, value in enumerate(values) if not (np.isfinite(value) and value == int(value))]
    if not wrong:
        assert whole_numbers(np.array(values), "y").tolist() == [int(value) for value in values]
        return
    with pytest.raises(ValueError, match=f"y: row {wrong[0]} is "):
        whole_numbers(np.array(values), "y")


@pytest.mark.parametrize("shape", [(5, 8, 8, 1), (5, 2, 9, 3), (5, 3, 3, 3), (5, 64, 64, 12), (5, 9, 9, 200)])
def test_images_with_their_channels_last_are_taken(shape: tuple[int, ...]) -> None:
    check_images(np.zeros(shape, np.uint8), "x")


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 224, 224), (5, 12, 48, 64), (5, 8, 8), (0, 8, 8, 3)])
def test_others_are_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x has shape"):
        check_images(np.zeros(shape, np.uint8), "x")


def test_labels_that_seem_to_begin_at_one_are_suspected() -> None:
    """The last class has no sample: dropping the first name instead would call every sample by its neighbour's."""
    with pytest.warns(UserWarning, match=r"y: no label is 0, the class 'a'; .*must begin at 0: y - 1"):
        assert read_labels(np.array([1, 2, -1]), ["a", "b", "c"], "y").tolist() == [1, 2, -1]


def test_labels_that_leave_samples_out_stay_negative() -> None:
    assert read_labels(np.array([-1, 0, 1, -3]), ["a", "b"], "y").tolist() == [-1, 0, 1, -3]


def test_the_largest_unsigned_label_does_not_become_negative() -> None:
    with pytest.raises(ValueError, match=f"y: row 1 is {2**64 - 1}"):
        read_labels(np.array([0, 2**64 - 1], np.uint64), ["a", "b"], "y")
