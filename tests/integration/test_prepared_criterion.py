"""A criterion that looks at gradients, through whole fits: its masks by hand, its state, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.pruning.scoring import Scoring
from tests.integration.test_resume import KEY
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import dataset, fit, pruner, tiny, verdicts
from tests.support.witness import Keep, Watch

BATCHES = 3


class Sensitivity:
    """|w| times the mean |gradient| of the loss on the protected classes, and half of the mean of the look before."""

    def __init__(self, start: float = 1.0) -> None:
        self.mean = {"start": torch.tensor(start)}

    def prepare(self, scoring: Scoring) -> None:
        before, self.mean = self.mean, {}
        looks = list(scoring.gradients(cross_entropy, scoring.batches(BATCHES, only=scoring.protected)))
        for name in scoring.parameters:
            mean = torch.stack([gradients[name].abs() for gradients in looks]).mean(0)
            self.mean[name] = mean + before.get(name, before.get("start", torch.zeros(()))) / 2

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * self.mean[name]

    def state_dict(self) -> dict[str, Tensor]:
        return self.mean

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = state


class Seen(Sensitivity):
    """Tells what it was given to look at; that is no part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[dict[str, Any]] = []

    def prepare(self, scoring: Scoring) -> None:
        super().prepare(scoring)
        self.looks.append(
            {
                "seed": scoring.seed,
                "step": scoring.trainer.global_step,
                "weights": weights(scoring.module),
                "protected": scoring.protected,
                "mean": dict(self.mean),
            }
        )


def mean_by_hand(state: dict[str, Tensor], seed: int, names: list[str]) -> dict[str, Tensor]:
    """Mean |gradient| on the positives of the first batches that a seed draws, without the package."""
    module = tiny(99)
    module.load_state_dict(state)
    module.eval()
    data, order = dataset(96, 1).tensors, torch.randperm(96, generator=torch.Generator().manual_seed(seed))
    found = []
    for number in range(BATCHES):
        x, target = (tensor[order[16 * number : 16 * (number + 1)]] for tensor in data)
        loss = cross_entropy(module(x)[target == 1], target[target == 1])
        found.append(torch.autograd.grad(loss, [module.get_parameter(name) for name in names]))
    return {name: torch.stack([g[i].abs() for g in found]).mean(0) for i, name in enumerate(names)}


def masks_by_hand(masks: dict[str, Tensor], scores: dict[str, Tensor], pruned: int) -> dict[str, Tensor]:
    """The masks with the smallest scores of what is kept taken away, until so many weights are pruned."""
    flat = torch.cat([scores[n].masked_fill(~masks[n], -1.0).flatten() for n in masks])
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[:pruned]] = False
    parts = kept.split([mask.numel() for mask in masks.values()])
    return {n: part.view_as(mask) for (n, mask), part in zip(masks.items(), parts, strict=True)}


class Masks(pl.Callback):
    """The masks of every round, and the accepted weights at its end."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback, self.rounds = callback, list[dict[str, Tensor]]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        number = len(self.callback.ledger)
        masks = {name: mask.clone() for name, mask in self.callback.masks.items()}
        self.rounds = [*self.rounds[: number - 1], masks] if number else []


def test_masks_are_those_of_the_gradients_by_hand() -> None:
    criterion = Seen()
    callback = pruner(criterion=criterion)
    rounds, module = Masks(callback), tiny()
    fit(module, callback, rounds)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    rehearsal, *looks = criterion.looks
    assert rehearsal["step"] == 0
    assert [look["step"] for look in looks] == [12, 24, 36], "after every verdict that a round follows"
    assert [look["seed"] for look in looks] == [1, 2, 3]
    names = list(callback.masks)
    masks = {name: torch.ones_like(mask) for name, mask in callback.masks.items()}
    before = dict.fromkeys(names, torch.tensor(1.0))  # the rehearsal is forgotten
    for look, found, pruned in zip(looks, rounds.rounds, [48, 77, 90], strict=True):
        assert look["protected"] == (1,)
        by_hand = mean_by_hand(look["weights"], look["seed"], names)
        before = {name: by_hand[name] + before[name] / 2 for name in names}
        assert_same(look["mean"], before)
        scores = {name: look["weights"][name].abs() * before[name] for name in names}
        masks = masks_by_hand(masks, scores, pruned)
        assert_same(found, masks)
    assert_same(callback.masks, masks)


class Uninvolved(Sensitivity):
    """Looks as the other does, and scores by magnitude."""

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs()


def test_looking_changes_nothing_of_the_training() -> None:
    def run(**options: Any) -> Any:
        module, callback, watch = tiny(dropout=0.3), pruner(**options), Watch()
        fit(module, callback, watch)
        return weights(module), watch.losses, callback.masks, without_seconds(callback.ledger)

    assert_same(run(criterion=Uninvolved()), run())


# --- saved and resumed ---


def job(start: float = 1.0, seed: int = 11, **options: Any) -> tuple[Any, ClassAwarePruningCallback]:
    return tiny(seed, dropout=0.3), pruner(criterion=Sensitivity(start), **options)


def result(module: Any, callback: ClassAwarePruningCallback) -> Any:
    state = callback.state_dict()
    return weights(module), callback.masks, without_seconds(callback.ledger), state["criterion"]


@pytest.mark.parametrize("search", ["fixed", "adaptive"])
def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(search: str, tmp_path: Path) -> None:
    module, callback = job(search=search)
    fit(module, callback, keep := Keep(tmp_path, "epoch end"))
    expected = result(module, callback)
    assert len(callback.ledger) >= 2
    states = [torch.load(path, weights_only=True)["callbacks"][KEY]["criterion"] for path in keep.files]
    assert_same(states[0], {"start": torch.tensor(1.0)})
    assert set(states[-1]) == set(callback.masks)
    for path in keep.files[:-1]:
        again = job(seed=99, search=search)
        fit(*again, seed=123, ckpt_path=path)
        assert_same(result(*again), expected)


def test_a_run_that_began_in_another_state_is_refused(tmp_path: Path) -> None:
    fit(*job(), keep := Keep(tmp_path, "epoch end"))
    with pytest.raises(MisconfigurationException, match=r"Cut\.criterion was .* and is now"):
        fit(*job(start=2.0), ckpt_path=keep.files[2])
    with pytest.raises(MisconfigurationException, match=r"Cut\.criterion was .* and is now"):
        fit(tiny(), pruner(criterion=Uninvolved()), ckpt_path=keep.files[2])
    with pytest.raises(MisconfigurationException, match=r"Cut\.criterion was .* and is now .*magnitude"):
        fit(tiny(), pruner(), ckpt_path=keep.files[2])


def test_a_second_fit_begins_in_the_first_state() -> None:
    module, callback = job()
    fit(module, callback)
    expected = result(module, callback)
    module.load_state_dict(job()[0].state_dict())
    fit(module, callback)
    assert_same(result(module, callback), expected)


# --- what is wrong with a criterion is said before the first batch ---


class Failing(Sensitivity):
    def prepare(self, scoring: Scoring) -> None:
        raise KeyError("no such layer")


class NotANumber(Sensitivity):
    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return super().score(name, weight, rewind_point) / 0 * 0


class WrongShape(Sensitivity):
    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return super().score(name, weight, rewind_point).sum(1)


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        (Failing(), KeyError, "no such layer"),
        (NotANumber(), MisconfigurationException, r"without NaN; for `net\.0\.weight` \(12, 8\)"),
        (WrongShape(), MisconfigurationException, r"real scores of the weight's shape .*`net\.0\.weight`"),
        (lambda w, _: w / 0 * 0, MisconfigurationException, "without NaN"),
    ],
)
def test_a_criterion_that_cannot_fails_before_the_first_batch(
    criterion: Any, error: type[Exception], message: str
) -> None:
    watch, module = Watch(), tiny()
    before = weights(module)
    with pytest.raises(error, match=message):
        fit(module, pruner(criterion=criterion), watch)
    assert watch.losses == []
    assert_same(weights(module), before)
