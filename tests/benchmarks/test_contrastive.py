"""The benchmark of encoders: what counts as forgotten, by hand, and the loss that needs no labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from benchmarks import contrastive
from benchmarks.contrastive import Encoder, forgotten, found_at_equal_alarms, jaccard

Y = np.array([1, 1, 1, 0, 0])


def test_forgotten_is_what_is_missed_at_as_many_false_alarms() -> None:
    """The dense network has one false alarm, so the pruned one's threshold is between 4 and 2."""
    margins = {"1": [3.0, 1.0, -1.0, 0.5, -2.0], "0.1": [5.0, 2.5, 4.5, 4.0, 2.0]}
    assert found_at_equal_alarms(Y, margins, "1").tolist() == [True, True, False]
    assert found_at_equal_alarms(Y, margins, "0.1").tolist() == [True, False, True]
    assert forgotten(Y, margins, "0.1").tolist() == [False, True, False]


def test_what_two_have_in_common() -> None:
    one, other = np.array([True, True, False]), np.array([False, True, True])
    assert jaccard(one, other) == 1 / 3
    assert jaccard(one, one) == 1
    assert np.isnan(jaccard(one & False, other & False))


def test_two_views_of_an_image_are_to_be_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand for two images whose views are the images themselves."""
    monkeypatch.setattr(contrastive, "view", lambda x: x)
    torch.manual_seed(0)
    module = Encoder(1, None).eval()
    x = torch.randn(2, 1, 16, 16)
    loss = module.training_step((x, torch.zeros(2)), 0)
    z = module.head(module.encoder(x))
    other = torch.exp(cosine_similarity(z[:1], z[1:]) / contrastive.TEMPERATURE)
    same = torch.exp(torch.tensor(1 / contrastive.TEMPERATURE))
    torch.testing.assert_close(loss, -torch.log(same / (same + 2 * other))[0])
