"""Tokens and spans of them, by hand and against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.guard.objects import Reading
from lightning_classprune.guard.task import NaNScoresError
from lightning_classprune.guard.tokens import Tokens

HOW = Reading(("O", "PER"), (1,), 0.0, (0.0,))


def scores(claims: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(claims.clamp(min=0), 2).float() * 4 - 2


TRUE = torch.tensor([[1, 1, 0, 1, -100], [0, 1, -100, 1, 0]])
CLAIM = torch.tensor([[1, 0, 1, 1, 1], [0, 1, 0, 1, 1]])


def seen(kind: Tokens, claims: Tensor = CLAIM, target: Tensor = TRUE, how: Reading = HOW) -> Any:
    return kind.read(scores(claims), target, how)[1][1]


def test_tokens_by_hand() -> None:
    one = seen(Tokens())
    assert one.sample.tolist() == [0, 0, 0, 1, 1]
    assert one.found[:, 0].tolist() == [True, False, True, True, True]
    assert one.alarms[:, 0].tolist() == [1, 1]
    assert one.box[:, [0, 2]].tolist() == [[0, 1], [1, 2], [3, 4], [1, 2], [3, 4]]


def test_spans_by_hand() -> None:
    """What counts neither way does not end a span: the second sentence's is one of two tokens."""
    one = seen(Tokens(span=True))
    assert one.sample.tolist() == [0, 0, 1]
    assert one.found[:, 0].tolist() == [False, False, False]
    assert one.alarms[:, 0].tolist() == [2, 1]
    right = seen(Tokens(span=True), TRUE.clamp(min=0))
    assert right.found.all()
    assert not right.alarms.any()
    assert right.box[2].tolist() == [1, 0, 4, 0]


@given(st.integers(0, 10_000))
def test_spans_are_what_a_loop_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, 2, (3, 7), generator=generator)
    claims = torch.randint(0, 2, (3, 7), generator=generator)
    one = Tokens(ignore_index=-1, span=True).read(scores(claims), target, HOW)[1][1]
    found, alarms = [], []
    for row, said in zip(target.tolist(), claims.tolist(), strict=True):
        kept = [(t, c) for t, c in zip(row, said, strict=True) if t != -1]
        true, claimed = (runs([pair[i] for pair in kept]) for i in (0, 1))
        found += [run in claimed for run in true]
        alarms.append(sum(run not in true for run in claimed))
    assert one.found[:, 0].tolist() == found
    assert one.alarms[:, 0].tolist() == alarms


def runs(row: list[int]) -> list[tuple[int, int]]:
    found, start = [], None
    for place, value in enumerate([*row, 0]):
        if value == 1 and start is None:
            start = place
        if value != 1 and start is not None:
            found.append((start, place))
            start = None
    return found


def test_nobody_gains_by_claiming_everything() -> None:
    everything = torch.ones_like(CLAIM)
    assert seen(Tokens(), everything).found.all()
    assert seen(Tokens(), everything).alarms[:, 0].tolist() == [1, 2]
    assert not seen(Tokens(span=True), everything).found.any()


def test_decisions_one_score_and_biases() -> None:
    wanted = seen(Tokens())
    for one in (scores(CLAIM) > 0, scores(CLAIM)[..., 1:], scores(CLAIM).bfloat16()):
        assert (Tokens().read(one, TRUE, HOW)[1][1].found == wanted.found).all()
    moved = Reading(HOW.names, (1,), 0.0, (0.0, 4.0, -4.0))
    assert seen(Tokens(), how=moved).found.sum(0).tolist() == [4, 5, 4]  # equal scores: claimed with a bias
    assert Tokens().read(scores(CLAIM)[:0], TRUE[:0], HOW)[1][1].alarms.shape == (0, 1)


@pytest.mark.parametrize(
    ("score", "target", "message"),
    [
        (torch.zeros(2, 2, 5), TRUE, r"scores \(2, 2, 5\), target \(2, 5\) .*scores \(n, T, 2\)"),
        (torch.zeros(2, 5, 3), TRUE, "num_classes=2"),
        (torch.zeros(2, 5, 2, dtype=torch.int64), TRUE, "dtype torch.int64"),
        (torch.zeros(2, 5, 2), TRUE + 1, "targets from -99 to 2; .* are allowed, and ignore_index=-100"),
        ([], TRUE, "two tensors"),
    ],
)
def test_what_makes_no_sense_is_refused(score: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"predict .*{message}"):
        Tokens().read(score, target, HOW)


def test_no_number_matters_only_where_it_counts() -> None:
    odd = scores(CLAIM)
    odd[0, 4] = torch.nan
    assert Tokens().read(odd, TRUE, HOW)[0] == 2
    odd[0, 0] = torch.nan
    with pytest.raises(NaNScoresError):
        Tokens().read(odd, TRUE, HOW)


def test_bad_arguments_are_refused_by_name() -> None:
    for options in ({"ignore_index": None}, {"ignore_index": 1.5}, {"span": "yes"}):
        with pytest.raises(ValueError, match=r"^Tokens\.\w+="):
            Tokens(**options)  # type: ignore[arg-type]
