import pytest
import torch
from scipy.stats import chisquare

from lightning_classprune.pruning.criteria import (
    CRITERIA,
    magnitude,
    magnitude_increase,
    random,
    read_criterion,
)

torch.set_num_threads(1)


def test_magnitude_by_hand():
    weight = torch.tensor([[-3.0, 0.0], [2.0, -0.5]])
    assert magnitude(weight, torch.full((2, 2), 9.0)).tolist() == [[3.0, 0.0], [2.0, 0.5]]


def test_magnitude_increase_by_hand_may_be_negative():
    weight, start = torch.tensor([-3.0, 1.0, 0.5, -2.0]), torch.tensor([1.0, -4.0, 0.5, 2.0])
    assert magnitude_increase(weight, start).tolist() == [2.0, -3.0, 0.0, 0.0]


@pytest.mark.parametrize("name", list(CRITERIA))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scores_have_the_weights_shape_leave_it_alone_and_repeat_exactly(name, dtype):
    weight = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, state = weight.clone(), torch.get_rng_state()
    scores = CRITERIA[name](weight, weight * 0.5)
    assert scores.shape == weight.shape
    assert scores.is_floating_point()
    assert not scores.isnan().any()
    assert torch.equal(scores, CRITERIA[name](weight, weight * 0.5))
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_random_scores_depend_on_value_and_logical_place_not_on_layout(dtype):
    weight = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = random(weight, weight)
    assert torch.equal(random(weight.to(memory_format=torch.channels_last), weight), scores)
    nudged = weight.clone()
    nudged[1, 1, 1, 1] += 1
    assert (random(nudged, weight) != scores).nonzero().tolist() == [[1, 1, 1, 1]]


def test_random_scores_look_at_no_size():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(40_000, generator=generator)
    for source in (weight, torch.zeros(40_000)):
        scores = random(source, source)
        assert len(scores.unique()) == 40_000
        # The lowest fifth is spread evenly over places, and over sizes.
        chosen = scores.argsort()[:8000]
        assert chisquare(torch.bincount(chosen // 1000, minlength=40)).pvalue > 0.001
        ranks = weight.abs().argsort().argsort()
        assert chisquare(torch.bincount(ranks[chosen] // 1000, minlength=40)).pvalue > 0.001


def test_a_name_or_a_callable_is_resolved():
    assert {name: read_criterion(name) for name in CRITERIA} == {
        "magnitude": magnitude,
        "magnitude_increase": magnitude_increase,
        "random": random,
    }

    def own(weight, rewind_point):
        return weight

    assert read_criterion(own) is own


@pytest.mark.parametrize("bad", ["magnitud", "", 3, None, ["magnitude"]])
def test_what_is_no_criterion_is_named_with_the_allowed(bad):
    with pytest.raises(
        ValueError, match=r"criterion=.*'magnitude', 'magnitude_increase', 'random' or a callable"
    ):
        read_criterion(bad)
