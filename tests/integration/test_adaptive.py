"""The adaptive schedule in real fits: what it looks at leaves no trace, and what it may not look at changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, FNTolerance
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.offset import Labels, chance_on_both_sides, one_table
from lightning_classprune.guard.protected import Protected
from lightning_classprune.rounds.schedules import AdaptiveSteps
from lightning_classprune.rounds.search import CHANCE, LEVEL, beyond
from tests.support.compare import assert_same, checkpoints, weights, without_seconds
from tests.support.kit import dataset, fit, pruner, tiny, verdicts
from tests.support.older import EMAWeightAveraging
from tests.support.witness import Keep, Watch

VALIDATION, GUARD = 1, 2


def marked(n: int, seed: int, kind: int) -> DataLoader[Any]:
    """A loader of one batch whose third tensor says what it is for."""
    x, y = dataset(n, seed).tensors
    return DataLoader(TensorDataset(x, y, torch.full((n,), kind)), batch_size=n)


class Job:
    """One adaptive fit, everything made anew; what `predict` was asked to look at, and what it was told to miss.

    Args:
        misses: (attempt, kind of data, number of the run's own look at it in this attempt) -> off the positive scores.
            Attempt 0 is the dense network; Lightning's own validation, which the monitor counts, is left out.
        epochs: Of round 0.
        **options: Of the callback.
    """

    def __init__(
        self, misses: Callable[[int, int, int], float] = lambda *_: 0.0, epochs: int = 2, **options: Any
    ) -> None:
        self.misses, self.epochs = misses, epochs
        self.looks: list[tuple[int, int, int]] = []  # attempt, kind, weights kept
        defaults: dict[str, Any] = {
            "protect": {1: FNTolerance(rate=0.3, recall_floor=0.1)},
            "guard_dataloader": marked(120, 3, GUARD),
            "predict": self.predict,
            "search": "adaptive",
            "rewind": "init",
            "round_epochs": epochs,
            "on_refusal": "stop",
            "retries": 0,
            "max_rounds": None,
            "target_sparsity": 0.9,
        }
        self.callback: ClassAwarePruningCallback = pruner(**(defaults | options))
        self.watch = Watch()

    def predict(self, module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores, kind, attempt = module(batch[0]), int(batch[2][0]), len(self.callback.ledger)
        if module.trainer.fit_loop.epoch_loop.val_loop in self.inside:
            return scores, batch[1]
        if module.trainer.global_step:  # before that, the guard data is only tried
            kept = sum(int((p != 0).sum()) for p in module.parameters() if p.ndim == 2)
            self.looks.append((attempt, kind, kept))
        run = self.callback._run
        # Counted by the run, which knows after a resume what was looked at before.
        number = run.search.passes - 1 if kind == VALIDATION and run is not None and run.search else 0
        worse = self.misses(attempt, kind, number)
        return scores - torch.tensor([0.0, worse]), batch[1]

    def run(self, *more: Any, seed: int = 7, module_seed: int = 11, **options: Any) -> Job:
        inside: list[Any] = []
        self.inside = inside

        class Phase(pl.Callback):
            def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
                inside.append(trainer.fit_loop.epoch_loop.val_loop)

            def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
                inside.clear()

        self.module = tiny(module_seed, dropout=0.3, scheduler="onecycle")
        self.trainer = fit(
            self.module,
            self.callback,
            self.watch,
            Phase(),
            *more,
            seed=seed,
            **({"val": marked(60, 2, VALIDATION), "max_epochs": self.epochs} | options),
        )
        return self

    def result(self) -> dict[str, Any]:
        state = self.callback.state_dict()
        return {
            "weights": weights(self.module),
            "masks": self.callback.masks,
            "ledger": without_seconds(self.callback.ledger),
            "budget": state["budget"],
            "rounds": state["rounds"],
            "global_step": self.trainer.global_step,
            "epoch": self.trainer.current_epoch,
        }

    @property
    def kept(self) -> list[int]:
        """Weights kept in each attempt, of 120."""
        return [round(120 * (1 - row["sparsity"])) for row in self.callback.ledger]


ALL = 1e6


def on(kind: int, *attempts: int, look: int | None = None) -> Callable[[int, int, int], float]:
    """All positives are missed."""
    return lambda a, k, n: ALL if k == kind and a in attempts and look in (None, n) else 0.0


# --- steps ---


def test_steps_follow_what_holds_without_retraining() -> None:
    """Validation holds for the first three looks: 96, 72 and 60 of 120 weights; a tenth of 60 is beyond the target."""
    job = Job(on(VALIDATION, 0, look=5)).run()
    looked = [kept for attempt, kind, kept in job.looks if (attempt, kind) == (0, VALIDATION)]
    # half-way, at the end, then 80%, 60%, 50%; 40% does not hold
    assert looked == [120, 120, 96, 72, 60, 48]
    assert job.kept == [120, 12]
    assert verdicts(job.callback) == ["baseline", "accepted"]
    assert [row["validation_passes"] for row in job.callback.ledger] == [6, 2]


def test_a_network_that_calls_everything_positive_does_not_hold() -> None:
    """No positive is missed, so the FN rate alone would see nothing; the third look is the first of 80%."""
    job = Job(lambda a, k, n: -on(VALIDATION, 0, look=2)(a, k, n), protect={1: 0.1}, confidence=None).run()
    assert [kept for a, k, kept in job.looks if (a, k) == (0, VALIDATION)] == [120, 120, 96]
    assert job.kept == [120, 12]


def test_later_steps_start_from_the_accepted_ticket() -> None:
    """The dense network holds at no look, its successor at the first: the steps are those of the pure functions."""
    bad, worse = on(VALIDATION, 0, look=2), on(VALIDATION, 1, look=3)
    job = Job(lambda *look: bad(*look) + worse(*look), target_sparsity=0.98).run()
    steps, target = AdaptiveSteps(), 118
    dense = steps.densities_to_try(120, 0, target)
    first = steps.after_acceptance(120, target, 0, 0, first=True)
    looks = steps.densities_to_try(120, first, target)
    second = steps.after_acceptance(120, target, first, looks[0], first=False)
    expected = [0, 0, dense[0], first, first, *looks[:2], second]
    assert [120 - kept for _, k, kept in job.looks if k == VALIDATION][:8] == expected
    assert job.kept[:3] == [120, 120 - first, 120 - second]


@pytest.mark.parametrize("averaged", [False, True])
def test_looks_leave_weights_buffers_and_random_state_alone(averaged: bool) -> None:
    """An adaptive run is, bit for bit, the fixed run that takes the same step, also where the average is judged."""

    def more() -> list[Any]:
        return [EMAWeightAveraging(decay=0.8)] if averaged else []

    adaptive = Job(on(VALIDATION, 0, look=3), max_rounds=1).run(*more())
    share = (119.5 - adaptive.kept[1]) / 120
    fixed = Job(search="fixed", fraction=share, max_rounds=1).run(*more())
    assert adaptive.kept == fixed.kept == [120, 12]
    assert sum(kind == VALIDATION for _, kind, _ in adaptive.looks) > 4
    assert all(kind == GUARD for _, kind, _ in fixed.looks)
    assert adaptive.watch.losses == fixed.watch.losses
    assert_same(weights(adaptive.module), weights(fixed.module))


def test_the_guards_numbers_change_nothing_while_its_verdicts_are_the_same() -> None:
    """Everything is accepted, but in one run the guard misses more: candidates and weights are the same."""
    bad = on(VALIDATION, 0, look=2)

    def worse(attempt: int, kind: int, look: int) -> float:
        return 0.05 if kind == GUARD and attempt else bad(attempt, kind, look)

    calm, alarmed = (Job(misses, target_sparsity=0.98).run() for misses in (bad, worse))
    fn = [job.callback.ledger[1]["classes"]["1"]["fn"] for job in (calm, alarmed)]
    assert fn[0] < fn[1]
    assert verdicts(calm.callback) == verdicts(alarmed.callback)
    assert calm.kept == alarmed.kept
    assert len(calm.kept) >= 3
    assert_same(weights(calm.module), weights(alarmed.module))


def test_a_refusal_goes_half_way_back_and_spends_a_retry() -> None:
    job = Job(on(GUARD, 1), on_refusal="retry", retries=1, confidence=0.9).run()
    assert verdicts(job.callback)[:2] == ["baseline", "refused"]
    # 12 of 120 refused: sqrt(120 * 12) = 37.9
    assert job.kept[:3] == [120, 12, 38]
    assert job.callback.state_dict()["budget"]["refusals"] >= 1


# --- abandoned ---


def test_a_hopeless_candidate_is_abandoned_at_the_end_of_its_round_without_a_test() -> None:
    job = Job(on(VALIDATION, 1, look=1), confidence=0.9, protect={1: 0.4}).run()
    assert verdicts(job.callback)[:3] == ["baseline", "abandoned", "accepted"]
    row = job.callback.ledger[1]
    assert row["classes"] == {}
    assert row["level"] is None
    assert row["epochs"] == 2
    assert "newly missed, 0 newly found of" in row["reason"]
    assert row["reason"].endswith("; no guard test was made")
    assert not any(kind == GUARD for attempt, kind, _ in job.looks if attempt == 1)
    assert job.kept[2] > job.kept[1]
    assert (job.callback.ledger[2]["round"], job.callback.ledger[2]["attempt"]) == (1, 2)
    state = job.callback.state_dict()
    assert state["rounds"]["refusals"] == 0
    assert state["rounds"]["abandoned"] == 1
    assert state["budget"]["tests"] == sum(
        v in ("accepted", "refused", "unproven") for v in verdicts(job.callback)
    )
    assert job.callback.ledger[2]["level"] == pytest.approx(0.1)


def test_a_hopeless_candidate_is_abandoned_half_way() -> None:
    job = Job(on(VALIDATION, 1, look=0), epochs=4, protect={1: 0.1}, confidence=None).run()
    assert verdicts(job.callback)[:2] == ["baseline", "abandoned"]
    assert [row["epochs"] for row in job.callback.ledger][:2] == [4, 2]
    assert job.callback.ledger[1]["reason"].startswith("half-way through the round, 1: ")


def test_what_follows_an_abandoned_candidate_starts_from_the_last_accepted_ticket() -> None:
    """Bit for bit the run that goes to the second candidate at once."""
    there = Job(on(VALIDATION, 1, look=1), max_rounds=2).run()
    assert verdicts(there.callback) == ["baseline", "abandoned", "accepted"]
    at_once = Job(search="fixed", fraction=(119.5 - there.kept[2]) / 120, max_rounds=1).run()
    assert at_once.kept[1] == there.kept[2]
    assert at_once.watch.losses == there.watch.losses[:12] + there.watch.losses[24:]
    assert_same(weights(at_once.module), weights(there.module))


def test_a_run_that_abandons_everything_delivers_the_dense_network() -> None:
    job = Job(on(VALIDATION, *range(1, 9), look=1)).run()
    assert verdicts(job.callback) == ["baseline"] + ["abandoned"] * 4
    assert job.kept == [120, 12, 38, 68, 91]
    assert job.callback.sparsity == 0
    assert job.callback.state_dict()["rounds"]["finished"] == "4 candidates were abandoned"
    plain = tiny(11, dropout=0.3, scheduler="onecycle")
    fit(plain, val=marked(60, 2, VALIDATION))
    assert_same(weights(job.module), weights(plain))


@pytest.mark.parametrize(
    ("missed", "found", "allowed", "hopeless"),
    # the rise is 10 of 100 less what chance explains at this level: 0.092
    [(10, 0, 0.05, True), (10, 0, 0.09, True), (10, 0, 0.1, False), (10, 10, 0.0, False), (0, 0, 0.0, False)],
)
def test_what_holds_without_retraining_is_a_lower_bound_within_the_tolerance(
    missed: int, found: int, allowed: float, hopeless: bool
) -> None:
    assert beyond(Evidence(100, 20, missed, found), allowed, LEVEL) == hopeless
    assert not beyond(Evidence(0, 0, 0, 0), 0.0, LEVEL)


@pytest.mark.parametrize(
    ("missed", "found", "positives", "level", "worth"),
    [
        (10, 10, 205, 0.05, True),  # a fifth differs, no rise: near even
        (18, 10, 205, 0.05, False),  # a rise of .08 where .05 is allowed
        (18, 10, 205, None, True),  # the point rule has nothing to prove
        (16, 10, 205, 0.05, True),  # a rise of .06, much of which may be chance
        (16, 10, 76, 0.05, False),  # fewer positives prove less
        (11, 0, 5000, None, False),
    ],
)
def test_a_candidate_is_worth_a_test_that_may_well_succeed(
    missed: int, found: int, positives: int, level: float | None, worth: bool
) -> None:
    limits, labels = Protected(1, "a", FNTolerance(rate=0.05), None), Labels(positives, 400)
    sides = one_table(Evidence(100, 20, missed, found)), one_table(Evidence(300, 20, 0, 0))
    assert (chance_on_both_sides(*sides, limits, labels, level)[0] >= CHANCE) == worth


# --- what it needs ---


def test_the_guards_own_data_may_not_choose() -> None:
    with pytest.raises(MisconfigurationException, match=r"search='adaptive'.*guard_dataloader=\.\.\."):
        Job(guard_dataloader=None).run()
    same = marked(60, 2, VALIDATION)
    with pytest.raises(MisconfigurationException, match="the two are the same"):
        Job(guard_dataloader=DataLoader(same.dataset, batch_size=30)).run(val=same)


def test_without_validation_data_it_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"no validation data.*search='fixed'"):
        Job().run(limit_val_batches=0)


def test_validation_is_found_where_lightning_has_not_read_it_yet() -> None:
    job = Job(max_rounds=1).run(check_val_every_n_epoch=50)
    assert verdicts(job.callback) == ["baseline", "accepted"]


# --- with the rest ---


SCENARIOS: dict[str, dict[str, Any]] = {
    "lr": {"rewind": "lr"},
    "lr, shorter rounds": {"rewind": "lr", "round_epochs": 2},
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    """With a candidate abandoned at its end, one half-way, and one refused."""

    def misses(attempt: int, kind: int, look: int) -> float:
        spoilt = (attempt, look) in ((0, 4), (1, 1), (3, 0))
        return ALL if (kind == VALIDATION and spoilt) or (kind == GUARD and attempt == 4) else 0.0

    def job() -> Job:
        options: dict[str, Any] = {"on_refusal": "retry", "retries": 1, "target_sparsity": 0.98}
        options["protect"] = {1: 0.2}
        return Job(misses, epochs=3, **options, **SCENARIOS[name])

    keep = Keep(tmp_path, "epoch end")
    whole = job().run(keep)
    assert sorted(verdicts(whole.callback)[1:5]) in (
        ["abandoned", "abandoned", "accepted", "refused"],
        ["abandoned", "abandoned", "refused", "refused"],
    )
    assert sum(row["reason"].startswith("half-way") for row in whole.callback.ledger) >= 1
    for path in keep.files:
        done = torch.load(path, weights_only=True)["global_step"]
        resumed = job().run(module_seed=99, seed=123, ckpt_path=path)
        try:
            assert resumed.watch.losses == whole.watch.losses[done:]
            assert_same(resumed.result(), whole.result())
        except AssertionError as error:
            raise AssertionError(f"resumed from {path} at step {done}: {error}") from error


@pytest.mark.parametrize("epochs", [3, 4])
def test_by_default_a_round_trains_for_half_of_round_0(epochs: int) -> None:
    job = Job(epochs=epochs, rewind="lr", round_epochs=None, max_rounds=1).run()
    assert [row["epochs"] for row in job.callback.ledger] == [epochs, 2]


def test_a_limit_to_all_epochs_delivers_what_was_accepted() -> None:
    job = Job(on(VALIDATION, 1, look=0), round_epochs=1, rewind="lr", max_total_epochs=4).run()
    assert [row["epochs"] for row in job.callback.ledger] == [2, 1, 1]
    assert verdicts(job.callback) == ["baseline", "abandoned", "accepted"]
    assert job.callback.sparsity == job.callback.ledger[2]["sparsity"]


def test_files_of_an_abandoned_round_are_removed_as_those_of_a_refused_one(tmp_path: Path) -> None:
    best = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_last=True)
    job = Job(on(VALIDATION, 1, 2, look=1), max_rounds=2).run(best)
    assert verdicts(job.callback) == ["baseline", "abandoned", "abandoned"]
    assert checkpoints(tmp_path) == ["accepted-round=00.ckpt", "last.ckpt"]
    assert_same(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"], weights(job.module))
