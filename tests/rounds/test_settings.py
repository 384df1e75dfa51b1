"""The constructor's arguments: what is refused by name, what becomes of what is taken, and what two runs compare."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
from dataclasses import FrozenInstanceError, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune import (
    Adaptive,
    ClassAwarePruningCallback,
    Cut,
    Files,
    Fixed,
    FNTolerance,
    Gradual,
    Guard,
)
from lightning_classprune.guard.corruptions import fog
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tasks import Segmentation
from lightning_classprune.pruning.criteria import Criterion, magnitude, random
from lightning_classprune.rounds.rewind import Rewind
from lightning_classprune.rounds.schedules import ListedSteps
from lightning_classprune.rounds.settings import GRADUAL_CRITERION, Settings
from lightning_classprune.trainer.forward import default_predict
from tests.support.kit import plain_pruner

OPTIONS = (Fixed, Adaptive, Guard, Cut, Files)
SEARCHED = ("rewind", "on_refusal", "retries", "round_epochs", "max_rounds", "max_total_epochs")


def read(**options: Any) -> Settings:
    """The settings of a callback with these options."""
    return plain_pruner(**options).settings


def dotted(name: str) -> str:
    """An option as errors name it."""
    return next((f"{kind.__name__}.{name}" for kind in OPTIONS if name in known(kind)), name)


def known(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_the_defaults_in_the_form_that_the_parts_use() -> None:
    assert read() == Settings(
        num_classes=2,
        class_names=("0", "1"),
        protected=(Protected(1, "1", FNTolerance(rate=0.05), None),),
        target_sparsity=0.99,
        search=Fixed(
            fraction=0.2,
            rewind="init",
            round_epochs=None,
            on_refusal="stop",
            retries=0,
            max_rounds=None,
            max_total_epochs=None,
        ),
        guard=Guard(
            confidence=0.95, baseline="train", max_fp_rise=None, offset="none", judging="round", epoch="last"
        ),
        cut=Cut(criterion="magnitude", scope="global", granularity="weight", prunable=None),
        criterion=Criterion.of(magnitude),
        files=Files(ladder=None, rewind_file=None),
        threshold=0.0,
        predict=default_predict,
        guard_dataloader=None,
    )


# -- bad values --


NAN, INF = math.nan, math.inf

BAD: dict[str, list[Any]] = {
    "num_classes": [1, 0, -2, 2.0, True, "2", None],
    "class_names": [
        ["a"],
        ["a", "b", "c"],
        ["a", "a"],
        "ab",
        [0, 1],
        ["a", None],
        [["a"], ["b"]],
        5,
        {"a", "b"},
    ],
    "confidence": [0, 1, 2, 0.49, -0.1, 1.5, NAN, "0.95", True],
    "target_sparsity": [0, 1, 0.0, 1.0, -0.1, 99, NAN, INF, "0.9", None, True],
    "fraction": [0, 1, -0.2, 20, NAN, "0.2", None],
    "criterion": ["size", "", None, 3, ["magnitude"]],
    "scope": ["layers", "", None, ["global"]],
    "granularity": ["x", "filter", "", None, 24, ["weight"]],
    "threshold": [NAN, INF, -INF, "0", None, True],
    "rewind": ["epoch", "epoch:", "epoch:-1", "epoch:1.5", "step:x", "init:0", "lr ", "", None, 3, "none:2"],
    "on_refusal": ["continue", "", None, ["stop"]],
    "retries": [-1, 1.0, "1", None, True],
    "max_rounds": [0, -1, 2.0, "3", True],
    "search": ["adaptative", "", None, 0.2, ["fixed"], Fixed, {"fraction": 0.2}],
    "round_epochs": [0, -1, 2.0, "3", True],
    "max_total_epochs": [0, -1, 2.0, "3", True],
    "baseline": ["dense", "", None],
    "max_fp_rise": [-0.1, 1.5, NAN, "0.1", True, {}, {1: 2}, {0: 0.1}, {"sick": 0.1}],
    "offset": ["guard", "", None, True],
    "judging": ["once", "", None],
    "cluster": ["all", "", None, 1],
    "corruptions": [
        {},
        ["fog"],
        "fog",
        {"haze": 0.1},
        {3: 0.1},
        {"fog": 1.5},
        {"fog": "0.1"},
        {"fog": []},
        {"fog": [0.1, 2.0]},
        {"fog": [0.1, 0.1, 0.1]},
        {"fog": FNTolerance(factor=1.2)},
        {"fog": 0.1, fog: 0.2},
    ],
    "normalization": [
        0.5,
        ([0.5],),
        ([0.5], [0.0]),
        ([0.5], [0.1, 0.2]),
        ([], []),
        "ab",
        ([float("nan")], [0.1]),
    ],
    "task": ["segmentation", "", Segmentation, 3, {"rule": "iou"}],
    "epoch": ["first", "", None],
    "guard": [None, "train", 0.95, {"confidence": 0.95}, Guard, Cut()],
    "cut": ["global", Cut, Guard()],
    "files": [None, "tickets", Files],
    "ladder": ["", 3, b"tickets", True],
    "rewind_file": ["", 3, ["point.pt"]],
    "judged": ["int8", ["int4"], ["int8", "int8"], None],
    "nested": [1, "yes", None, True],  # the last without a ladder
    "predict": ["model", 3, (1, 2)],
    "guard_dataloader": [3, 0.5, "guard.npz", object()],
    "protect": [
        {},
        None,
        [1],
        0.05,
        {2: 0.05},
        {-1: 0.05},
        {"2": 0.05},
        {"-1": 0.05},
        {"malignant": 0.05},
        {True: 0.05},
        {1.0: 0.05},
        {None: 0.05},
        {1: -0.1},
        {1: 5},
        {1: NAN},
        {1: "0.05"},
        {1: None},
        {1: 0.05, "1": 0.05},
    ],
}


def test_every_argument_has_bad_values_here() -> None:
    """All but `prunable`, whose patterns mean something for a network only."""
    arguments = ClassAwarePruningCallback.__init__.__annotations__.keys() - {"unknown", "return"}
    assert BAD.keys() == arguments.union(*map(known, OPTIONS)) - {"prunable"}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_with_the_arguments_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(dotted(name))}(=|:|\[)"):
        read(**{name: value})


@pytest.mark.parametrize("name", SEARCHED)
def test_an_adaptive_search_names_itself(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(ValueError, match=rf"^Adaptive\.{name}="):
            Adaptive(**{name: value})


@pytest.mark.parametrize("name", SEARCHED)
def test_a_gradual_search_names_itself(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(ValueError, match=rf"^Gradual\.{name}="):
            Gradual(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("share", [0, 1, 60, -0.1, NAN, "0.6", None, True]),
        (
            "densities",
            [(), [], "0.1", 0.1, None, {0.1}, (0.1, 0.1), (0.03, 0.1), (1, 0.1), (0.1, 0), ("0.1",)],
        ),
    ],
)
def test_bad_values_of_a_gradual_search(name: str, values: list[Any]) -> None:
    assert known(Gradual) == {"share", "densities", *SEARCHED}
    for value in values:
        with pytest.raises(ValueError, match=rf"^Gradual\.{name}="):
            Gradual(**{name: value})


@pytest.mark.parametrize(
    ("densities", "sparsity", "pruned"),
    [
        (None, 0.99, [900, 970, 990]),
        (None, 0.97, [900, 970]),
        (None, 0.95, [900, 950]),
        (None, 0.5, [500]),
        (None, 0.995, [900, 970, 990, 995]),
        ([0.1, 0.03], 0.99, [900, 970]),  # where one's own list ends, the run does
        ([0.1, 0.03], 0.95, [900, 950]),
        ([0.0015], 0.999, [999]),  # 1.5 of 1000 units: as in a target, at least as sparse
    ],
)
def test_the_candidates_of_a_gradual_search(densities: Any, sparsity: float, pruned: list[int]) -> None:
    search = Gradual() if densities is None else Gradual(densities=densities)
    settings = read(search=search, target_sparsity=sparsity)
    target = settings.target(1000)
    assert list(ListedSteps.to(search.densities, 1000, target).pruned) == pruned
    assert target == pruned[-1]


def test_a_gradual_search_has_its_own_criterion_unless_a_cut_is_given() -> None:
    for search in ("gradual", Gradual(share=0.5)):
        assert plain_pruner(search=search).settings.cut == Cut(criterion=GRADUAL_CRITERION)
        assert plain_pruner(search=search, cut=Cut()).settings.cut == Cut()
    assert plain_pruner(search="adaptive").settings.cut == Cut()
    assert plain_pruner(search="gradual", guard=Guard(judging="end")).settings.search == Gradual()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 1}, "Fixed.retries=1 does not go with on_refusal='stop'"),
        ({"on_refusal": "retry"}, "Fixed.retries=0 does not go with on_refusal='retry'"),
        ({"search": "adaptive", "retries": 0}, "Adaptive.retries=0 does not go with on_refusal='retry'"),
        ({"rewind": "epoch:1", "round_epochs": 2}, "Fixed.round_epochs=2 does not go with rewind='epoch:1'"),
        ({"search": "adaptive", "rewind": "none", "round_epochs": 2}, "Adaptive.round_epochs=2 .*rewind='none'"),
        ({"baseline": "current"}, "Guard.baseline='current' .*rewind='init'.*use rewind='lr' or rewind='none'"),
        ({"baseline": "current", "rewind": "epoch:2"}, "Guard.baseline='current'.*rewind='epoch:2'"),
        (
            {"baseline": "current", "search": "adaptive", "rewind": "step:2"},
            "Guard.baseline='current'.*rewind='step:2' has no earlier point",
        ),
        (
            {"baseline": "current", "rewind": "lr", "criterion": "lamp_gradient"},
            "Guard.baseline='current' trains nothing before the first cut.*Cut.criterion='lamp_gradient'.*use "
            "criterion='class_lamp_gradient'",
        ),
        ({"protect": {1: FNTolerance(factor=1.5)}}, r"protect\[1\]: .*factor needs confidence=None"),
        (
            {"protect": {"sick": 3}, "class_names": ["well", "sick"]},
            r"protect\['sick'\]: FNTolerance: rate must be a number in \[0, 1\]",
        ),
        (
            {"protect": {"ill": 0.1}, "class_names": ["well", "sick"]},
            "unknown class 'ill'; allowed are 0 to 1 or 'well', 'sick'",
        ),
        ({"protect": {"ill": 0.1}}, "allowed are 0 to 1, or names with class_names="),
        ({"protect": {"sick": 0.1, 1: 0.1}, "class_names": ["well", "sick"]}, "class 'sick' is given twice"),
        (
            {"nested": True, "ladder": "tickets"},
            r"Files.nested=True: networks that share their weights .*use Guard\(judging='end'\)",
        ),
        ({"judged": ["int8"]}, r"Files.judged=\['int8'\]: files are candidates .*use Guard\(judging='end'\)"),
        (
            {"judged": ["fp16"], "judging": "end", "task": Segmentation()},
            r"Files.judged=\['fp16'\] with task=Segmentation\(...\): files are judged of classes and labels only",
        ),
        ({"granularity": "2:4"}, "Cut.granularity='2:4' .*target_sparsity=0.99 with Fixed.fraction=0.2"),
        ({"granularity": "2:4", "target_sparsity": 0.5}, "Fixed.fraction=0.2 cannot be met; use .*=0.5"),
        ({"granularity": "2:4", "fraction": 0.5}, "target_sparsity=0.99 with Fixed.fraction=0.5"),
        ({"granularity": "2:4", "search": "gradual"}, r"shrink little by little; use search=Fixed\(fraction=0.5\)"),
        ({"search": "gradual", "rewind": "none", "round_epochs": 2}, "Gradual.round_epochs=2 .*rewind='none'"),
        ({"granularity": "2:4", "search": "adaptive"}, r"one step, so search='adaptive'.*Fixed\(fraction=0.5\)"),
        (
            {"granularity": "2:4", "target_sparsity": 0.5, "fraction": 0.5, "on_refusal": "retry", "retries": 1},
            "Cut.granularity='2:4' has no smaller step .*retries=1",
        ),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**options)


@pytest.mark.parametrize("rewind", ["lr", "none"])
def test_arguments_that_go_together(rewind: str) -> None:
    assert read(on_refusal="retry", retries=2).search.retries == 2
    assert read(baseline="current", rewind=rewind).guard.baseline == "current"
    assert read(granularity="2:4", target_sparsity=0.5, fraction=0.5).cut.granularity == "2:4"
    factor = FNTolerance(factor=1.5)
    assert read(confidence=None, protect={1: factor}).tolerances == {"1": factor}


# -- names, places, order --


MOVED = {
    "confidence": 0.9,
    "baseline": "current",
    "criterion": "random",
    "scope": "layer",
    "granularity": "channel",
    "prunable": "net.*",
    "prune_fraction": 0.3,
    "schedule": "adaptive",
    "rewind": "lr",
    "on_refusal": "retry",
    "retries": 1,
    "max_rounds": 3,
    "round_epochs": 2,
    "max_total_epochs": 9,
    "ladder": "tickets",
    "rewind_file": "point.pt",
}


@pytest.mark.parametrize("name", MOVED)
def test_an_argument_that_moved_says_where_it_is(name: str) -> None:
    with pytest.raises(TypeError, match=rf"has no argument {name}={MOVED[name]!r}; it is .* now") as raised:
        ClassAwarePruningCallback(2, {1: 0.05}, **{name: MOVED[name]})
    places = re.findall(r"(\w+)=(\w+)\((\w+)=\.\.\.\)", str(raised.value))
    for argument, kind, field in places:
        given = {argument: {one.__name__: one for one in OPTIONS}[kind]}
        assert field in known(given[argument])
        assert argument in ClassAwarePruningCallback.__init__.__annotations__
    assert places or name == "schedule"


def test_an_argument_that_never_was_is_refused() -> None:
    with pytest.raises(TypeError, match=r"has no argument sparsity=0\.9; see its documentation"):
        ClassAwarePruningCallback(2, {1: 0.05}, sparsity=0.9)


def test_only_the_classes_go_by_their_place() -> None:
    with pytest.raises(TypeError, match="positional"):
        ClassAwarePruningCallback(2, {1: 0.05}, ["a", "b"])  # type: ignore[misc]
    for kind in OPTIONS:
        with pytest.raises(TypeError, match="positional"):
            kind(0.5)


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_do_not_change(kind: Any) -> None:
    for name in known(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(kind(), name, None)


@pytest.mark.parametrize(("name", "search"), [("fixed", Fixed()), ("adaptive", Adaptive())])
def test_a_search_may_be_named(name: str, search: Any) -> None:
    assert read(search=name) == read(search=search)
    assert read(search=name).search == search
    assert read(search=name).state_dict() == read(search=search).state_dict()


# -- good values --


def test_every_form_of_a_protected_class() -> None:
    forms: list[tuple[dict[Any, Any], dict[int, FNTolerance]]] = [
        ({0: 0}, {0: FNTolerance(rate=0.0)}),
        ({1: 1}, {1: FNTolerance(rate=1.0)}),
        ({"1": 0.05}, {1: FNTolerance(rate=0.05)}),
        ({"sick": 0.05}, {1: FNTolerance(rate=0.05)}),
        ({np.int64(1): np.float32(0.5)}, {1: FNTolerance(rate=0.5)}),
        ({1: FNTolerance(count=2)}, {1: FNTolerance(count=2)}),
        ({1: FNTolerance(rate=0.1, recall_floor=0.8)}, {1: FNTolerance(rate=0.1, recall_floor=0.8)}),
        ({"sick": 0.1, 0: 0.2}, {1: FNTolerance(rate=0.1), 0: FNTolerance(rate=0.2)}),
    ]
    names = ["well", "sick"]
    for protect, expected in forms:
        protected = read(protect=protect, class_names=names).protected
        assert [(one.index, one.tolerance) for one in protected] == list(expected.items())
        assert all(type(one.index) is int and one.name == names[one.index] for one in protected)


def test_a_name_as_text_goes_before_an_index_that_reads_the_same() -> None:
    assert read(class_names=["1", "0"], protect={"1": 0.05}).protected[0].index == 0


def test_a_number_that_is_an_index_and_another_class_name_is_refused() -> None:
    for names in (["1", "0"], ["1", "2"]):
        with pytest.raises(
            ValueError, match=rf"protect: 1 is the index of class '{names[1]}' and the name of"
        ):
            read(class_names=names, protect={1: 0.05})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_classes", np.int64(7), 7),
        ("class_names", ("a", "b"), ("a", "b")),
        ("confidence", None, None),
        ("confidence", 0.5, 0.5),
        ("confidence", np.float64(0.9), 0.9),
        ("confidence", Fraction(9, 10), 0.9),
        ("target_sparsity", 1e-9, 1e-9),
        ("target_sparsity", np.float64(0.5), 0.5),
        ("fraction", 0.999, 0.999),
        ("scope", "layer", "layer"),
        ("threshold", -2, -2.0),
        ("max_rounds", 1, 1),
        ("max_rounds", np.int32(4), 4),
        ("ladder", Path("tickets"), "tickets"),
        ("rewind_file", Path("a") / "point.pt", str(Path("a") / "point.pt")),
    ],
)
def test_good_values_become_plain_ones(name: str, value: Any, expected: Any) -> None:
    settings = read(**{name: value})
    parts = (settings, settings.search, settings.guard, settings.cut, settings.files)
    found = next(getattr(part, name) for part in parts if hasattr(part, name))
    assert found == expected
    assert type(found) is type(expected)


def test_words_become_what_they_stand_for() -> None:
    assert read(criterion="random").criterion.given is random
    assert read(rewind="epoch:3").search.point == Rewind("epoch", 3)
    assert read(rewind="step:0").search.point == Rewind("step", 0)
    assert read(search="adaptive").search.point == Rewind("lr")
    assert read(rewind="none").search.point == Rewind("none")


@pytest.mark.parametrize("data", [[], lambda: [], torch.utils.data.DataLoader([1, 2]), {"a": [1]}])
def test_guard_data_may_be_anything_that_can_be_read_or_asked(data: Any) -> None:
    assert read(guard_dataloader=data).guard_dataloader is data


def test_the_length_of_a_round() -> None:
    """None is the length of round 0 for one search; half of it, rounded up, for the other, where it has a length."""
    assert [Fixed(round_epochs=n).length(7, -1) for n in (None, 3)] == [None, (3, -1)]
    assert [Adaptive(round_epochs=n).length(7, 50) for n in (None, 3)] == [(4, 50), (3, 50)]
    assert [Adaptive().length(n, -1) for n in (1, 2, 8, -1)] == [(1, -1), (1, -1), (4, -1), None]
    assert [Gradual().length(n, -1) for n in (1, 8)] == [(2, -1), (16, -1)]
    assert [Gradual().length(-1, 50), Gradual().length(2, 50)] == [(-1, 100), (4, 100)]
    assert Gradual(round_epochs=3).length(7, 50) == (3, 50)
    for search in (Adaptive, Gradual):
        assert [search(rewind=rewind).length(8, -1) for rewind in ("none", "epoch:2")] == [None, None]


def test_the_error_level_is_exact_in_decimals() -> None:
    levels = [Guard(confidence=c).alpha for c in (None, 0.5, 0.9, 0.95, 0.99, 0.999)]
    assert levels == [None, 0.5, 0.1, 0.05, 0.01, 0.001]


@pytest.mark.parametrize(
    ("sparsity", "total", "pruned"),
    [(0.5, 10, 5), (0.5, 11, 6), (0.9, 10, 9), (0.29, 100, 29), (0.07, 100, 7), (0.99, 1, 1), (1e-9, 5, 1)],
)
def test_the_target_in_weights_by_hand(sparsity: float, total: int, pruned: int) -> None:
    """.29 * 100 is 28.999999999999996 in floats and .07 * 100 is 7.000000000000001: neither may count."""
    assert read(target_sparsity=sparsity).target(total) == pruned


@given(st.integers(1, 9999), st.integers(1, 10**9))
def test_the_target_is_the_smallest_share_that_is_enough(parts: int, total: int) -> None:
    pruned = read(target_sparsity=parts / 10_000).target(total)
    wanted = Fraction(parts, 10_000)
    assert Fraction(pruned, total) >= wanted > Fraction(pruned - 1, total)


# -- the saved form --


def loaded(state: Any) -> Any:
    """As a checkpoint that is loaded safely brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_state_is_made_of_what_a_safe_load_takes() -> None:
    settings = read(
        num_classes=np.int64(2),
        protect={np.int64(1): FNTolerance(count=np.int64(3), recall_floor=np.float64(0.8))},
        class_names=["well", "sick"],
        confidence=np.float64(0.9),
        max_fp_rise=np.float32(0.25),
        target_sparsity=np.float64(0.5),
        fraction=np.float32(0.25),
        threshold=np.float32(0.5),
        rewind="step:7",
        on_refusal="retry",
        retries=np.int64(2),
        max_rounds=np.int64(9),
        criterion="magnitude_increase",
        prunable=("net.*", "!net.3.*"),
        ladder="tickets",
    )
    assert loaded(settings.state_dict()) == {
        "num_classes": 2,
        "class_names": ["well", "sick"],
        "protect": [
            {
                "index": 1,
                "name": "sick",
                "tolerance": {"rate": None, "count": 3, "factor": None, "recall_floor": 0.8},
                "max_fp_rise": 0.25,
            }
        ],
        "target_sparsity": 0.5,
        "threshold": 0.5,
        "predict": {"function": "lightning_classprune.trainer.forward.default_predict"},
        "search": "Fixed",
        "Fixed.fraction": 0.25,
        "Fixed.rewind": "step:7",
        "Fixed.round_epochs": None,
        "Fixed.on_refusal": "retry",
        "Fixed.retries": 2,
        "Fixed.max_rounds": 9,
        "Fixed.max_total_epochs": None,
        "Guard.confidence": 0.9,
        "Guard.baseline": "train",
        "Guard.judging": "round",
        "Guard.epoch": "last",
        "Guard.max_fp_rise": 0.25,
        "Guard.offset": "none",
        "Guard.cluster": "one",
        "Guard.corruptions": None,
        "Guard.normalization": None,
        "Cut.criterion": {"function": "lightning_classprune.pruning.criteria.magnitude_increase"},
        "Cut.scope": "global",
        "Cut.granularity": "weight",
        "Cut.prunable": ["net.*", "!net.3.*"],
    }


@pytest.mark.parametrize("search", ["fixed", "adaptive", "gradual"])
def test_every_option_is_in_the_saved_form_but_where_files_are(search: str) -> None:
    settings = read(search=search)
    parts = (settings.search, settings.guard, settings.cut)
    named = {f"{type(part).__name__}.{field.name}" for part in parts for field in fields(part)}
    assert {key for key in settings.state_dict() if "." in key} == named


def test_a_new_option_is_saved_without_anybodys_doing() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Stricter(Guard):
        """A guard with one argument more."""

        patience: int = 3

    assert read(guard=Stricter()).state_dict()["Stricter.patience"] == 3
    assert read(guard=Stricter(patience=4)).state_dict() != read(guard=Stricter()).state_dict()


CHANGES: dict[str, Any] = {
    "num_classes": 3,
    "protect": {1: 0.06},
    "class_names": ["a", "b"],
    "confidence": 0.9,
    "target_sparsity": 0.9,
    "fraction": 0.3,
    "criterion": "random",
    "scope": "layer",
    "granularity": "channel",
    "prunable": "net.*",
    "threshold": 0.5,
    "predict": lambda module, batch: (module(batch[0]), batch[1]),
    "rewind": "epoch:1",
    "max_rounds": 3,
    "search": "adaptive",
    "round_epochs": 2,
    "max_total_epochs": 20,
}


@pytest.mark.parametrize("name", CHANGES)
def test_two_runs_with_other_settings_have_other_states(name: str) -> None:
    assert read(**{name: CHANGES[name]}).state_dict() != read().state_dict()


def test_two_runs_with_files_and_data_elsewhere_have_the_same_state() -> None:
    elsewhere = read(ladder="there", rewind_file="there.pt", guard_dataloader=[1])
    assert elsewhere.state_dict() == read().state_dict()
    nested = read(judging="end", ladder="tickets", nested=True).state_dict()
    assert nested == read(judging="end").state_dict() | {"Files.nested": True}
    declared = read(judging="end", judged=["int8"]).state_dict()
    assert declared == read(judging="end").state_dict() | {"Files.judged": ["int8"]}


def test_what_was_saved_does_not_change_with_a_users_object() -> None:
    """A criterion may count, learn and remember while it is used; it was told before."""

    class Counting:
        calls = 0

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, weight: torch.Tensor, rewind_point: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return weight

    counting = Counting()
    settings = read(criterion=counting, predict=counting)
    before = copy.deepcopy(settings.state_dict())
    counting(torch.ones(1), torch.ones(1))
    assert settings.state_dict() == before
    assert read(criterion=counting).state_dict() != before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_has_the_same_settings(copied: Any) -> None:
    made = plain_pruner(search="adaptive", criterion="random", confidence=None, ladder="tickets")
    again = copied(made)
    assert again is not made
    assert again.settings == made.settings
    assert again.settings.state_dict() == made.settings.state_dict()
    assert (again.ledger, again.masks, again.sparsity) == ([], {}, 0.0)
