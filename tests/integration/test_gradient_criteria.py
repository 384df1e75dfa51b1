"""Criteria of gradients, through whole fits: masks by hand, roll-back, resuming, precision, and who else optimizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.pruning import class_gradient, moments
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import Tiny, fit, loader, pruner, refusing, tiny, verdicts
from tests.support.older import EMAWeightAveraging
from tests.support.witness import Keep, Watch

LOOK_BACK = 20  # the fewest steps, for six of them are an epoch


class Heard(pl.Callback):
    """What each attempt left: its masks, its weights, and the gradients of all its steps."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback = callback
        self.gradients: dict[int, list[dict[str, Tensor]]] = {}
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.masks: dict[int, dict[str, Tensor]] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = ((name, pl_module.get_parameter(name).grad) for name in self.callback.masks)
        found = {name: gradient.clone() for name, gradient in named if gradient is not None}
        self.gradients.setdefault(len(self.callback.ledger), []).append(found)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        attempt = len(self.callback.ledger)
        self.weights[attempt] = weights(pl_module)
        self.masks[attempt] = {name: mask.clone() for name, mask in self.callback.masks.items()}

    def masks_by_hand(self, source: int, pruned: int, by_layer: bool) -> dict[str, Tensor]:
        """The masks that follow from what an attempt left."""
        kept, steps, found = self.masks[source], self.gradients[source], {}
        shares = (1 - 1 / LOOK_BACK) ** torch.arange(len(steps) - 1, -1, -1, dtype=torch.float64)
        for name in kept:
            gradients = torch.stack([step[name] for step in steps]).double()
            mean = torch.tensordot(shares / shares.sum(), gradients.square(), dims=1)
            score = self.weights[source][name].double().abs() * mean.sqrt()
            if by_layer:
                squares = score.square()
                at_least = squares.flatten()[None, :] >= squares.flatten()[:, None]
                sums = (at_least * squares.flatten()).sum(1).reshape(score.shape)
                score = squares / sums
            found[name] = score.masked_fill(~kept[name], -1.0)
        flat = torch.cat([score.flatten() for score in found.values()])
        mask = torch.ones(len(flat), dtype=torch.bool)
        mask[flat.argsort(stable=True)[:pruned]] = False
        parts = mask.split([score.numel() for score in found.values()])
        return {n: part.view_as(s) for (n, s), part in zip(found.items(), parts, strict=True)}


def check_masks(heard: Heard, sources: list[int], by_layer: bool) -> None:
    """The masks of every attempt after round 0 are those of the attempt that it starts from."""
    for attempt, source in enumerate(sources, start=1):
        pruned = sum(int((~mask).sum()) for mask in heard.masks[attempt].values())
        assert_same(heard.masks[attempt], heard.masks_by_hand(source, pruned, by_layer))


@pytest.mark.parametrize(
    ("criterion", "options"),
    [
        ("gradient", {}),
        # Before clipping, and of all accumulated batches.
        ("lamp_gradient", {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}),
    ],
)
def test_masks_are_those_of_the_gradients_of_the_round_before(
    criterion: str, options: dict[str, Any]
) -> None:
    heard = Heard(callback := pruner(criterion=criterion))
    fit(tiny(), callback, heard, **options)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    check_masks(heard, [0, 1, 2], by_layer=criterion == "lamp_gradient")


@pytest.mark.parametrize("rewind", ["init", "none"])
def test_after_a_refusal_the_gradients_are_those_of_the_accepted_network(rewind: str) -> None:
    callback = refusing(1, criterion="gradient", on_refusal="retry", retries=2, rewind=rewind, max_rounds=3)
    fit(tiny(), callback, heard := Heard(callback))
    assert verdicts(callback) == ["baseline", "refused", "accepted", "accepted"]
    check_masks(heard, [0, 0, 2], by_layer=False)


class Counted(pl.Callback):
    """How many steps the criterion had heard by the end of each attempt."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback, self.steps = callback, dict[int, dict[str, int]]()

    def on_train_batch_end(self, *_: Any) -> None:
        state = self.callback.settings.criterion.state_dict()
        assert state is not None
        self.steps[len(self.callback.ledger)] = state["steps"]


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"max_epochs": -1, "max_steps": 11}, {"stopping": True}]
)
def test_only_the_last_steps_of_a_round_are_heard(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that all rounds have, unless EarlyStopping may end one before its time."""
    monkeypatch.setattr(moments, "FEWEST", 1)
    monkeypatch.setattr(moments, "MOST", 1)
    monkeypatch.setattr(moments, "TIMES", 3)
    stops = [pl.callbacks.EarlyStopping("val_loss", patience=9)] if options.pop("stopping", False) else []
    callback = pruner(criterion="gradient", max_rounds=1)
    fit(tiny(), callback, counted := Counted(callback), *stops, **options)
    assert len(callback.ledger) == 2
    expected = 12 if stops else 3
    assert counted.steps == {attempt: dict.fromkeys(callback.masks, expected) for attempt in (0, 1)}


def job(seed: int = 11) -> tuple[Any, ClassAwarePruningCallback]:
    callback = refusing(2, criterion="lamp_gradient", on_refusal="retry", retries=1, max_rounds=3)
    return tiny(seed, dropout=0.3), callback


def result(module: Any, callback: ClassAwarePruningCallback) -> Any:
    return weights(module), callback.masks, without_seconds(callback.ledger)


def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    module, callback = job()
    fit(module, callback, keep := Keep(tmp_path, "epoch end"))
    expected = result(module, callback)
    assert verdicts(callback) == ["baseline", "accepted", "refused", "accepted"]
    for path in keep.files[:-1]:  # in the middle of a round, and before the next one begins
        again = job(seed=99)
        fit(*again, seed=123, ckpt_path=path)
        assert_same(result(*again), expected)


def test_after_a_fit_nothing_of_it_is_left_and_a_second_one_begins_anew() -> None:
    module, callback = tiny(), pruner(criterion="gradient", max_rounds=1)
    fit(module, callback)
    expected = result(module, callback)
    state = callback.state_dict()
    assert (state["criterion"], state["criterion_accepted"]) == (None, None)
    assert callback.settings.criterion.state_dict() == {"means": {}, "steps": {}}
    module.load_state_dict(tiny().state_dict())
    fit(module, callback)
    assert_same(result(module, callback), expected)


# --- how steps are taken ---


class TwoOptimizers(Tiny):
    """Manual optimization: the first layer steps twice a batch, the last once."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[place].parameters(), lr=0.05) for place in (0, 4)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in (*self.optimizers(), self.optimizers()[0]):
            self.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


def test_each_of_several_optimizers_tells_of_its_own_weights() -> None:
    callback = pruner(criterion="gradient", max_rounds=1)
    fit(TwoOptimizers(), callback, counted := Counted(callback))
    assert counted.steps[0] == {"net.0.weight": 24, "net.4.weight": 12}


class Bypassing(TwoOptimizers):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers(use_pl_optimizer=False):
            self.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


def test_steps_that_nothing_tells_of_are_said_to_be_missing() -> None:
    torch.manual_seed(11)
    with pytest.warns(UserWarning, match="has seen no gradient of the prunable weights"):
        fit(Bypassing(), callback := pruner(criterion="gradient", max_rounds=1))
    torch.manual_seed(11)
    fit(Bypassing(), by_size := pruner(criterion="magnitude", max_rounds=1))
    assert_same(callback.masks, by_size.masks)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_unscaled_and_skipped_steps_are_not_heard(fused: bool) -> None:
    """Half precision whose first steps overflow, with an optimizer that unscales within its step and without."""

    class Module(Tiny):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01, fused=fused)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=100)
    callback = pruner(criterion="gradient", max_rounds=1, fraction=0.4)

    class Sizes(Counted):
        means: Tensor

        def on_train_batch_end(self, *_: Any) -> None:
            super().on_train_batch_end()
            if not self.callback.ledger and (state := self.callback.settings.criterion.state_dict()):
                self.means = state["means"].get("net.4.weight", torch.zeros(1))

    sizes = Sizes(callback)
    torch.manual_seed(11)
    fit(Module(), callback, sizes, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)], max_epochs=5)
    assert 0 < sizes.steps[0]["net.4.weight"] < 30
    assert 0 < float(sizes.means.sqrt().max()) < 1, "a gradient of the loss, not of its multiple"


class Frozen(Tiny):
    """Its first layer does not train, but a predicate asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=0.1)


@pytest.mark.parametrize("criterion", ["gradient", "lamp_gradient"])
def test_frozen_weights_are_neither_the_first_to_go_nor_the_last(criterion: str) -> None:
    torch.manual_seed(11)
    callback = pruner(criterion=criterion, max_rounds=1, prunable=lambda name, p: p.ndim == 2)
    fit(Frozen(), callback)
    kept = {name: float(mask.float().mean()) for name, mask in callback.masks.items()}
    assert 0 < kept["net.0.weight"] < 1
    assert 0 < kept["net.4.weight"] < 1


# --- the protected classes' own gradients ---


@pytest.mark.parametrize("criterion", ["class_gradient", "class_lamp_gradient"])
def test_class_gradients_leave_the_training_alone_and_choose_other_weights(
    criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**options: Any) -> Any:
        module, callback, watch = tiny(dropout=0.3), pruner(max_rounds=1, **options), Watch()
        fit(module, callback, watch)
        return watch.losses[:12], callback.masks

    losses, masks = run(criterion=criterion)
    by_size = run(criterion="lamp" if "lamp" in criterion else "magnitude")
    assert losses == by_size[0], "round 0 is trained as without"
    assert any(not torch.equal(masks[name], by_size[1][name]) for name in masks)
    monkeypatch.setattr(class_gradient, "BATCHES", 0)
    with pytest.warns(UserWarning, match="found no gradient of the protected classes in 0 training batches"):
        assert_same(run(criterion=criterion)[1], by_size[1])


@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("labels", 3)])
def test_class_gradients_of_one_score_and_of_labels(task: str, outputs: int) -> None:
    kinds: dict[str, Any] = {"task": "labels", "classes": 3} if task == "labels" else {}
    torch.manual_seed(11)
    callback = pruner(
        criterion="class_gradient",
        num_classes=max(outputs, 2),
        max_rounds=1,
        guard_dataloader=loader(n=120, seed=3, batch_size=50, **kinds),
    )
    fit(Tiny(outputs, task), callback, train=loader(seed=1, **kinds), val=loader(n=40, seed=2, **kinds))
    assert callback.sparsity > 0


def test_scores_that_are_no_tensor_are_refused_before_the_first_batch() -> None:
    def boxes(module: Any, batch: Any) -> Any:
        return [module(batch[0])], batch[1]

    watch = Watch()
    with pytest.raises(Exception, match="scores"):
        fit(tiny(), pruner(criterion="class_gradient", predict=boxes), watch)
    assert watch.losses == []


def test_a_listening_criterion_goes_with_weight_averaging() -> None:
    average = EMAWeightAveraging(decay=0.5)
    callback = pruner(criterion="lamp_gradient", max_rounds=2)
    fit(module := tiny(), callback, average)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    for name, mask in callback.masks.items():
        assert not module.get_parameter(name)[~mask].any()


def test_channels_by_gradients() -> None:
    found = {}
    for criterion in ("gradient", "lamp_gradient", "magnitude"):
        callback = pruner(criterion=criterion, granularity="channel", max_rounds=1, fraction=0.4)
        fit(tiny(), callback)
        found[criterion] = callback.masks["net.0.weight"].any(1)
        assert int(found[criterion].sum()) == 12 - 5
    # One group: relative to it or not, the order of its channels is the same.
    assert torch.equal(found["gradient"], found["lamp_gradient"])
    assert not torch.equal(found["gradient"], found["magnitude"])
