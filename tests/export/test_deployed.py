"""What is deployed: normalisation, network and decision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_classprune.export.deployed import Deployed

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0]])


def test_plain_rule_is_the_largest() -> None:
    assert Deployed(nn.Identity(), thresholds={}).decide(SCORES).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("threshold", "decided"),
    [(-1.0, [1, 1, 1]), (-0.5, [0, 1, 1]), (0.5, [0, 1, 2]), (0.75, [0, 2, 2])],
)
def test_protected_class_takes_what_reaches_its_threshold(threshold: float, decided: list[int]) -> None:
    # Its margins are -1, .5 and -.5; the others' largest scores stand in columns 0, 2 and 2.
    assert Deployed(nn.Identity(), thresholds={1: threshold}).decide(SCORES).tolist() == decided


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_logit_is_positive_at_its_threshold(shape: tuple[int, ...]) -> None:
    scores = torch.tensor([-0.5, 0.0, 0.25]).reshape(shape)
    assert Deployed(nn.Identity(), thresholds={}).decide(scores).tolist() == [0, 1, 1]
    assert Deployed(nn.Identity(), thresholds={1: 0.25}).decide(scores).tolist() == [0, 0, 1]


def test_normalises_raw_images_like_the_data() -> None:
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    deployed = Deployed(nn.Identity(), normalization=([0.0, 0.2, 0.5], [1.0, 1.0, 0.25]))
    torch.testing.assert_close(deployed(raw).flatten(), torch.tensor([0.0, 0.0, 2.0]))
    torch.testing.assert_close(deployed(raw.double() / 255).flatten(), torch.tensor([0.0, 0.0, 2.0]))


@pytest.mark.parametrize(
    ("thresholds", "match"),
    [
        ({0: 0.0, 1: 0.0}, "several classes"),
        ({1: float("nan")}, "finite"),
        ({3: 0.0}, "classes are 0 to 2"),
    ],
)
def test_refuses_thresholds_without_sense(thresholds: dict[int, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Deployed(nn.Identity(), thresholds=thresholds).decide(SCORES)


def test_one_logit_has_a_threshold_for_class_one_only() -> None:
    with pytest.raises(ValueError, match="only class 1"):
        Deployed(nn.Identity(), thresholds={0: 0.5}).decide(SCORES[:, 0])


def test_refuses_a_spread_of_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Deployed(nn.Identity(), normalization=(0.0, 0.0))


def test_the_same_rule_around_another_network() -> None:
    x = torch.tensor([[3.0, 1.0], [1.0, 2.5]])
    rule = Deployed(nn.Identity(), (1.0, 2.0), {1: 0.25})
    other = rule.around(nn.Flatten())
    assert other.network is not rule.network
    for one, two in zip(rule(x), other(x), strict=True):
        assert torch.equal(one, two)
    mean, std = other.normalization or (None, None)
    assert (mean, std) == (torch.tensor(1.0), torch.tensor(2.0))
    plain = Deployed(nn.Identity()).around(nn.Flatten())
    assert plain.normalization is None
    assert torch.equal(plain(x), x)  # no decision beside the scores
