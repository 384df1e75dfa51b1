"""Cutting one network: what is found in it, which masks follow from scores, and how they are put in and held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.pruning import moments
from lightning_classprune.pruning.criteria import Criterion
from lightning_classprune.pruning.cutter import (
    Cutter,
    by_parameter,
    check_criterion,
    find_parameters,
    find_sharding,
    starting_masks,
)
from lightning_classprune.pruning.options import Cut
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import capture_tensors
from tests.support.compare import assert_same, weights
from tests.support.kit import trainer

ONE = Processes()
WHOLE = Sharding(ONE)


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].weight.data = torch.tensor([[1.0, -4.0], [0.5, 3.0]])
    net[1].weight.data = torch.tensor([[-2.0, 6.0]])
    return net


def cutter(net: nn.Module, criterion: Any = "magnitude", **options: Any) -> Cutter:
    cut = Cut(criterion=criterion, **options)
    return Cutter.find(cut, Criterion.of(criterion), trainer(), net, ONE, frozen=False)


def full(made: Cutter) -> dict[str, Tensor]:
    return starting_masks(made.units.parameters, {}, WHOLE, ONE)


# --- what can be cut ---


def test_what_is_found_in_a_network() -> None:
    net = network()
    made = cutter(net)
    assert list(made.units.parameters) == ["0.weight", "1.weight"]
    assert made.units.parameters["0.weight"] is net[0].weight
    assert (made.units.total, made.sparsity(full(made))) == (6, 0.0)
    assert not made.sharding


def test_frozen_parameters_count_where_a_callback_will_unfreeze_them() -> None:
    net = network()
    net[0].requires_grad_(False)
    assert list(find_parameters(net, None, frozen=False)) == ["1.weight"]
    assert list(find_parameters(net, None, frozen=True)) == ["0.weight", "1.weight"]


def test_what_cannot_be_found_is_a_fault_of_the_users() -> None:
    with pytest.raises(MisconfigurationException, match="prunable"):
        find_parameters(network(), "no.such.layer", frozen=False)
    assert find_sharding(trainer(), network(), ONE) == WHOLE


# --- where a run begins ---


def test_masks_of_a_fit_before_hold_where_the_network_is_still_that_ticket() -> None:
    net = network()
    parameters = {"0.weight": net[0].weight, "1.weight": net[1].weight}
    kept = {"0.weight": torch.tensor([[True, True], [False, True]]), "1.weight": torch.tensor([[True, True]])}
    ones = {name: torch.ones_like(mask) for name, mask in kept.items()}
    assert_same(starting_masks(parameters, kept, WHOLE, ONE), ones)  # .5 lives where the mask says zero
    net[0].weight.data[1, 0] = 0
    assert_same(starting_masks(parameters, kept, WHOLE, ONE), kept)
    assert_same(starting_masks(parameters, {"0.weight": kept["0.weight"]}, WHOLE, ONE), ones)
    assert_same(starting_masks(parameters, kept | {"1.weight": torch.ones(2, 1).bool()}, WHOLE, ONE), ones)


# --- cutting ---


def test_the_smallest_weights_leave() -> None:
    net = network()
    made = cutter(net)
    masks = made.shrink(full(made), 3, None)
    assert masks["0.weight"].tolist() == [[False, True], [False, True]]
    assert masks["1.weight"].tolist() == [[False, True]]
    assert made.sparsity(masks) == 0.5
    before = weights(net)
    made.apply(masks)
    assert net[0].weight.tolist() == [[0, -4], [0, 3]]
    assert net[1].weight.tolist() == [[0, 6]]
    assert_same(net[0].bias.detach(), before["0.bias"])


def test_scores_compare_with_the_origin_or_with_the_weights_themselves() -> None:
    made = cutter(network(), "magnitude_increase")
    origin = {"0.weight": torch.tensor([[0.0, -4.0], [0.0, 1.0]]), "1.weight": torch.tensor([[-9.0, 0.0]])}
    # |w| - |origin|: 1, 0, .5, 2; -7, 6
    masks = made.shrink(full(made), 3, origin)
    assert masks["0.weight"].tolist() == [[True, False], [False, True]]
    assert masks["1.weight"].tolist() == [[False, True]]
    equal = made.shrink(full(made), 2, None)  # all are zero, so the first ones leave
    assert equal["0.weight"].tolist() == [[False, False], [True, True]]


def test_who_does_not_compare_never_asks_for_the_origin() -> None:
    """It lies on the CPU, and would be copied to the weights' device tensor by tensor."""

    class Far(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            raise AssertionError(f"{name} was asked for")

    made = cutter(network(), "magnitude")
    assert_same(made.shrink(full(made), 3, Far()), made.shrink(full(made), 3, None))


def test_a_network_is_tried_on_cut_further_and_draws_nothing() -> None:
    net = network()

    def drawing(weight: Tensor, _: Tensor) -> Tensor:
        torch.rand(2)
        return weight.abs()

    made = cutter(net, drawing)
    tensors, state = capture_tensors(net), torch.get_rng_state()
    net[0].weight.data.fill_(99.0)
    made.try_on(tensors, full(made), 2, None)
    assert net[0].weight.tolist() == [[0, -4], [0, 3]]
    assert net[1].weight.tolist() == [[-2, 6]]
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_held_stays_zero_until_it_is_released() -> None:
    net = network()
    made, optimizer = cutter(net), torch.optim.SGD(net.parameters(), lr=1.0)
    masks = made.shrink(full(made), 3, None)
    made.apply(masks)

    def step() -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    made.hold(masks, [optimizer])
    step()
    assert net[0].weight.detach()[~masks["0.weight"]].tolist() == [0, 0]
    assert net[0].weight.detach()[masks["0.weight"]].tolist() != [-4, 3]
    made.release()
    step()
    assert net[0].weight.detach()[~masks["0.weight"]].any()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.NAdam])
def test_whoever_writes_to_weights_between_steps_leaves_no_pruned_one(kind: Any) -> None:
    """An average that is swapped in, weights that look ahead: of steps that are proved, and of those that are not."""
    net = network()
    made = cutter(net)
    masks = made.shrink(full(made), 3, None)
    made.apply(masks)
    made.hold(masks, [kind(net.parameters(), lr=0.1)])
    for _ in range(2):
        with torch.no_grad():
            net[0].weight.add_(1.0)
        before = net[0].weight.detach().clone()
        made.look()
        assert torch.equal(net[0].weight.detach(), before * masks["0.weight"])
    made.release()


def test_another_parameter_in_the_place_of_one_that_is_held_is_refused() -> None:
    net = network()
    made = cutter(net)
    masks = made.shrink(full(made), 3, None)
    made.hold(masks, [torch.optim.SGD(net.parameters(), lr=0.1)])
    made.look()
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    with pytest.raises(
        MisconfigurationException, match=r"`0\.weight` is another parameter than when the fit began"
    ):
        made.look()
    made.release()
    made.look()  # nothing is held


def test_masks_of_one_process_are_equal() -> None:
    made = cutter(network())
    made.require_equal(full(made))


# --- criteria ---


class Blind:
    """A criterion that looks first."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.given = error, list[Any]()

    def prepare(self, scoring: Any) -> None:
        self.given.append(scoring)
        if self.error is not None:
            raise self.error

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * (10 if name == "1.weight" else 1)


def test_a_criterion_is_shown_what_there_is_and_told_the_names() -> None:
    made = cutter(network(), blind := Blind())
    made.prepare("what there is to see")  # type: ignore[arg-type]
    assert blind.given == ["what there is to see"]
    assert made.shrink(full(made), 3, None)["1.weight"].all()
    with pytest.raises(KeyError, match="layer"):
        cutter(network(), Blind(KeyError("layer"))).prepare("anything")  # type: ignore[arg-type]


class Listening(Blind):
    """Knows the last gradient of every parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Tensor] = {}

    def observe(self, gradients: Any) -> None:
        self.last |= {name: gradient.clone() for name, gradient in gradients.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Any) -> None:
        self.last = state["last"]


def heard(made: Cutter, size: float) -> None:
    net = made.module
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, size)
    made.observe(trainer(), torch.optim.SGD(net.parameters(), lr=0.1))


def test_what_was_heard_belongs_to_the_network_that_was_trained() -> None:
    made = cutter(network(), given := Listening())

    def sizes() -> list[float]:
        return [float(gradient.max()) for gradient in given.last.values()]

    heard(made, 3.0)
    assert list(given.last) == ["0.weight", "1.weight"], "of what is pruned, in pieces"
    made.commit()
    assert sizes() == [], "nothing is left of a training that is over"
    made.go_back()
    assert sizes() == [3.0, 3.0], "when the network is cut"
    made.listen_anew()
    assert sizes() == []
    heard(made, 5.0)
    saved = made.state_dict()
    made.go_back()
    assert sizes() == [3.0, 3.0], "the candidate of the fives was refused"
    made.load_state_dict(saved)
    assert sizes() == [5.0, 5.0]
    made.go_back()
    assert sizes() == [3.0, 3.0]
    made.release()
    assert sizes() == []
    made.load_state_dict({"criterion": None, "criterion_accepted": None})
    assert sizes() == []


def test_a_criterion_that_does_not_listen_keeps_its_state_over_rounds() -> None:
    class Learning(Blind):
        def state_dict(self) -> dict[str, Any]:
            return {"looks": len(self.given)}

        def load_state_dict(self, state: Any) -> None:
            self.given = [None] * state["looks"]

    made = cutter(network(), given := Learning())
    made.prepare("once")  # type: ignore[arg-type]
    for step in (made.commit, made.go_back, made.listen_anew, made.release):
        step()
        assert made.state_dict() == {"criterion": {"looks": 1}, "criterion_accepted": None}
    heard(made, 1.0)
    assert len(given.given) == 1
    assert cutter(network()).state_dict() == {"criterion": None, "criterion_accepted": None}


def test_a_criterions_tensors_are_found_by_the_names_of_parameters() -> None:
    def doubled(tensors: Any) -> dict[str, Tensor]:
        return {name: 2 * tensor if name == "w" else tensor for name, tensor in tensors.items()}

    one = torch.ones(2)
    state = {"means": {"w": one, "v": one}, "w": one, "steps": {"w": 3}, "start": [one]}
    twice = {"means": {"w": 2 * one, "v": one}, "w": 2 * one, "steps": {"w": 3}, "start": [one]}
    assert_same(by_parameter(state, doubled), twice)
    assert by_parameter(None, doubled) is None


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_what_is_followed_where_it_is_kept_is_cut_as_if_everything_were(
    kind: Any, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also where a state is loaded in the middle: a run that is resumed."""

    def train(few: float, resumed: int | None = None) -> tuple[list[Any], Cutter]:
        monkeypatch.setattr(moments, "FEW", few)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 9), nn.Linear(9, 2))
        net[0].weight.data = net[0].weight.data.to(memory_format=torch.channels_last)
        made, optimizer = cutter(net, "lamp_gradient", scope=scope), kind(net.parameters(), lr=0.05)
        masks, found = full(made), []
        for step in range(24):
            optimizer.zero_grad()
            net(torch.randn(4, 3, 4, 4)).square().mean().backward()
            made.observe(SimpleNamespace(precision_plugin=None), optimizer)
            optimizer.step()
            if step == resumed:
                made.load_state_dict(made.state_dict())
            if step % 3 == 2:
                masks = made.shrink(masks, int(made.units.total * (1 - 0.6 ** (1 + step // 3))), None)
                made.tighten(masks, [optimizer])
                found.append(masks)
        return [found, weights(net)], made

    plain, dense = train(few=0)
    assert not dense.criterion.places
    for resumed in (None, 17):
        fast, made = train(few=1 / 4, resumed=resumed)
        assert_same(fast, plain)
        assert set(made.criterion.places) >= {"2.weight"}
        assert "0.weight" not in made.criterion.places, "flat indices are not where its weights lie"
        state = made.criterion.state_dict()
        reference = dense.criterion.state_dict()
        assert state is not None
        assert reference is not None
        assert state["steps"] == reference["steps"]
        for name, mask in plain[0][-1].items():
            assert state["means"][name].shape == mask.shape
            assert torch.equal(state["means"][name][mask], reference["means"][name][mask])


def test_what_was_followed_before_says_nothing_of_another_round() -> None:
    made, optimizer = cutter(net := network(), "lamp_gradient"), torch.optim.SGD(net.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        made.observe(SimpleNamespace(precision_plugin=None), optimizer)
        optimizer.step()

    step()
    made.tighten(made.shrink(full(made), 4, None), [optimizer])
    assert made.criterion.places, "one weight of four is few"
    accepted = made.criterion.state_dict()
    for state in (None, accepted):
        if state is None:
            made.listen_anew()
        else:
            made.criterion.load_state_dict(state)
        assert not made.criterion.places
    made.hold(full(made), [optimizer])
    step()
    assert not made.criterion.places
    heard = made.criterion.state_dict()["means"]["0.weight"][1]  # type: ignore[index]
    assert bool(heard.all()), "one of the two was held at zero before"


@pytest.mark.parametrize(
    "criterion",
    [
        lambda w, _: w * float("nan"),
        lambda w, _: w.flatten(),
        lambda w, _: w.sum(),
        lambda w, _: w.to(torch.complex64),
        lambda w, _: w.tolist(),
        lambda w, _: None,
    ],
)
def test_scores_that_make_no_sense_are_refused(criterion: Any) -> None:
    parameters = {"0.weight": network()[0].weight}
    with pytest.raises(
        MisconfigurationException,
        match=r"criterion must return real scores of the weight's shape without NaN; for `0\.weight` \(2, 2\) it",
    ):
        check_criterion(Criterion.of(criterion), parameters)


def test_whole_numbers_are_scores() -> None:
    check_criterion(Criterion.of(lambda w, _: w.long()), {"0.weight": network()[0].weight})
