"""Steps that are proved to keep zeros: as if every one of them were followed by a product with the masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_classprune.pruning import proof
from lightning_classprune.pruning.enforcement import Enforcement
from lightning_classprune.pruning.masks import apply_masks
from lightning_classprune.pruning.proof import EVERY, Marks, Proof, is_followed, keeps_zeros

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
NOISE = torch.Generator().manual_seed(2)


def make(seed: int = 0) -> tuple[nn.Sequential, dict[str, nn.Parameter], dict[str, Tensor]]:
    """A network, its prunable weights, and masks; the last layer is dense."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 2))
    parameters = {f"{i}.weight": net[i].weight for i in (0, 2, 4)}
    masks = {name: torch.rand(p.shape) < 0.4 for name, p in parameters.items()}
    masks["4.weight"] = torch.ones(2, 6, dtype=torch.bool)
    return net, parameters, masks


def slow(kind: type[Any]) -> type[Any]:
    """A class of one's own, of whose steps nothing is known."""
    return type("Own" + kind.__name__, (kind,), {})


KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "dampening": 0.2}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": False}),
    "maximize": (SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True, "foreach": True}),
    "sgd fused": (SGD, {"lr": 0.1, "momentum": 0.9, "fused": True, "weight_decay": 0.1}),
    "adam": (Adam, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True, "foreach": True}),
    "adam loop": (Adam, {"lr": torch.tensor(0.05), "foreach": False}),
    "adamw": (AdamW, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True, "fused": True}),
    "rmsprop": (RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "adagrad": (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}),
}


def leaks(parameters: dict[str, nn.Parameter], masks: dict[str, Tensor]) -> int:
    """Pruned weights that are not zero."""
    return sum(int((parameters[name].detach()[~mask] != 0).sum()) for name, mask in masks.items())


class Job:
    """A training whose first steps are dense, then held; what may happen to it are its methods."""

    def __init__(self, kind: type[Any], options: dict[str, Any]) -> None:
        self.net, self.parameters, self.masks = make()
        late = self.net[2].weight
        mine = [p for p in self.net.parameters() if p is not late]
        self.optimizer: Optimizer = kind(mine, **options)
        self.late: list[nn.Parameter] = [late]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # type: ignore[attr-defined]
        self.generator = torch.Generator().manual_seed(3)
        self.enforcement = Enforcement()
        for _ in range(2):
            self.step()
        self.dense = copy.deepcopy((self.net.state_dict(), self.optimizer.state_dict()))
        apply_masks(self.masks, self.parameters)
        self.enforcement.hold(self.masks, self.parameters, [self.optimizer])

    def backward(self, factor: float = 1.0) -> None:
        (self.net(X).square().mean() * factor).backward()

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator) * 0.1

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.net.parameters() if p.grad is not None]

    def trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()

    def closure(self) -> None:
        def closure() -> float:
            self.optimizer.zero_grad()
            self.backward()
            clip_grad_norm_(self.net.parameters(), 0.05)
            return 0.0

        self.optimizer.step(closure)  # type: ignore[arg-type]

    def accumulate(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        self.backward()
        self.backward()
        self.optimizer.step()

    def clip(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        clip_grad_value_(self.net.parameters(), 0.01)
        self.optimizer.step()

    def disturb(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        for gradient in self.gradients():
            gradient.add_(self.noise(gradient))
        self.optimizer.step()

    def hide(self) -> None:
        """Gradients are written to where no version counter tells."""
        self.optimizer.zero_grad()
        self.backward()
        for gradient in self.gradients():
            gradient.data.add_(1.0)
        self.optimizer.step()

    def replace(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        for parameter in self.net.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad + self.noise(parameter)
        self.optimizer.step()

    def write(self) -> None:
        with torch.no_grad():
            for parameter in self.trained():
                parameter.add_(self.noise(parameter))
        self.step()

    def load(self) -> None:
        state = copy.deepcopy(self.dense[1])
        state["param_groups"] = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(state)
        self.step()

    def load_weights(self) -> None:
        self.net.load_state_dict(self.dense[0])
        if self.late:  # nobody steps it
            apply_masks({"2.weight": self.masks["2.weight"]}, self.parameters)
        self.step()

    def remember(self) -> None:
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.ndim:
                    value.add_(self.noise(value).abs())
        self.step()

    def add_group(self) -> None:
        if self.late:
            self.optimizer.add_param_group({"params": self.late})
            self.late = []
        self.step()

    def scale(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.net(X).square().mean()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def skip(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.net(X).square().mean() * float("inf")).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def tighten(self) -> None:
        self.masks = {
            n: m & (torch.rand(m.shape, generator=self.generator) < 0.8) for n, m in self.masks.items()
        }
        self.enforcement.tighten(self.masks, self.parameters, [self.optimizer])
        self.step()

    def hold(self) -> None:
        self.enforcement.hold(self.masks, self.parameters, [self.optimizer])
        self.step()

    def look(self) -> None:
        self.enforcement.look()
        self.step()


EVENTS = [name for name, value in vars(Job).items() if callable(value) and not name.startswith("_")]
EVENTS = [name for name in EVENTS if name not in ("backward", "noise", "gradients", "trained", "hide")]


@settings(max_examples=25)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.sampled_from(EVENTS), min_size=1, max_size=6))
@example("nesterov", EVENTS)
@example("adamw", EVENTS)
@example("rmsprop", ["step", "load", "step", "remember", "step"])
@example("adagrad", ["step", "load", "step", "tighten", "step"])
def test_training_is_that_with_a_product_after_every_step(kind: str, events: list[str]) -> None:
    optimizer, options = KINDS[kind]
    ours, plain = Job(optimizer, options), Job(slow(optimizer), options)
    for event in events:
        getattr(ours, event)()
        getattr(plain, event)()
        assert leaks(ours.parameters, ours.masks) == leaks(plain.parameters, plain.masks) == 0
        for one, other in zip(ours.net.parameters(), plain.net.parameters(), strict=True):
            assert bool(((one == other) | (one.isnan() & other.isnan())).all())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_plain_steps_are_proved_and_nothing_is_written(kind: str) -> None:
    optimizer, options = KINDS[kind]
    job = Job(optimizer, options)
    (followed,) = job.enforcement._proofs
    for event in ("step", "accumulate", "add_group", "load", "write", "step", "look"):
        getattr(job, event)()
        assert not followed.lost
    apart = Job(slow(optimizer), options)
    assert apart.enforcement._proofs[0].lost


@pytest.mark.parametrize("event", ["closure", "clip", "disturb", "replace"])
def test_who_touches_a_gradient_ends_the_proof_until_weights_are_held_anew(event: str) -> None:
    job = Job(*KINDS["momentum"])
    job.tighten()  # all layers
    getattr(job, event)()
    assert job.enforcement._proofs[0].lost
    job.step()
    assert leaks(job.parameters, job.masks) == 0
    job.tighten()
    assert job.enforcement._proofs[0].lost, "in the middle of a round nobody has begun anew"
    assert leaks(job.parameters, job.masks) == 0
    job.hold()
    assert not job.enforcement._proofs[0].lost


def test_a_cut_carries_the_proof_on(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(*KINDS["momentum"])
    (before,) = job.enforcement._proofs
    job.tighten()
    (followed,), hooks = job.enforcement._proofs, list(job.enforcement._handles)
    assert followed is not before, "a layer that was dense is held now"
    looks: list[int] = []
    monkeypatch.setattr(job.enforcement, "look", lambda: looks.append(followed._steps))
    for _ in range(16):
        job.tighten()
        assert leaks(job.parameters, job.masks) == 0
    assert job.enforcement._proofs == [followed]
    assert job.enforcement._handles == hooks
    assert not followed.lost
    assert looks == [2, 4, 8, 16], "not after the first steps that follow each cut"


@pytest.mark.parametrize("place", ["weight", "state", "gradient"])
def test_who_writes_between_a_cut_and_the_next_step_revives_nothing(place: str) -> None:
    job = Job(*KINDS["momentum"])
    job.step()
    job.tighten()
    job.optimizer.zero_grad()
    job.backward()
    with torch.no_grad():
        for parameter in job.trained():
            written = {"weight": parameter, "gradient": parameter.grad}
            (written | {"state": job.optimizer.state[parameter].get("momentum_buffer")})[place].add_(1.0)  # type: ignore[union-attr]
    for _ in range(3):
        job.optimizer.step()
        assert leaks(job.parameters, job.masks) == 0


def test_what_hides_in_every_step_is_found_although_masks_shrink() -> None:
    job = Job(*KINDS["adam"])
    job.step()
    for _ in range(3):
        job.hide()
        job.enforcement.tighten(job.masks, job.parameters, [job.optimizer])
        assert leaks(job.parameters, job.masks) == 0
    assert job.enforcement._proofs[0].lost


def test_what_hides_in_every_step_is_found_after_the_first() -> None:
    job = Job(*KINDS["adam"])
    for _ in range(3):
        job.hide()
        assert leaks(job.parameters, job.masks) == 0


def test_what_hides_in_a_later_step_is_found_where_somebody_looks() -> None:
    job = Job(*KINDS["momentum"])
    for _ in range(2):
        job.step()
    job.hide()
    assert leaks(job.parameters, job.masks) > 0
    job.enforcement.look()
    for _ in range(3):  # and the momentum that it left moves nothing
        assert leaks(job.parameters, job.masks) == 0
        job.step()


def test_looks_are_after_the_first_steps_and_then_at_times() -> None:
    net, parameters, _ = make()
    optimizer = SGD(net.parameters(), lr=0.1)
    followed = Proof(optimizer, {id(p): name for name, p in parameters.items()}, Marks())
    due = []
    for step in range(1, 2 * EVERY + 1):
        assert followed.proves(optimizer)  # no gradient, which moves nothing
        due += [step] if followed.is_due else []
    assert due == [1, 2, 4, 8, 16, 32, 64, 128, EVERY, 2 * EVERY]


def test_what_keeps_zeros() -> None:
    net, _, _ = make()
    made = {name: kind(net.parameters(), **options) for name, (kind, options) in KINDS.items()}
    assert all(keeps_zeros(optimizer) for optimizer in made.values())
    assert not keeps_zeros(slow(SGD)(net.parameters(), lr=0.1))
    assert not keeps_zeros(torch.optim.Rprop(net.parameters()))
    made["adam"].param_groups[0]["eps"] = 0.0  # 0 / 0
    assert not keeps_zeros(made["adam"])
    foreign = [made["sgd"].register_step_post_hook(lambda *_: None) for _ in range(2)]
    assert not keeps_zeros(made["sgd"])
    for handle in foreign:
        handle.remove()
    assert keeps_zeros(made["sgd"])
    everywhere = register_optimizer_step_post_hook(lambda *_: None)
    assert not keeps_zeros(made["sgd"])
    everywhere.remove()


def test_what_may_be_reduced_by_others_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = SGD(make()[0].parameters(), lr=0.1)
    monkeypatch.setattr(proof.dist, "is_initialized", lambda: True)
    assert not keeps_zeros(optimizer)


def test_which_parameters_are_followed() -> None:
    assert is_followed(nn.Parameter(torch.ones(2)))
    assert not is_followed(nn.Parameter(torch.ones(2, dtype=torch.float16)))  # eps=1e-8 is 0 there
    assert not is_followed(nn.Parameter(torch.ones(2, device="meta")))
    assert not is_followed(type("Own", (nn.Parameter,), {})(torch.ones(2)))


def test_a_mark_is_of_a_gradient_and_of_what_is_in_it() -> None:
    marks, gradient = Marks(), torch.ones(3)
    assert marks.holds("w", None)
    assert not marks.holds("w", gradient)
    marks.set("w", gradient)
    assert marks.holds("w", gradient)
    assert not marks.holds("w", gradient.clone())
    gradient.mul_(2)
    assert not marks.holds("w", gradient)
