"""Batches of the common forms are read, and no other."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_classprune.trainer.batches import (
    INPUTS,
    TARGETS,
    Reading,
    UnreadableBatchError,
    described,
    part,
    parts,
    reading,
    unlike,
)

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    path: tuple[str, ...] = ()


Named = namedtuple("Named", "target input extra")
Pair = namedtuple("Pair", "target input")
Plain = namedtuple("Plain", "first second")


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, Y), "scores = module(batch[0]), target = batch[1]"),
        ([X, Y], "scores = module(batch[0]), target = batch[1]"),
        ([X, Y.float()], "scores = module(batch[0]), target = batch[1]"),
        ([X, Y, torch.arange(4)], "scores = module(batch[0]), target = batch[1]"),
        ((X, Y, ["a", "b", "c", "d"], X), "scores = module(batch[0]), target = batch[1]"),
        ((X, Y.float(), X), "scores = module(batch[0]), target = batch[1]"),
        ((X, torch.ones(4, 5).long(), X), "scores = module(batch[0]), target = batch[1]"),
        (Plain(X, Y), "scores = module(batch[0]), target = batch[1]"),
        ({"x": X, "y": Y}, "scores = module(batch['x']), target = batch['y']"),
        ({"label": Y, "image": X, "index": Y}, "scores = module(batch['image']), target = batch['label']"),
        (
            UserDict(pixel_values=X, labels=Y),
            "scores = module(batch['pixel_values']), target = batch['labels']",
        ),
        ({"input": X, "target": Y}, "scores = module(batch['input']), target = batch['target']"),
        (Sample(X, Y), "scores = module(batch.image), target = batch.label"),
        (Named(Y, X, 0), "scores = module(batch.input), target = batch.target"),
        (Pair(Y, X), "scores = module(batch.input), target = batch.target"),
    ],
)
def test_a_common_form_is_read_and_said(batch: Any, words: str) -> None:
    found = reading(batch)
    assert part(batch, found.input) is X
    assert torch.equal(part(batch, found.target).float(), Y.float()) or found.target == 1
    assert described(found, batch) == words


@pytest.mark.parametrize("known", INPUTS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_pair_of_names(known: str, target: str) -> None:
    assert reading({target: Y, "id": Y, known: X}) == Reading(known, target)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": X}, r"dict with image: float32 \(4, 3\)"),
        ({"image": X, "x": X, "y": Y}, r"image: float32 .*, x: float32 .*, y: int64 \(4,\)"),
        ({"image": X, "label": Y, "labels": Y}, "cannot be told"),
        (
            {"input_ids": Y, "attention_mask": Y, "labels": Y},
            r"module\(batch\['input_ids'\]\), batch\['labels'\]",
        ),
        (
            (X, X, Y),
            r"tuple with 0: float32 \(4, 3\), 1: float32 \(4, 3\), 2: int64 \(4,\)\. Say it.*batch\[2\]\)",
        ),
        ((X, torch.rand(4), Y), "cannot be told"),
        ((X, Y[:3], Y), "cannot be told"),
        ([X], "list with 0: float32"),
        ([], "list with nothing in it"),
        (X, r"a Tensor with float32 \(4, 3\)"),
        ({1: X, 2: Y}, "dict with dict"),
        (Sample, "type with type"),
        ("words", "str"),
    ],
)
def test_what_cannot_be_told_is_shown_with_a_predict_to_paste(batch: Any, message: str) -> None:
    with pytest.raises(UnreadableBatchError, match=message) as error:
        reading(batch)
    assert "predict=lambda module, batch: (module(" in str(error.value)


def test_the_predict_to_paste_is_a_program() -> None:
    with pytest.raises(UnreadableBatchError) as error:
        reading((X, X, Y))
    predict = eval(str(error.value).partition("predict=")[2])
    scores, target = predict(lambda x: 2 * x, (X, X, Y))
    assert torch.equal(scores, 2 * X)
    assert target is Y


def test_a_network_that_takes_something_else_is_shown_with_a_predict_to_paste() -> None:
    pair = unlike(reading((Y, X)), (Y, X), RuntimeError("mat1 and mat2"))
    assert "scores = module(batch[0])" in str(pair)
    assert "raised RuntimeError: mat1 and mat2. A batch is a tuple with 0: int64 (4,), 1: float32" in str(
        pair
    )
    predict = eval(str(pair).partition("predict=")[2])
    assert predict(lambda x: x, (Y, X)) == (X, Y)
    batch = {"pixel_values": X, "labels": Y}
    predict = eval(str(unlike(reading(batch), batch, TypeError("takes 1"))).partition("predict=")[2])
    assert predict(lambda *, pixel_values: pixel_values, batch) == (X, Y)


def test_parts_have_names_or_there_are_none() -> None:
    assert parts({"a": 1, 2: 3}) == {"a": 1}
    assert parts(Sample(X, Y)) == {"image": X, "label": Y, "path": ()}
    assert list(parts(Named(Y, X, 0))) == ["target", "input", "extra"]
    assert parts([X, Y]) == parts(X) == parts(Sample) == {}
