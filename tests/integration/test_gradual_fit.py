"""Masks that shrink inside a round, in real fits: one transaction a round, whatever happens in its middle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_classprune import ClassAwarePruningCallback, FNTolerance, Gradual
from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.rounds import shrinking
from lightning_classprune.trainer.names import named_parameters
from tests.support.compare import assert_same, optimizer_states, weights, without_seconds
from tests.support.kit import Tiny, dataset, fit, pruner, tiny, verdicts
from tests.support.older import EMAWeightAveraging
from tests.support.witness import Keep, Probe, Watch, log_messages

STEPS = 12  # of a round: two epochs of six batches


class Trace(pl.Callback):
    """What each batch of each round left: pruned share, and whether anything pruned is held somewhere."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback = callback
        self.rounds: dict[int, list[float]] = {}
        self.starts: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self.remembered: list[str] = []
        self.shown: list[float | None] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        attempt = len(self.callback.ledger)
        if attempt not in self.starts:
            masks = {name: mask.clone() for name, mask in self.callback.masks.items()}
            self.starts[attempt] = weights(pl_module), masks

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.rounds.setdefault(len(self.callback.ledger), []).append(self.callback.sparsity)
        status = self.callback.status()
        assert status is not None
        self.shown.append(status.shrunk)
        masks = self.callback.masks
        for name, parameter in named_parameters(pl_module).items():
            state = trainer.optimizers[0].state.get(parameter, {})
            for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
                if name in masks and state.get(key) is not None and state[key][~masks[name]].any():
                    self.remembered.append(f"{name}.{key} at step {trainer.global_step}")


class Job:
    """One gradual fit of a dense round of two epochs and rounds of as many; everything made anew.

    Args:
        missed: Attempts, 1 the first after the dense one, whose guard and validation cases are all missed.
        optimizer: Of the module.
        **options: Of `Gradual`, or of the callback in `callback`.
    """

    def __init__(
        self,
        *missed: int,
        optimizer: str = "adam",
        seed: int = 11,
        callback: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        search = Gradual(**({"densities": (0.5, 0.2), "round_epochs": 2} | options))
        self.missed = missed
        defaults: dict[str, Any] = {
            "protect": {1: FNTolerance(rate=0.6, recall_floor=0.1)},
            "predict": self.predict,
            "criterion": "magnitude",
            "target_sparsity": 0.9,
        }
        self.callback = pruner(search=search, **(defaults | (callback or {})))
        self.module = tiny(seed, optimizer=optimizer, scheduler="onecycle", dropout=0.3)
        self.trace, self.probe, self.watch = Trace(self.callback), Probe(self.callback), Watch()

    def predict(self, module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        bad = len(self.callback.ledger) in self.missed
        return module(batch[0]) - torch.tensor([0.0, 1e6 * bad]), batch[1]

    def run(self, *more: Any, **options: Any) -> Job:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = fit(
                self.module, self.callback, self.trace, self.probe, self.watch, *more, **options
            )
        assert self.probe.leaks == []
        return self

    @property
    def pruned(self) -> list[int]:
        """Of 120 weights, by row of the ledger."""
        return [round(120 * row["sparsity"]) for row in self.callback.ledger]

    def result(self) -> dict[str, Any]:
        return {
            "weights": weights(self.module),
            "masks": self.callback.masks,
            "ledger": without_seconds(self.callback.ledger),
            "rounds": self.callback.state_dict()["rounds"],
            "optimizers": optimizer_states(self.trainer),
            "step": self.trainer.global_step,
        }


@pytest.fixture(scope="module")
def whole() -> Job:
    return Job().run()


def test_a_round_shrinks_from_the_last_density_to_the_next_and_trains_on(whole: Job) -> None:
    assert verdicts(whole.callback) == ["baseline", "accepted", "accepted"]
    assert whole.pruned == [0, 60, 96]
    assert whole.callback.sparsity == 0.8
    dense, first, second = (whole.trace.rounds[n] for n in range(3))
    assert dense == [0.0] * STEPS
    for found, start, end in ((first, 0.0, 0.5), (second, 0.5, 0.8)):
        assert len(found) == STEPS
        assert found == sorted(found)
        # .6 of 12 steps is 7.2: the last cut comes after the eighth.
        assert start <= found[0] < found[3] < found[6] < end
        assert found[7:] == [end] * 5
    assert whole.probe.revived == whole.trace.remembered == []
    shown = whole.trace.shown
    assert [one is None for one in shown] == [True] * 12 + ([False] * 7 + [True] * 5) * 2
    assert shown[12:19] == first[:7]


@pytest.mark.parametrize("rewind", ["lr", "init", "epoch:1", "none"])
def test_a_round_starts_from_the_previous_mask_on_the_rewind_point(rewind: str) -> None:
    job = Job(optimizer="sgd", rewind=rewind, round_epochs=2 if rewind in ("lr", "init") else None)
    points: dict[str, dict[str, Tensor]] = {}

    class Points(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            points.setdefault({0: "init", 6: "epoch:1"}.get(trainer.global_step, "later"), weights(pl_module))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            points[rewind if rewind in ("lr", "none") else "other"] = weights(pl_module)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            attempt = len(job.callback.ledger)
            if attempt in job.trace.starts or not attempt:
                return
            masks = {name: mask.clone() for name, mask in job.callback.masks.items()}
            counts.append(sum(int((~mask).sum()) for mask in masks.values()))
            for name, mask in masks.items():
                assert torch.equal(weights(pl_module)[name], points[rewind][name] * mask), (attempt, name)

    counts: list[int] = []
    job.run(Points())
    assert verdicts(job.callback) == ["baseline", "accepted", "accepted"]
    assert counts == [0, 60]
    length = 6 if rewind == "epoch:1" else STEPS
    assert [len(job.trace.rounds[n]) for n in (1, 2)] == [length] * 2
    assert [job.trace.rounds[n][-1] for n in (1, 2)] == [0.5, 0.8]


class Bypassing(Tiny):
    """Steps an optimizer that Lightning knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers(use_pl_optimizer=False).step()


def test_where_no_step_is_counted_the_mask_is_cut_once_and_it_is_said() -> None:
    job = Job(densities=(0.5,), callback={"criterion": "lamp_gradient"})
    torch.manual_seed(11)
    job.module = Bypassing()
    with (
        pytest.warns(UserWarning, match="counted no optimizer step in 60% of this round, so its mask is cut"),
        pytest.warns(UserWarning, match="the criterion has seen no gradient of the prunable weights"),
    ):
        fit(job.module, job.callback, job.trace, job.probe)
    assert job.probe.leaks == []
    assert verdicts(job.callback) == ["baseline", "accepted"]
    assert job.trace.rounds[1] == [0.0] * 7 + [0.5] * 5


def test_steps_are_those_of_the_optimizer_where_gradients_accumulate() -> None:
    job = Job(densities=(0.5,)).run(accumulate_grad_batches=3)
    found = job.trace.rounds[1]
    assert found[-1] == 0.5
    changed = [i for i in range(1, STEPS) if found[i] != found[i - 1]]
    assert changed == [2, 5, 8], (
        "the last one after two thirds, of which .6 is a part, and not between two steps"
    )


def test_rounds_may_be_counted_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes compare their masks when a round begins, and after its last cut."""
    compared: list[int] = []
    require_equal = Cutter.require_equal

    def noting(cutter: Cutter, masks: Masks) -> None:
        compared.append(cutter.units.pruned(masks))
        require_equal(cutter, masks)

    monkeypatch.setattr(Cutter, "require_equal", noting)
    job = Job(densities=(0.5,), round_epochs=None).run(max_epochs=-1, max_steps=8)
    assert job.pruned == [0, 60]
    assert len(job.trace.rounds[1]) == 16, "twice round 0"
    assert job.trace.rounds[1][9:] == [0.5] * 7
    assert compared == [0, 60]


# --- failures ---


def test_a_refusal_takes_the_mask_back_and_goes_half_way(whole: Job) -> None:
    """Half of 120 is accepted, a fifth refused: between 60 and 24 kept weights lie 37.9, one more is kept."""
    job = Job(2, on_refusal="retry", retries=1, max_rounds=3).run()
    assert verdicts(job.callback) == ["baseline", "accepted", "refused", "accepted"]
    assert job.pruned == [0, 60, 96, 82]
    for name, mask in job.trace.starts[3][1].items():
        assert torch.equal(mask, job.trace.starts[2][1][name])
    assert_same(job.trace.starts[3][0], job.trace.starts[2][0])
    alone = Job(2).run()
    assert verdicts(alone.callback) == ["baseline", "accepted", "refused"]
    assert alone.callback.sparsity == 0.5
    assert_same(weights(alone.module), whole_after(whole, 1))


def whole_after(whole: Job, attempt: int) -> dict[str, Tensor]:
    """What was accepted in that attempt: with rewind `lr` it is what the next one starts from."""
    return whole.trace.starts[attempt + 1][0]


def test_early_stopping_waits_for_the_last_cut() -> None:
    """No epoch improves on the first; it would end each round after its second, in which the mask still shrinks."""
    stopping = EarlyStopping("val_loss", patience=1, min_delta=100.0)
    job = Job(densities=(0.5,), round_epochs=8, share=0.4).run(stopping)
    assert job.pruned == [0, 60]
    # .4 of 48 steps is 19.2, in the fourth epoch, which is the first to count; the fifth is no better.
    assert [row["epochs"] for row in job.callback.ledger] == [2, 5]
    assert len(job.trace.rounds[1]) == 30


@pytest.mark.parametrize("judging", ["round", "end"])
def test_a_job_that_is_stopped_while_a_mask_shrinks_judges_no_half_candidate(
    judging: str, tmp_path: Path
) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 3

    options = {"confidence": 0.9, "judging": "end", "max_fp_rise": 1.0} if judging == "end" else {}
    job = Job(densities=(0.5,), round_epochs=8, callback=options).run(Stop(), default_root_dir=tmp_path)
    if judging == "end":
        assert verdicts(job.callback) == ["baseline"]
        assert job.callback.awaits_judgement
    else:
        assert verdicts(job.callback) == ["baseline", "abandoned"]
        assert "ended while the mask was shrinking" in job.callback.ledger[-1]["reason"]
    assert job.callback.sparsity == 0.0
    assert not any((mask == 0).any() for mask in job.callback.masks.values())


def test_a_training_that_diverges_is_given_up_and_not_the_fit() -> None:
    class Diverge(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if len(job.callback.ledger) == 1 and batch_idx == 3:
                with torch.no_grad():
                    pl_module.net[0].weight.fill_(float("nan"))

    job = Job(densities=(0.5,), round_epochs=6)
    # Zero times what is no number is none.
    job.probe.on_train_batch_end = lambda *_: None  # type: ignore[method-assign]
    job.run(Diverge())
    rows = job.callback.ledger
    assert verdicts(job.callback) == ["baseline", "abandoned", "accepted", "accepted"]
    assert [row["epochs"] for row in rows] == [2, 1, 6, 6]
    assert "diverged" in rows[1]["reason"]
    assert job.pruned[2:] == [35, 60]  # half-way to half: 85 of 120 are kept


# --- beside others ---


def test_the_best_epoch_and_checkpoint_of_a_round_are_after_its_last_cut(tmp_path: Path) -> None:
    """By a loss that only rises, the first epochs of each round would be best."""
    seen: list[tuple[int, str]] = []

    class Rising(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("rising", float(trainer.current_epoch))

    class Look(pl.callbacks.Checkpoint):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append((trainer.current_epoch, Path(best.best_model_path).name))

    best = ModelCheckpoint(dirpath=tmp_path, monitor="rising", filename="{epoch}")
    with log_messages() as said:
        job = Job(densities=(0.5,), round_epochs=5, callback={"epoch": "best"}).run(Rising(), best, Look())
    assert job.pruned == [0, 60]
    candidates = [line.partition(" is its candidate")[0] for line in said if "is its candidate" in line]
    assert candidates == ["round 0: epoch 1 of 2", "round 1: epoch 3 of 5"]
    # The round is epochs 2 to 6; .6 of it is over after epoch 4, the first whose network is the candidate.
    assert seen[2:6] == [
        (2, "epoch=2.ckpt"),
        (3, "epoch=2.ckpt"),
        (4, "epoch=4.ckpt"),
        (5, "epoch=4.ckpt"),
    ]
    assert Path(best.best_model_path).name == "accepted-round=01.ckpt"


def test_averaged_weights_are_cut_too() -> None:
    job = Job(densities=(0.5,), optimizer="sgd").run(EMAWeightAveraging(decay=0.9))
    assert job.pruned == [0, 60]
    for name, mask in job.callback.masks.items():
        assert not job.module.state_dict()[name][~mask].any()
        assert job.module.state_dict()[name][mask].all()


def test_the_guard_may_judge_once_with_an_offset(tmp_path: Path) -> None:
    options = {"confidence": 0.9, "judging": "end", "max_fp_rise": 1.0, "offset": "validation"}
    job = Job(callback=options).run(
        default_root_dir=tmp_path, val=DataLoader(dataset(200, 2), batch_size=100)
    )
    assert verdicts(job.callback) == ["baseline", "accepted", "accepted"]
    assert job.callback.sparsity == 0.8
    passes = [row["validation_passes"] for row in job.callback.ledger]
    assert passes == [2, 1, 1], "half of two epochs is before the last cut, so only their end is looked at"


class Looks:
    """By size, and tells by which seeds samples were to be drawn."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def prepare(self, scoring: Scoring) -> None:
        self.seeds.append(scoring.seed)

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs()


def test_every_cut_looks_at_other_samples() -> None:
    """Of six steps the first four have a cut: .6 of them is 3.6. What is rehearsed before training draws by seed 0."""
    criterion = Looks()
    Job(densities=(0.5,), round_epochs=1, callback={"criterion": criterion}).run()
    assert criterion.seeds == [0, 2, 3, 4, 5]


def test_channels_shrink_too() -> None:
    pytest.importorskip("torch_pruning")
    options = {"granularity": "channel", "target_sparsity": 0.5}
    job = Job(densities=(0.5,), callback=options)
    job.module.example_input_array = torch.zeros(2, 8)
    job.run()
    assert job.callback.ledger[-1]["sparsity"] == 0.5
    assert job.trace.rounds[1] == sorted(job.trace.rounds[1])
    assert 0 < job.trace.rounds[1][5] < 0.5


# --- resuming ---


def test_resumed_from_any_checkpoint_also_while_the_mask_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round is accepted, the second refused, so that the third shrinks from the mask before."""
    monkeypatch.setattr(shrinking, "FEWEST_CUTS", 2)  # after steps 5, 10 and 11 of 18, and an epoch has 6
    options: dict[str, Any] = {"round_epochs": 3, "on_refusal": "retry", "retries": 1, "max_rounds": 3}
    options["callback"] = {"criterion": "lamp_gradient"}  # whose state is of the middle, too
    keep = Keep(tmp_path, "epoch end")
    whole = Job(2, **options).run(keep)
    assert verdicts(whole.callback) == ["baseline", "accepted", "refused", "accepted"]
    assert len(keep.files) == 11
    unfinished = 0
    for path in keep.files[1:]:
        saved = torch.load(path, weights_only=True)
        inside = saved["callbacks"]["ClassAwarePruningCallback"]["gradual"]["shrinking"] is not None
        unfinished += inside
        if not inside and saved["epoch"] != 4:
            continue  # one that is pending; test_resume has many
        resumed = Job(2, seed=99, **options).run(ckpt_path=path, seed=123)
        assert resumed.watch.losses == whole.watch.losses[saved["global_step"] :]
        assert_same(resumed.result(), whole.result())
    assert unfinished == 3, "the first epoch of each round"
