"""benchmarks/paper_arms.py, the images' size and the scores' precision: by hand, and in real fits on a tiny archive."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint
from omegaconf import open_dict
from torch import nn

from tests.support import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import paper  # noqa: E402, F401  (its resolvers)
import paper_arms  # noqa: E402
import paper_data  # noqa: E402
import paper_rounds  # noqa: E402

from lightning_classprune.job.app import build_module, facts  # noqa: E402
from lightning_classprune.losses import ClassDependentLoss, log_odds  # noqa: E402

# -- the images' size --


def test_a_shrunk_pixel_is_the_mean_of_its_area():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    # (0 + 1 + 4 + 5) / 4 = 2.5, halves to even.
    assert paper_data.shrunk(image, 2).tolist() == [[[[2, 4], [10, 12]]]]
    assert paper_data.shrunk(image, 4).equal(image)


@pytest.mark.parametrize("size", [0, 5])
def test_a_size_that_the_images_do_not_have_is_an_error(size):
    with pytest.raises(ValueError, match=rf"size={size}: must be from 1 to 4"):
        paper_data.shrunk(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), size)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.integers(120, size=(160, 32, 32, 3)) + 100 * y[:, None, None, None]
    np.savez(
        tmp_path / "tiny.npz",
        x=x.astype(np.uint8),
        y=y,
        classes=np.array(["ok", "bad"]),
        split=(np.arange(160) < 40).astype(np.int64),
        split_names=np.array(["train", "test"]),
    )
    return tmp_path


def test_every_part_has_the_size_and_the_same_samples(archive):
    full = paper_data.ThinnedNpz(root=str(archive), name="tiny", flip=False)
    small = paper_data.ThinnedNpz(root=str(archive), name="tiny", flip=False, size=16, train_counts=[10, 5])
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
    data = paper_data.ThinnedNpz(root=str(archive), name="tiny")
    data.setup()
    module = Linear()
    scores = paper_rounds.RoundScores(data, ["test"], 1)
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
    loss, plain = paper_arms.DistilledLoss(distill=0.5, **settings), ClassDependentLoss(**settings)
    assert loss(scores, target) == plain(scores, target)
    loss.teacher = torch.tensor([1.0, 3.0])
    term = loss(scores, target) - plain(scores, target)
    assert term.item() == pytest.approx(0.5 * ((2 - 1) ** 2 + (0 - 3) ** 2) / 2)
    (gradient,) = torch.autograd.grad(term, scores)
    # d/ds of 0.5 * mean((s - t)^2) is 0.5 * (s - t) for two samples: down to the teacher's, and up.
    assert gradient.flatten().tolist() == pytest.approx([-0.5, 0.5, 1.5, -1.5])


# -- the criterion --


def test_mean_gradients_by_hand():
    network = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(network.weight)
    batches = iter([torch.tensor([[2.0]]), torch.tensor([[-4.0]])])
    # At log-odds 0 the slope of softplus(-z) is -1/2, and dz/dw is -x and x: |gradients| 1 and 2 in both rows.
    (found,) = paper_arms.mean_gradients(network, [network.weight], batches, 1)
    assert found.flatten().tolist() == [1.5, 1.5]


def test_saliency_is_magnitude_before_the_dense_round_is_over_and_knows_its_weights_after():
    criterion, weight = paper_arms.ProtectedSaliency(), torch.tensor([-2.0, 3.0])
    assert criterion(weight, weight).tolist() == [2, 3]
    criterion.gradients = {weight.data_ptr(): torch.tensor([0.5, 0.1])}
    assert criterion(weight, weight).tolist() == pytest.approx([1, 0.3])
    with pytest.raises(KeyError):
        criterion(weight.clone(), weight)


# -- in a fit --


def fit(archive: Path, arm: str, spy: Callback) -> tuple[LightningModule, Trainer]:
    with initialize_config_dir(str(BENCHMARKS / "conf"), version_base="1.3"):
        cfg = compose(
            "paper",
            overrides=[
                "data.name=tiny", "data.one_vs_rest=null", "~protect.mel", "+protect.bad=1.0", "model.width=4",
                "trainer.accelerator=cpu", "epochs=1", "densities=3", f"arm={arm}",
                f"data.root={archive}", f"run_dir={archive}",
            ],
        )  # fmt: skip
    seed_everything(1, verbose=False)
    data = instantiate(cfg.data)
    data.setup("fit")
    with open_dict(cfg):
        cfg.facts = facts(data, cfg.protect)
    module = build_module(cfg)
    trainer = instantiate(cfg.trainer, callbacks=[*(instantiate(c) for c in cfg.callbacks.values()), spy])
    trainer.fit(module, datamodule=data)
    return module, trainer


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
    teacher = next(c for c in trainer.callbacks if isinstance(c, paper_arms.DenseTeacher))
    assert not any(part.training for part in teacher.dense.modules())
    for name, value in teacher.dense.state_dict().items():
        assert value.equal(spy.dense[name]), name
    x, y = next(iter(trainer.datamodule.test_dataloader()))
    teacher.on_train_batch_start(trainer, module, (x, y), 0)
    assert module.loss.teacher.equal(log_odds(teacher.dense(x), 1))
    assert not module.loss.teacher.requires_grad


def test_the_gradient_arm_keeps_the_weights_of_largest_saliency_and_repeats_itself(archive):
    class Spy(Checkpoint):
        def __init__(self) -> None:
            self.scores: list[torch.Tensor] = []

        def on_train_epoch_end(self, trainer, pl_module):
            gradients = paper_arms.pruning_of(trainer).settings.criterion.gradients
            parts = [(p.abs() * gradients[p.data_ptr()]).detach().flatten() for p in prunable(pl_module)]
            self.scores.append(torch.cat(parts))

    def prunable(module: LightningModule) -> list[nn.Parameter]:
        return [p for p in module.network.parameters() if p.ndim > 1]

    kept = []
    for _ in range(2):
        spy = Spy()
        module, trainer = fit(archive, "recipe_gradient", spy)
        masks = paper_arms.pruning_of(trainer).masks
        flat = torch.cat(
            [masks[f"network.{n}"].flatten() for n, p in module.network.named_parameters() if p.ndim > 1]
        )
        before = spy.scores[1]  # at the end of round 1, by which the last mask was chosen
        assert before[flat].min() > 0
        assert before[flat].min() >= before[~flat].max()
        assert len(spy.scores) == 3
        kept.append(flat)
    assert kept[0].equal(kept[1])
