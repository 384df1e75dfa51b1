"""The losses against numbers worked by hand, exact arithmetic, brute force and finite differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_classprune.losses import (
    ClassBalancedCrossEntropy,
    ClassDependentLoss,
    PairwiseRankingLoss,
    class_balanced_weights,
    log_odds,
    pairwise_squared_hinge,
)

LN2, LN3, LN4_3 = math.log(2), math.log(3), math.log(4 / 3)

# One logit, worked by hand: the gaps of the four (positive, negative) pairs are 1, 3, -0.5 and 1.5.
LOGIT = torch.tensor([2.0, 0.5, 1.0, -1.0])
BINARY = torch.tensor([1, 1, 0, 0])


def two_logits(logit: Tensor) -> Tensor:
    """The same question as two logits, with an offset per sample that softmax ignores."""
    offset = torch.arange(len(logit), dtype=logit.dtype) * 3 - 4
    return torch.stack((offset, offset + logit), dim=1)


# --- class_balanced_weights


def test_weights_by_hand() -> None:
    # gamma = .5/.5 = 1 and .5/.75 = 2/3, whose mean is 5/6.
    torch.testing.assert_close(class_balanced_weights([1, 2], beta=0.5), torch.tensor([1.2, 0.8]))


def test_beta_zero_weighs_all_classes_equally() -> None:
    assert class_balanced_weights([1, 50, 10**9], beta=0).tolist() == [1, 1, 1]


def test_paper_beta_is_the_default() -> None:
    counts = torch.tensor([727, 173])
    explicit = class_balanced_weights([727, 173], beta=0.99997)
    assert torch.equal(class_balanced_weights(counts), explicit)
    assert explicit[1] / explicit[0] == pytest.approx((1 - 0.99997**727) / (1 - 0.99997**173), rel=1e-6)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("beta", [2.0**-20, 0.25, 0.9, 0.99997, 1 - 1e-8, 1 - 2.0**-52])
@pytest.mark.parametrize("counts", [[1], [1, 3, 7], [60, 2, 11, 11]])
def test_weights_agree_with_exact_arithmetic(counts: list[int], beta: float) -> None:
    exact_beta = Fraction(beta)
    gammas = [(1 - exact_beta) / (1 - exact_beta**n) for n in counts]
    expected = [float(gamma * len(gammas) / sum(gammas)) for gamma in gammas]
    assert class_balanced_weights(counts, beta).tolist() == pytest.approx(expected, rel=1e-13)


@given(counts=st.lists(st.integers(1, 10**9), min_size=2, max_size=8), beta=st.floats(0, 1, exclude_max=True))
def test_rarer_classes_never_weigh_less_and_the_mean_is_one(counts: list[int], beta: float) -> None:
    weights = class_balanced_weights(sorted(counts), beta).tolist()
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) / len(weights) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("counts", "beta", "message"),
    [
        ([10, 0], 0.9, r"class_counts=\[10, 0\].*without training samples"),
        ([-1, 5], 0.9, r"class_counts=\[-1, 5\]"),
        ([], 0.9, r"class_counts=\[\]"),
        ([1.5, 2], 0.9, "class_counts=.*must be integers"),
        ([1, 2], 1.0, r"beta=1\.0 must lie in \[0, 1\)"),
        ([1, 2], -0.1, r"beta=-0\.1"),
        ([1, 2], math.nan, "beta=nan"),
    ],
)
def test_bad_counts_and_beta(counts: list[int], beta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_balanced_weights(counts, beta)


# --- ClassBalancedCrossEntropy


@pytest.mark.parametrize(
    ("scores", "target"),
    [
        (torch.tensor([[0.0, LN3], [7.0, 7.0]]), torch.tensor([1, 0])),
        (torch.tensor([LN3, 0.0]), torch.tensor([1, 0])),
        (torch.tensor([[LN3], [0.0]]), torch.tensor([1.0, 0.0])),
        (torch.tensor([[LN3], [0.0]]), torch.tensor([[1], [0]])),
        (torch.tensor([LN3, 0.0]), torch.tensor([[True], [False]])),
    ],
    ids=["two logits", "one logit (N,)", "one logit (N, 1)", "both (N, 1)", "bool target (N, 1)"],
)
def test_cross_entropy_by_hand(scores: Tensor, target: Tensor) -> None:
    # p of the true class is 3/4 (class 1, weight 5) and 1/2 (class 0, weight 1).
    loss = ClassBalancedCrossEntropy(class_weights=[1, 5])
    assert loss(scores, target).item() == pytest.approx((5 * LN4_3 + LN2) / 6, rel=1e-6)


def test_cross_entropy_uses_the_balanced_weights_of_the_counts() -> None:
    scores, target = torch.tensor([[0.0, LN3], [7.0, 7.0]]), torch.tensor([1, 0])
    loss = ClassBalancedCrossEntropy([2, 1], beta=0.5)
    assert loss(scores, target).item() == pytest.approx((1.2 * LN4_3 + 0.8 * LN2) / 2, rel=1e-6)


def test_cross_entropy_equals_torch_for_many_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 6, generator=generator)
    target = torch.randint(6, (40,), generator=generator, dtype=torch.int32)
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0, 5.0, 0.5])
    expected = F.cross_entropy(scores, target.long(), weight=weights)
    torch.testing.assert_close(ClassBalancedCrossEntropy(class_weights=weights)(scores, target), expected)


def test_multi_label_cross_entropy_weighs_the_positive_terms() -> None:
    scores = torch.tensor([[LN3, 0.0], [0.0, -LN3]])
    target = torch.tensor([[1, 1], [1, 0]])
    # Losses ln(4/3), ln 2 / ln 2, ln(4/3); weights 2, 5 / 2, 1.
    loss = ClassBalancedCrossEntropy(class_weights=[2, 5])(scores, target)
    assert loss.item() == pytest.approx((3 * LN4_3 + 7 * LN2) / 10, rel=1e-6)


def test_a_batch_of_weightless_classes_or_no_samples_gives_zero() -> None:
    loss = ClassBalancedCrossEntropy(class_weights=[0, 1])
    scores = torch.randn(3, 2, requires_grad=True)
    for batch in (scores, scores[:0]):
        value = loss(batch, torch.zeros(len(batch), dtype=torch.long))
        value.backward()
        assert value.item() == 0
    assert torch.equal(scores.grad, torch.zeros(3, 2))


# --- PairwiseRankingLoss


@pytest.mark.parametrize(("margin", "expected"), [(1.0, 2.25 / 4), (2.0, 7.5 / 4), (0.25, 0.5625 / 4)])
def test_ranking_by_hand(margin: float, expected: float) -> None:
    for protect in ([1], [0], [0, 1], {1: 0.05}):
        loss = PairwiseRankingLoss(protect, margin)
        for scores in (LOGIT, LOGIT.unsqueeze(1), two_logits(LOGIT)):
            assert loss(scores, BINARY).item() == pytest.approx(expected, rel=1e-5)


def test_ranking_of_three_classes_by_hand() -> None:
    # Odds of class 0: 1 for a sample of class 0, 3 for one of class 1; so the gap is 0 - ln 3.
    scores = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125]]).log()
    target = torch.tensor([0, 1])
    class_0 = (1 + LN3) ** 2
    # Odds of class 1: 1/7 for the sample of class 1, 1/3 for the other.
    class_1 = (1 - math.log(1 / 7) + math.log(1 / 3)) ** 2
    assert PairwiseRankingLoss([0])(scores, target).item() == pytest.approx(class_0, rel=1e-6)
    assert PairwiseRankingLoss([0, 1])(scores, target).item() == pytest.approx(
        (class_0 + class_1) / 2, rel=1e-6
    )
    # Class 2 is absent and counts as 0.
    assert PairwiseRankingLoss([0, 2])(scores, target).item() == pytest.approx(class_0 / 2, rel=1e-6)


def test_ranking_of_multi_label_by_hand() -> None:
    scores = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, 1.5]])
    target = torch.tensor([[1, 1, 0], [0, 1, 1]])
    # Gaps: -2 for label 0, no pair for label 1, .5 for label 2.
    assert PairwiseRankingLoss([0, 2])(scores, target).item() == pytest.approx((9 + 0.25) / 2)
    assert PairwiseRankingLoss([0, 1, 2])(scores, target.float()).item() == pytest.approx((9 + 0.25) / 3)


def test_log_odds_of_two_logits_is_exactly_their_difference() -> None:
    scores = torch.tensor([[200.0, -3.25], [0.5, 1000.0]])
    assert log_odds(scores, 1).tolist() == [-203.25, 999.5]
    assert log_odds(scores, 0).tolist() == [203.25, -999.5]


@given(
    st.lists(st.tuples(st.integers(-400, 400), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_hinge_equals_brute_force_and_bounds_the_auc(samples: list[tuple[int, bool]], margin: float) -> None:
    scores = [score / 100 for score, _ in samples]
    gaps = [
        scores[i] - scores[j]
        for i, (_, positive) in enumerate(samples)
        for j, (_, other) in enumerate(samples)
        if positive and not other
    ]
    expected = sum(max(0.0, margin - gap) ** 2 for gap in gaps) / max(len(gaps), 1)
    positives = torch.tensor([positive for _, positive in samples])
    hinge = pairwise_squared_hinge(torch.tensor(scores).double()[:, None], positives[:, None], margin)
    assert hinge.tolist() == pytest.approx([expected], rel=1e-5, abs=1e-6)
    if gaps and margin == 1:
        auc = sum((gap > 1e-9) + 0.5 * (abs(gap) <= 1e-9) for gap in gaps) / len(gaps)
        assert hinge.item() >= 1 - auc - 1e-6


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_offsets_that_softmax_ignores_change_nothing(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(9, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (9,), generator=generator)
    offsets = 50 * torch.randn(9, 1, generator=generator, dtype=torch.float64)
    loss = ClassDependentLoss([3] * classes, protect=range(classes))
    torch.testing.assert_close(loss(scores + offsets, target), loss(scores, target), rtol=1e-9, atol=1e-9)


# --- gradients and numbers of every kind


def random_batch(form: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = {"one logit": (8,), "two logits": (8, 2), "classes": (8, 4), "labels": (8, 4)}[form]
    scores = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if form == "labels":
        return scores, torch.randint(2, shape, generator=generator)
    return scores, torch.arange(8) % (4 if form == "classes" else 2)


def loss_for(form: str) -> ClassDependentLoss:
    classes = 4 if form in ("classes", "labels") else 2
    return ClassDependentLoss(
        list(range(5, 5 + classes)), protect=[1, classes - 1], beta=0.9, rank_weight=2.5
    )


FORMS = ["one logit", "two logits", "classes", "labels"]


@pytest.mark.parametrize("form", FORMS)
def test_gradients_agree_with_finite_differences(form: str) -> None:
    scores, target = random_batch(form)
    loss = loss_for(form)
    assert loss.ranking(scores, target) > 0.1  # else the hinge would not be under test
    assert torch.autograd.gradcheck(lambda s: loss(s, target), scores.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
def test_the_combination_is_the_weighted_sum_of_its_terms(form: str) -> None:
    scores, target = random_batch(form)
    loss = loss_for(form)
    total = loss.cross_entropy(scores, target) + 2.5 * loss.ranking(scores, target)
    torch.testing.assert_close(loss(scores, target), total)
    assert total.dtype == torch.float64


def test_the_paper_settings_are_the_defaults() -> None:
    scores = LOGIT.clone()
    expected = ClassBalancedCrossEntropy([727, 173], 0.99997)(scores, BINARY) + 5 * 0.5625
    torch.testing.assert_close(ClassDependentLoss([727, 173], {1: 0.05})(scores, BINARY), expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_a_zero_gradient_that_is_connected(label: int) -> None:
    weight = nn.Parameter(torch.randn(3, 2))
    value = PairwiseRankingLoss([1])(torch.randn(4, 3) @ weight, torch.full((4,), label))
    value.backward()
    assert value.item() == 0
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 2))


def test_an_overflow_outside_the_pairs_leaves_the_gradient_finite() -> None:
    scores = torch.tensor([3e38, -3e38], requires_grad=True)
    value = PairwiseRankingLoss([1])(scores, torch.tensor([1, 1]))
    value.backward()
    assert value.item() == 0
    assert torch.equal(scores.grad, torch.zeros(2))


def test_nan_scores_are_not_hidden() -> None:
    scores = torch.tensor([math.nan, 1.0])
    assert PairwiseRankingLoss([1])(scores, torch.tensor([1, 0])).isnan()
    assert ClassBalancedCrossEntropy([1, 1])(scores, torch.tensor([1, 0])).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_large_half_precision_logits_equal_float64(form: str, dtype: torch.dtype) -> None:
    scores, target = random_batch(form)
    scores = (200 * scores.sign()).to(dtype)  # gaps of 400, whose square overflows float16
    loss = loss_for(form)
    exact = scores.double().requires_grad_()
    loss(exact, target).backward()
    half = scores.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), loss(exact, target).detach(), rtol=1e-5, atol=1e-5)
    assert value > 100
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=1e-2, atol=1e-2)


def test_autocast_network_trains_in_bfloat16() -> None:
    network = nn.Linear(5, 3)
    x, target = torch.randn(12, 5), torch.arange(12) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = network(x)
        value = ClassDependentLoss([9, 2, 1], protect=[2])(scores, target)
    assert scores.dtype == torch.bfloat16
    value.backward()
    assert network.weight.grad.abs().sum() > 0
    torch.testing.assert_close(value, ClassDependentLoss([9, 2, 1], protect=[2])(scores.float(), target))


def test_no_graph_break_under_compile() -> None:
    scores, target = random_batch("classes")
    compiled = torch.compile(loss_for("classes"), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(scores, target), loss_for("classes")(scores, target))


def test_checkpoints_do_not_depend_on_the_loss() -> None:
    loss = ClassDependentLoss([3, 1], protect=[1])
    assert loss.state_dict() == {}
    assert not list(loss.parameters())
    assert torch.equal(copy.deepcopy(loss)(LOGIT, BINARY), loss(LOGIT, BINARY))
    assert "protect=(1,), margin=1.0" in repr(loss)
    assert "class_weights=[0.5, 1.5]" in repr(loss)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protect": [1]}, "neither of class_counts and class_weights"),
        ({"class_counts": [1, 1], "class_weights": [1, 1], "protect": [1]}, "both of class_counts and"),
        ({"class_weights": [1, -5], "protect": [1]}, r"class_weights=\[1.0, -5.0\]"),
        ({"class_weights": [0, 0], "protect": [1]}, r"class_weights=\[0.0, 0.0\]"),
        ({"class_weights": [1, math.inf], "protect": [1]}, "class_weights="),
        ({"class_weights": [], "protect": [1]}, r"class_weights=\[\]"),
        ({"class_counts": [1, 1]}, r"protect=\(\) must hold at least one"),
        ({"class_counts": [1, 1], "protect": [2]}, r"names class 2, but there are only 2 classes"),
        ({"class_counts": [1, 1], "protect": [-1]}, r"protect=\[-1\]"),
        ({"class_counts": [1, 1], "protect": ["crack"]}, "protect=.*not names"),
        ({"class_counts": [1, 1], "protect": [1], "rank_weight": -1}, "rank_weight=-1"),
        ({"class_counts": [1, 1], "protect": [1], "rank_weight": math.nan}, "rank_weight=nan"),
        ({"class_counts": [1, 1], "protect": [1], "margin": 0}, "margin=0"),
        ({"class_counts": [1, 1], "protect": [1], "beta": 1}, "beta=1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassDependentLoss(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (
            torch.zeros(2, 2),
            torch.tensor([0, 2]),
            "target holds class 2, but the scores are for classes 0 to 1",
        ),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), "target holds class -1"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), r"target is torch.float32.*target.long\(\)"),
        (torch.zeros(2, 2), torch.tensor([True, False]), "target is torch.bool"),
        (torch.zeros(3, 2), torch.tensor([[0], [1], [1]]), r"target has shape \(3, 1\).*need class"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), r"target has shape \(2,\)"),
        (torch.zeros(3, 2), torch.tensor([[0, 2], [0, 0], [0, 0]]), "target holds 2, but"),
        (torch.zeros(2), torch.tensor([0, 2]), "target holds 2, but one logit"),
        (torch.zeros(2), torch.tensor([0.0, 0.3]), r"target holds 0\.3"),
        (torch.zeros(3), torch.tensor([0, 1]), r"target has shape \(2,\).*one logit"),
        (torch.zeros(2, 2, 1), torch.tensor([0, 1]), r"scores have shape \(2, 2, 1\)"),
        (torch.zeros(2, 2).long(), torch.tensor([0, 1]), "scores are torch.int64"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), "2 class counts or weights are given, but scores for 3"),
    ],
)
def test_bad_batches(scores: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassDependentLoss([1, 1], protect=[1])(scores, target)


def test_protect_outside_the_scores() -> None:
    with pytest.raises(ValueError, match="names class 2, but there are only 2"):
        PairwiseRankingLoss([2])(LOGIT, BINARY)


def test_validate_args_off_skips_the_check_of_values() -> None:
    loss = PairwiseRankingLoss([1], validate_args=False)
    assert loss(two_logits(LOGIT), torch.tensor([1, 1, 0, 7])).item() == pytest.approx(2.25 / 4, rel=1e-5)
