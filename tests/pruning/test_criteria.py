"""Criteria by hand, and what a run makes of each of their forms."""

import copy
import functools
import pickle

import pytest
import torch
from scipy.stats import chisquare

from lightning_classprune.pruning.criteria import (
    CRITERIA,
    Criterion,
    ListeningCriterion,
    PreparedCriterion,
    check_criterion_argument,
    magnitude,
    magnitude_increase,
    random,
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
    criterion = Criterion.of(name)
    scores = criterion.score("w", weight, weight * 0.5)
    assert scores.shape == weight.shape
    assert scores.is_floating_point()
    assert not scores.isnan().any()
    assert torch.equal(scores, criterion.score("w", weight, weight * 0.5))
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
    plain = {
        "magnitude": magnitude,
        "magnitude_increase": magnitude_increase,
        "random": random,
        "lamp": magnitude,
    }
    assert {name: Criterion.of(name).given for name in plain} == plain
    assert [name for name in CRITERIA if Criterion.of(name).by_layer] == [
        "lamp",
        "lamp_gradient",
        "class_lamp_gradient",
    ]

    def own(weight, rewind_point):
        return weight

    assert Criterion.of(own).given is own
    assert not Criterion.of(own).by_layer


def test_one_with_a_state_is_made_anew_for_every_run():
    for name in ("gradient", "lamp_gradient"):
        one, other = Criterion.of(name), Criterion.of(name)
        one.observe({"w": torch.ones(2)})
        assert one.state_dict()["steps"] == {"w": 1}
        assert other.state_dict() == {"means": {}, "steps": {}}
        for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            copied.observe({"w": torch.ones(2)})
            assert (copied.state_dict()["steps"], one.state_dict()["steps"]) == ({"w": 2}, {"w": 1})


def test_which_ones_look_listen_and_compare():
    def those(which):
        return [name for name in CRITERIA if getattr(Criterion.of(name), which)]

    gradients = ["gradient", "lamp_gradient"]
    assert those("listens") == gradients
    assert those("looks_first") == [*gradients, "class_gradient", "class_lamp_gradient"]
    assert those("compares") == ["magnitude_increase", "random"]


@pytest.mark.parametrize("bad", ["magnitud", "", 3, None, ["magnitude"]])
def test_what_is_no_criterion_is_named_with_the_allowed(bad):
    allowed = (
        r"Cut\.criterion=.* is unknown; allowed are 'magnitude', 'magnitude_increase', 'random', 'lamp', "
        r"'gradient', 'lamp_gradient', 'class_gradient', 'class_lamp_gradient', a callable "
        r"\(weight, rewind_point\) -> scores, or an object with prepare\(scoring\) and score\(name, weight, "
    )
    for read in (check_criterion_argument, Criterion.of):
        with pytest.raises(ValueError, match=allowed):
            read(bad)


# -- the three forms in one --


class Plain:
    """Looks first, and has no state that it could tell of."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def prepare(self, scoring):
        self.scoring = scoring

    def score(self, name, weight, rewind_point):
        return weight * self.scale


class Counting(Plain):
    """Counts how often it looked."""

    def __init__(self, looked=0):
        super().__init__()
        self.seen = {"looked": torch.tensor(looked)}

    def prepare(self, scoring):
        self.seen["looked"] += 1

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = state


W, START = torch.tensor([-3.0, 1.0]), torch.tensor([1.0, 4.0])


def test_a_function_is_asked_for_its_scores_and_has_no_state():
    criterion = Criterion.of("magnitude_increase")
    assert not criterion.looks_first
    assert criterion.compares
    assert not Criterion.of("magnitude").compares
    criterion.prepare(None)
    criterion.restart()
    criterion.load_state_dict(None)
    assert criterion.state_dict() is None
    assert criterion.score("w", W, START).tolist() == [2.0, -3.0]


def test_a_criterion_that_looks_first_is_prepared_and_told_the_name():
    class Named(Plain):
        def score(self, name, weight, rewind_point):
            return weight + len(name) - rewind_point

    assert isinstance(Named(), PreparedCriterion)
    criterion = Criterion.of(given := Named())
    assert criterion.looks_first
    assert criterion.compares
    criterion.prepare("what there is to see")
    assert given.scoring == "what there is to see"
    assert criterion.score("abc", W, START).tolist() == [-1.0, 0.0]
    assert criterion.state_dict() is None


@pytest.mark.parametrize("lacking", ["prepare", "score"])
def test_half_of_a_prepared_criterion_is_none(lacking):
    half = type("Half", (), {n: getattr(Plain, n) for n in ("prepare", "score") if n != lacking})()
    assert not isinstance(half, PreparedCriterion)
    with pytest.raises(ValueError, match="an object with prepare"):
        Criterion.of(half)


class Listening(Plain):
    """Counts what it hears."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def observe(self, gradients):
        self.heard += gradients

    def state_dict(self):
        return {"heard": self.heard}

    def load_state_dict(self, state):
        self.heard = state["heard"]


def test_a_users_own_may_listen():
    criterion = Criterion.of(given := Listening())
    assert isinstance(given, ListeningCriterion)
    assert criterion.listens
    assert criterion.memory is None
    criterion.observe({"a": W})
    assert criterion.state_dict() == {"heard": ["a"]}
    criterion.restart()
    assert given.heard == []
    Criterion.of("magnitude").observe({"a": W})
    Criterion.of(Plain()).observe({"a": W})


@pytest.mark.parametrize("lacking", ["prepare", "score", "state_dict", "load_state_dict"])
def test_one_that_listens_needs_a_state_that_goes_back(lacking):
    methods = ("prepare", "score", "observe", "state_dict", "load_state_dict")
    half = type("Half", (), {name: getattr(Listening, name) for name in methods if name != lacking})()
    with pytest.raises(
        ValueError, match=r"listens to gradients .* so it also needs prepare.*load_state_dict"
    ):
        Criterion.of(half)


def test_a_run_begins_with_the_state_that_was_given():
    given = Counting(3)
    criterion = Criterion.of(given)
    criterion.prepare(None)
    criterion.prepare(None)
    saved = criterion.state_dict()
    assert saved == {"looked": 5}
    criterion.restart()
    assert given.seen == {"looked": 3}
    criterion.prepare(None)
    assert (criterion.initial, saved) == ({"looked": 3}, {"looked": 5}), (
        "copies, which later looks leave alone"
    )
    criterion.load_state_dict(saved)
    criterion.prepare(None)
    assert (given.seen, saved) == ({"looked": 6}, {"looked": 5})


def test_identity_tells_apart_what_a_name_does_not():
    def scaled(by):
        return lambda weight, rewind_point: weight * by

    def told(criterion):
        return Criterion.of(criterion).identity

    assert told(scaled(2.0)) == told(scaled(2.0))
    assert told(scaled(2.0)) != told(scaled(-2.0))
    assert told(lambda w, _: w) != told(lambda w, _: -w)
    assert told(functools.partial(torch.mul, 2)) != told(functools.partial(torch.mul, -2))
    assert told(Plain(2.0)) == told(Plain(2.0)) != told(Plain(-2.0))
    assert told(Counting(1)) == told(Counting(1)) != told(Counting(2))
    assert told("magnitude") == told(magnitude) != told("random")
    assert len({repr(told(name)) for name in CRITERIA}) == len(CRITERIA)
    assert [told(name) for name in CRITERIA] == [told(name) for name in CRITERIA]


def test_identity_is_told_in_the_state_that_was_given():
    given = Counting(1)
    criterion = Criterion.of(given)
    criterion.prepare(None)
    assert criterion.identity == Criterion.of(Counting(1)).identity
    assert Criterion.of(given).identity == Criterion.of(Counting(2)).identity


def test_a_function_may_speak_of_what_is_assigned_later():
    def score(weight, rewind_point):
        return weight * later

    criterion = Criterion.of(score)
    later = 3.0
    assert criterion.score("w", W, START).tolist() == [-9.0, 3.0]
