"""The search cannot come to an outcome of the guard's: nothing that it holds leads there, in a real fit."""

from __future__ import annotations

import gc
import typing
import weakref
from collections.abc import Callable, Iterable
from math import prod
from types import FrameType, FunctionType, ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.conditions import Looks
from lightning_classprune.guard.data import GuardData
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.offset import Labels
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.rounds.run import PruningRun
from lightning_classprune.rounds.search import Look, Search
from lightning_classprune.trainer.horizon import Horizon
from lightning_classprune.trainer.processes import Processes
from tests.support.kit import fit, pruner, tiny, verdicts

pytestmark = pytest.mark.fit

# Not followed: what is everybody's.
WORLD = (pl.Trainer, pl.LightningModule, ModuleType, type)


def leads_to(thing: Any) -> Iterable[Any]:
    """What an object holds: attributes, items, slots, what a method, partial or closure is bound to."""
    if isinstance(thing, FunctionType):  # not its globals, which are the world
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, vars(thing)]
    if isinstance(thing, FrameType):
        return list(thing.f_locals.values())
    if isinstance(thing, weakref.ref):
        return [thing()]
    return gc.get_referents(thing)


def reachable(start: Any) -> list[Any]:
    """All objects that can be come to from one."""
    found: dict[int, Any] = {}
    todo = [start]
    while todo:
        thing = todo.pop()
        if id(thing) not in found and not isinstance(thing, WORLD):
            found[id(thing)] = thing
            todo += leads_to(thing)
    return list(found.values())


def of_the_guard(search: Search, outcomes: Iterable[Any]) -> list[Any]:
    """What the search can come to of the guard's: the judge, the run, outcomes, or a tensor like one of theirs."""
    theirs = [tensor for one in outcomes for tensor in (one.target, one.predicted)]

    def forbidden(thing: Any) -> bool:
        if isinstance(thing, Tensor):
            return any(thing.shape == one.shape and torch.equal(thing.long(), one.long()) for one in theirs)
        known = any(thing is one for one in outcomes)
        return known or isinstance(thing, Judge | PruningRun | ClassAwarePruningCallback)

    return [thing for thing in reachable(search) if forbidden(thing)]


class Walk(pl.Callback):
    """Walks from the search at the start of every epoch and at the end of the training."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback = callback
        self.walks = 0
        self.found: list[Any] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        run = self.callback._run
        assert run is not None
        assert run.search is not None
        judged = [one for one in (run.judge.dense, run.judge.accepted) if one is not None]
        self.walks += bool(judged)
        self.found += of_the_guard(run.search, judged)
        self.search, self.judge = run.search, run.judge

    on_train_end = on_train_epoch_start


@pytest.fixture(scope="module")
def walk() -> Walk:
    callback = pruner(search="adaptive", confidence=0.9, protect={1: 0.9})
    walk = Walk(callback)
    fit(tiny(), callback, walk)
    return walk


def test_no_outcome_of_the_guards_can_be_come_to_from_the_search(walk: Walk) -> None:
    assert "accepted" in verdicts(walk.callback)
    assert walk.walks >= 2
    assert walk.found == []
    # As anybody can read them after the fit.
    assert of_the_guard(walk.search, walk.callback.guard_outcomes.values()) == []


def test_the_walk_comes_to_all_that_the_search_has(walk: Walk) -> None:
    found = {id(thing) for thing in reachable(walk.search)}
    assert walk.search.dense is not None
    for thing in (
        walk.search.dense,
        walk.search.dense.predicted,
        walk.search.evaluator.task,
        walk.search.data,
    ):
        assert id(thing) in found
    validation = walk.search.data.shares[0].loader.dataset.tensors[0]
    assert id(validation) in found


class Slotted:
    __slots__ = ("kept",)

    def __init__(self, kept: Any) -> None:
        self.kept = kept


WAYS: dict[str, Callable[[Judge], Any]] = {
    "attribute": lambda judge: judge,
    "closure": lambda judge: lambda: judge.budget,
    "default": lambda judge: lambda judge=judge: judge,
    "method": lambda judge: judge.labels,
    "in a dict in a list": lambda judge: [{"judge": (judge,)}],
    "slot": Slotted,
    "generator": lambda judge: (judge for _ in range(1)),
    "weak": weakref.ref,
    "outcomes": lambda judge: judge.dense,
    "a copy of what was decided": lambda judge: judge.dense.predicted.clone(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("way", WAYS)
def test_the_walk_comes_to_a_judge_that_is_hidden_anywhere(walk: Walk, way: str) -> None:
    """Without this the test above could not fail."""
    search, judge = walk.search, walk.judge
    assert judge.dense is not None
    hiding = Search(search.evaluator, search.protected, search.data)
    hiding.hidden = WAYS[way](judge)  # type: ignore[attr-defined]
    assert of_the_guard(hiding, [judge.dense])


def own_types(hint: Any) -> set[type]:
    """The classes of this package in a type hint."""
    if isinstance(hint, type) and hint.__module__.startswith("lightning_classprune"):
        return {hint}
    return {kind for part in typing.get_args(hint) for kind in own_types(part)}


def test_no_type_that_the_search_has_is_of_a_judge() -> None:
    todo, seen = {Search}, set[type]()
    while todo:
        kind = todo.pop()
        seen.add(kind)
        hints = [typing.get_type_hints(kind)]
        hints += [typing.get_type_hints(m) for m in vars(kind).values() if isinstance(m, FunctionType)]
        todo |= {one for hint in hints for part in hint.values() for one in own_types(part)} - seen
    assert {Search, Evaluator, GuardData} <= seen
    assert not seen & {Judge, PruningRun, ClassAwarePruningCallback}


@pytest.mark.parametrize(
    ("epochs", "after", "looks"),
    [(8, 0.0, [4]), (5, 0.0, [3]), (1, 0.0, []), (16, 0.6, [13]), (10, 0.6, [8]), (4, 0.6, []), (2, 0.6, [])],
)
def test_half_of_a_round_is_half_of_what_counts_and_said_once(
    epochs: int, after: float, looks: list[int]
) -> None:
    search = Search(None, (), None)  # type: ignore[arg-type]
    horizon = Horizon(20, 0, epochs, -1)
    seen = [
        done for done in range(1, epochs + 1) for _ in "ab" if search.is_halfway(horizon, 20 + done, after)
    ]
    assert seen == looks


def look(before: Tensor, now: Tensor, target: Tensor, protected: list[int]) -> Look:
    """What is said of scores `now`, where those of the dense network were `before`."""
    names = "abcd"[: before.shape[1]]
    limits = tuple(Protected(i, names[i], FNTolerance(rate=0.1), 0.1) for i in protected)
    task = ClassesOrLabels(names, protected, 0.0)
    search = Search(Evaluator(task, None, Processes()), limits, None, with_offset=True)  # type: ignore[arg-type]
    search.labels = {one.name: Labels(200, 400) for one in limits}
    dense = task.outcomes(task.columns(before, target), {})
    return search._look(Looks(task.columns(now, target)), dense, 0.05)


def some_scores(target: Tensor, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(target), classes, generator=generator) + 3 * nn.functional.one_hot(target, classes)


def test_a_class_without_validation_positives_has_no_offset_and_no_say() -> None:
    """No miss of it can be seen, so that the fewest false alarms would be those of never deciding it."""
    target = torch.arange(300) % 2  # none of class 2
    before = some_scores(target, 3)
    now = before + torch.tensor([0.0, 1.0, 0.0])
    both, alone = (look(before, now, target, protected) for protected in ([1, 2], [1]))
    assert both.offsets == alone.offsets
    assert both.chance == alone.chance
    assert -1.5 < both.offsets["b"] < -0.5
    assert look(before, now, target, [2]).offsets == {}


def test_offsets_of_competing_classes_are_chosen_together() -> None:
    """While the second class is far off, no threshold of the first one is good; once it is back, one is."""
    target = torch.arange(600) % 4
    before = some_scores(target, 4)
    now = before + torch.tensor([0.0, 1.0, -2.5, 0.0])
    said = look(before, now, target, [1, 2])
    assert -1.5 < said.offsets["b"] < -0.5
    assert 2.0 < said.offsets["c"] < 3.0
    assert min(said.chance.values()) > 0.9


@pytest.mark.parametrize(
    ("slide", "protected"),
    [((2.0, 2.0, 0.0), [0, 1]), ((0.0, 1.5, -1.0), [0, 1, 2]), ((0.0, -2.0, 0.0, 2.0), [0, 1, 3])],
)
def test_competing_classes_that_slid_together_come_back_together(
    slide: tuple[float, ...], protected: list[int]
) -> None:
    """One by one they are held by each other: where one goes back alone, another takes its cases."""
    target = torch.arange(600) % len(slide)
    noise = torch.randn(600, len(slide), generator=torch.Generator().manual_seed(1))
    before = (some_scores(target, len(slide)) + noise) / 2
    said = look(before, before + torch.tensor(slide), target, protected)
    # Only how the classes stand to each other decides, so that of all of them the last has none.
    last = slide[-1] if len(protected) == len(slide) else 0.0
    for name, moved in zip("abcd", slide, strict=False):
        assert said.offsets.get(name, 0.0) == pytest.approx(last - moved, abs=0.5)
    assert prod(said.chance.values()) > 0.9


def test_another_label_has_no_say_about_an_offset() -> None:
    """Labels do not compete: one that is beyond help leaves the others what they would have had alone."""
    target = torch.stack([torch.arange(400) % 2, torch.arange(400) // 2 % 2], 1)
    before = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) + 4 * target - 2
    now = torch.stack([before[:, 0] + 1, torch.zeros(400)], 1)
    both, alone = (look(before, now, target, protected) for protected in ([0, 1], [0]))
    assert both.offsets["a"] == alone.offsets["a"]
    assert -1.5 < alone.offsets["a"] < -0.5
    assert both.chance["a"] == alone.chance["a"] > 0.9
    assert both.chance["b"] < 0.01
