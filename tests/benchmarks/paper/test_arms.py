"""benchmarks/arms.py, the images' size and the scores' precision: by hand, and in real fits on a tiny archive."""

from __future__ import annotations

import math
from operator import attrgetter

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from benchmarks.paper.arms import DenseTeacher, DistilledLoss, DualAscent, DualWeightLoss, SoftTargetLoss
from benchmarks.paper.data import ThinnedNpz, shrunk
from benchmarks.paper.job import CONF
from benchmarks.paper.rounds import RoundScores
from lightning_classprune import Gradual
from lightning_classprune.losses import ClassDependentLoss, log_odds
from tests.benchmarks.paper.tiny import fit

# -- the images' size --


def test_a_shrunk_pixel_is_the_mean_of_its_area():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    # (0 + 1 + 4 + 5) / 4 = 2.5, halves to even.
    assert shrunk(image, 2).tolist() == [[[[2, 4], [10, 12]]]]
    assert shrunk(image, 4).equal(image)


@pytest.mark.parametrize("size", [0, 5])
def test_a_size_that_the_images_do_not_have_is_an_error(size):
    with pytest.raises(ValueError, match=rf"size={size}: must be from 1 to 4"):
        shrunk(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), size)


def test_every_part_has_the_size_and_the_same_samples(archive):
    full = ThinnedNpz(root=str(archive), name="tiny", flip=False)
    small = ThinnedNpz(root=str(archive), name="tiny", flip=False, size=16, train_counts=[10, 5])
    full.setup()
    small.setup()
    assert (small.image_size, small.in_features, small.class_counts) == ((16, 16), 768, [10, 5])
    for part in ("val", "guard", "test"):
        whole, shrunk = full.splits.parts[part], small.splits.parts[part]
        assert shrunk.y.equal(whole.y)
        # Equal up to the rounding to bytes.
        mean = whole.x.float().unflatten(-1, (16, 2)).unflatten(-3, (16, 2)).mean((-1, -3))
        assert (shrunk.x.float() - mean).abs().max() <= 0.5


# -- precision of the scores --


class Linear(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))

    def forward(self, x):
        return self.network(x)


def test_scores_are_in_full_precision_inside_autocast(archive):
    data = ThinnedNpz(root=str(archive), name="tiny")
    data.setup()
    module = Linear()
    scores = RoundScores(data, ["test"], 1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with torch.autocast("cpu", torch.bfloat16):
        scores.record(trainer, module)
        assert module(torch.zeros(1, 3, 32, 32)).dtype == torch.bfloat16
    (x, _), *_ = data.test_dataloader()
    with torch.no_grad():
        assert scores.arrays()["test_score"][0] == pytest.approx(log_odds(module(x), 1).numpy(), abs=0)


# -- the loss with a teacher --


def test_distilled_loss_by_hand():
    scores = torch.tensor([[0.0, 2.0], [0.0, 0.0]], requires_grad=True)
    target = torch.tensor([1, 0])
    settings = {"class_counts": [3, 1], "protect": [1], "rank_weight": 5.0}
    loss, plain = DistilledLoss(distill=0.5, **settings), ClassDependentLoss(**settings)
    assert loss(scores, target) == plain(scores, target)
    loss.teacher = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    term = loss(scores, target) - plain(scores, target)
    assert term.item() == pytest.approx(0.5 * ((2 - 1) ** 2 + (0 - 3) ** 2) / 2)
    (gradient,) = torch.autograd.grad(term, scores)
    # d/ds of 0.5 * mean((s - t)^2) is 0.5 * (s - t) for two samples: down to the teacher's, and up.
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 0.5, 1.5, -1.5])


def test_soft_targets_by_hand():
    loss, scores, target = SoftTargetLoss(2.0), torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([1])
    plain = math.log(10 / 9)  # probabilities 1/10 and 9/10
    assert loss(scores, target).item() == pytest.approx(plain)
    loss.teacher = torch.zeros(1, 2)
    # At temperature 2: ours 1/4 and 3/4, the teacher's 1/2 each.
    divergence = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert loss(scores, target).item() == pytest.approx((plain + 4 * divergence) / 2)


def test_soft_targets_beside_the_papers_loss():
    settings = {"class_counts": [3, 1], "protect": [1], "rank_weight": 5.0}
    loss, plain = SoftTargetLoss(2.0, **settings), ClassDependentLoss(**settings)
    scores, target = torch.tensor([[0.0, 2 * math.log(3)], [1.0, 0.0]]), torch.tensor([1, 0])
    assert loss(scores, target) == plain(scores, target)
    loss.teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0]])  # of the second it says the same
    divergence = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert loss(scores, target).item() == pytest.approx((plain(scores, target).item() + 4 * divergence) / 2)


def test_the_dual_weight_counts_training_samples_alone_and_weighs_the_class():
    loss = DualWeightLoss([1])
    scores, target = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]), torch.tensor([1, 1, 0])
    assert loss(scores, target) == nn.functional.cross_entropy(scores, target)
    loss.eval()
    loss.multiplier = 2.0
    weighted = nn.functional.cross_entropy(scores, target, torch.tensor([1.0, 3.0]))
    assert loss(scores, target) == weighted
    assert (loss.found, loss.seen) == (1, 2)


# -- in a fit --


def test_dual_ascent_moves_by_the_shortfall_after_the_dense_round(archive):
    class Spy(Checkpoint):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []
            self.recall = 0.0

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.recall = pl_module.loss.found / pl_module.loss.seen

        def on_train_epoch_end(self, trainer, pl_module):
            ascent = next(c for c in trainer.callbacks if isinstance(c, DualAscent))
            assert pl_module.loss.seen == 0
            assert self.seen or ascent.target == self.recall  # what the dense network found
            ascent.target = 2.0  # so that something is lacking ever after
            self.seen.append((self.recall, pl_module.loss.multiplier))

    spy = Spy()
    fit(archive, "gradual_dual", spy)
    (_, first), *rounds = spy.seen
    assert first == 0
    assert len(rounds) == 4
    expected = 0.0
    for recall, multiplier in rounds:
        expected += 5.0 * (2.0 - recall)
        assert multiplier == expected


def test_the_teacher_is_the_dense_network_in_eval_mode_and_speaks_after_its_round(archive):
    class Spy(Checkpoint):
        def __init__(self) -> None:
            self.dense: dict[str, torch.Tensor] = {}
            self.spoken: list[bool] = []

        def on_train_epoch_end(self, trainer, pl_module):
            if not self.dense:
                self.dense = {k: v.clone() for k, v in pl_module.network.state_dict().items()}

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.spoken.append(pl_module.loss.teacher is not None)

    spy = Spy()
    module, trainer = fit(archive, "recipe_distilled", spy)
    steps = len(trainer.datamodule.train_dataloader())
    assert spy.spoken == [False] * steps + [True] * 2 * steps
    assert module.loss.teacher is None
    teacher = next(c for c in trainer.callbacks if isinstance(c, DenseTeacher))
    assert not any(part.training for part in teacher.dense.modules())
    for name, value in teacher.dense.state_dict().items():
        assert value.equal(spy.dense[name]), name
    x, y = next(iter(trainer.datamodule.test_dataloader()))
    teacher.on_train_batch_start(trainer, module, (x, y), 0)
    assert module.loss.teacher.equal(teacher.dense(x))
    assert not module.loss.teacher.requires_grad


# -- every arm --

EXPECTED = {
    "one_shot": ("search.fraction", 0.9921875),
    "recipe_lr": ("search.rewind", "lr"),
    "blind_lr": ("search.rewind", "lr"),
    "weighted_lr": ("search.rewind", "lr"),
    "searched": ("search.rewind", "lr"),
    "recipe_epoch1": ("search.rewind", "epoch:1"),
    "magnitude_increase": ("cut.criterion", "magnitude_increase"),
    "layer": ("cut.scope", "layer"),
}


@pytest.mark.parametrize("arm", sorted(file.stem for file in (CONF / "arm").glob("*.yaml")))
def test_every_arm_makes_its_callbacks_and_its_loss_with_the_guard_off(arm):
    counts = "{class_counts: [10, 5], protected: [1], num_classes: 2, class_names: [a, mel]}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("paper", [f"arm={arm}", f"facts={counts}", "data.root=.", "run_dir=."])
    made = {name: instantiate(one) for name, one in cfg.callbacks.items() if one}
    instantiate(cfg.loss)
    if arm == "lightning_model_pruning":
        assert list(made) == ["model_pruning"]
        return
    settings = made["classprune"].settings
    assert settings.guard.confidence is None
    assert settings.files.ladder is None
    if arm.startswith("gradual"):
        assert settings.search == Gradual(densities=(1 / 256,), round_epochs=20)
        assert settings.cut.criterion == ("class_lamp_gradient" if "class" in arm else "lamp_gradient")
        return
    assert settings.search.max_rounds == 8
    where, value = EXPECTED.get(arm, ("search.fraction", 0.5))
    assert attrgetter(where)(settings) == value
