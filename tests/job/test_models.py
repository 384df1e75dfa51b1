"""The networks, and the Classifier under real Trainers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.job.classifier import Classifier, decide, open_horizon
from lightning_classprune.job.models import (
    conv_net,
    mlp,
    paper_alexnet,
    replace_head,
    replace_stem,
    torchvision_model,
)
from lightning_classprune.losses import ClassDependentLoss


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- networks


def test_mlp_has_the_layers_asked_for() -> None:
    model = mlp(12, num_classes=3, hidden=(8, 5))
    assert [tuple(p.shape) for p in model.parameters()] == [(8, 12), (8,), (5, 8), (5,), (3, 5), (3,)]
    assert model(torch.randn(4, 3, 2, 2)).shape == (4, 3)
    assert count(mlp(12, num_classes=1, hidden=())) == 13


def test_conv_net_size_by_hand() -> None:
    convolutions = 9 * (1 * 16 + 16 * 48 + 48 * 96 + 96 * 128)
    norms = 2 * (16 + 48 + 96 + 128)
    assert convolutions + 128 * 2 == 159_376
    assert count(conv_net()) == 159_376 + norms + 2


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (64, 64), (65, 97)])
def test_conv_net_takes_any_size(size: tuple[int, int]) -> None:
    assert conv_net(3, num_classes=5, width=4)(torch.randn(2, 3, *size)).shape == (2, 5)


def test_conv_net_is_fast_enough_for_a_cpu() -> None:
    # A loose bound for shared machines: 8 epochs of 1,312 such images are 328 steps and about 6 s of one core.
    model, x, y = conv_net(), torch.randn(32, 1, 64, 64), torch.arange(32) % 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        F.cross_entropy(model(x), y).backward()
        start = time.process_time()
        for _ in range(10):
            F.cross_entropy(model(x), y).backward()
        assert (time.process_time() - start) / 10 * 328 < 30
    finally:
        torch.set_num_threads(threads)


def test_paper_alexnet_has_the_papers_number_of_parameters() -> None:
    model = paper_alexnet()
    assert count(model) == 2_471_842
    assert [p.shape[0] for p in model.parameters() if p.ndim == 4] == [64, 192, 384, 256, 256]
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [(8, 256), (8, 8), (2, 8)]
    for size in (63, 64, 224):
        assert model(torch.randn(2, 3, size, size)).shape == (2, 2)


def test_paper_alexnet_takes_grey_images() -> None:
    assert paper_alexnet(num_classes=1, in_channels=1)(torch.randn(2, 1, 64, 64)).shape == (2, 1)


FAMILIES = {
    "alexnet": 224,
    "convnext_tiny": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "efficientnet_v2_s": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 224,
    "squeezenet1_1": 224,
    "swin_t": 224,
    "swin_v2_t": 224,
    "vgg11_bn": 224,
    "vit_b_16": 224,
}


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_torchvision_family_is_fitted_at_both_ends(name: str) -> None:
    with torch.device("meta"):
        model = torchvision_model(name, num_classes=7, in_channels=1)
        replace_head(model, 5)  # what pretrained weights need; they cannot be downloaded here
        logits = model.train()(torch.empty(2, 1, FAMILIES[name], FAMILIES[name]))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 5)


def test_regnet_is_fitted_too() -> None:
    model = torchvision_model("regnet_x_400mf", num_classes=7, in_channels=2)
    replace_head(model, 5)
    assert model(torch.randn(2, 2, 64, 64)).shape == (2, 5)


@pytest.fixture
def resnet_weights(tmp_path: Path) -> Iterator[dict[str, Tensor]]:
    """Stand-in weights where torchvision would have stored its download."""
    hub = torch.hub.get_dir()
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    torch.manual_seed(5)
    state = torchvision.models.resnet18().state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    torch.hub.set_dir(str(tmp_path))
    yield state
    torch.hub.set_dir(hub)


def test_pretrained_weights_stay_and_only_the_head_is_new(resnet_weights: dict[str, Tensor]) -> None:
    state = torchvision_model("resnet18", num_classes=3, weights="DEFAULT").state_dict()
    assert {name for name in state if not torch.equal(state[name], resnet_weights[name])} == {
        "fc.weight",
        "fc.bias",
    }
    assert state["fc.weight"].shape == (3, 512)


def test_pretrained_grey_model_sees_a_grey_image_as_before(resnet_weights: dict[str, Tensor]) -> None:
    grey = torchvision_model("resnet18", in_channels=1, weights="IMAGENET1K_V1").eval()
    colour = torchvision_model("resnet18", weights="IMAGENET1K_V1").eval()
    colour.fc = grey.fc
    image = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


def test_replaced_stem_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, kernel_size=1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1))
        model[0].bias.fill_(0.5)
    replace_stem(model, 2, keep_filters=True)
    assert model[0].weight.flatten().tolist() == [4.5, 4.5]  # mean 3, times 3/2
    assert model[0].bias.tolist() == [0.5]
    replace_stem(model, 4, keep_filters=False)
    assert model[0].weight.shape == (1, 4, 1, 1)
    assert len(set(model[0].weight.flatten().tolist())) == 4


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ValueError, match=r"name='resnet_18' .*did you mean.*'resnet18'"):
        torchvision_model("resnet_18")
    with pytest.raises(ValueError, match="not a classification model"):
        torchvision_model("fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp(0), "in_features=0 must be at least 1"),
        (lambda: mlp(3, hidden=(4, 0)), "hidden=0"),
        (lambda: mlp(3, num_classes=0), "num_classes=0"),
        (lambda: mlp(3, dropout=1.0), r"dropout=1.0 must lie in \[0, 1\)"),
        (lambda: conv_net(width=0), "width=0"),
        (lambda: conv_net(in_channels=0), "in_channels=0"),
        (lambda: paper_alexnet(dropout=-0.1), "dropout=-0.1"),
        (lambda: torchvision_model("resnet18", num_classes=0), "num_classes=0"),
        (lambda: torchvision_model("resnet18", in_channels=0), "in_channels=0"),
        (lambda: replace_head(nn.Sequential(nn.ReLU()), 2), "no named Linear or Conv2d"),
        (lambda: replace_stem(mlp(3), 2, keep_filters=False), "no plain Conv2d"),
    ],
)
def test_bad_sizes(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# --- Classifier


def blobs(n: int = 50) -> TensorDataset:
    """Two well-separated clouds in four dimensions, a fifth of them of class 1."""
    generator = torch.Generator().manual_seed(1)
    y = (torch.arange(n) % 5 == 0).long()
    return TensorDataset(torch.randn(n, 4, generator=generator) + 5 * y[:, None], y)


def trainer(path: Path, **kwargs: Any) -> Trainer:
    options: dict[str, Any] = {"max_epochs": 3} | kwargs
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path,
        **options,
    )


def classifier(num_outputs: int = 2, lr: float = 0.1, **kwargs: Any) -> Classifier:
    torch.manual_seed(0)
    options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "optimizer": partial(SGD, lr=lr)} | kwargs
    return Classifier(mlp(4, num_outputs, hidden=(6,)), num_classes=2, **options)


def loaders() -> dict[str, DataLoader[Any]]:
    # 50 samples in batches of 16: the last one has 2, so a mean over batches is not the mean over samples.
    return {
        "train_dataloaders": DataLoader(blobs(), batch_size=16, shuffle=True),
        "val_dataloaders": DataLoader(blobs(), batch_size=16),
    }


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
class TestClassifier:
    @pytest.mark.parametrize("num_outputs", [1, 2])
    def test_learns_with_one_or_two_logits(self, tmp_path: Path, num_outputs: int) -> None:
        loss = ClassDependentLoss([40, 10], protect={1: 0.05})
        model = classifier(num_outputs, loss=loss, optimizer=partial(AdamW, lr=0.05))
        fit = trainer(tmp_path, max_epochs=20)
        fit.fit(model, **loaders())
        assert {"train_loss", "val_loss", "val_accuracy"} <= set(fit.callback_metrics)
        assert fit.callback_metrics["val_accuracy"] > 0.95

    def test_logged_values_are_means_over_samples(self, tmp_path: Path) -> None:
        model = classifier()
        x, y = blobs().tensors
        logits = model.eval()(x)
        expected_loss = F.cross_entropy(logits, y).item()
        expected_accuracy = (logits.argmax(1) == y).double().mean().item()
        assert 0 < expected_accuracy < 1
        loader = DataLoader(blobs(), batch_size=16)
        run = trainer(tmp_path)
        for stage, evaluate in (("val", run.validate), ("test", run.test)):
            (metrics,) = evaluate(model, loader, verbose=False)
            assert metrics == pytest.approx(
                {f"{stage}_loss": expected_loss, f"{stage}_accuracy": expected_accuracy}, rel=1e-5
            )

    def test_checkpoint_holds_the_network_alone_and_loads_safely(self, tmp_path: Path) -> None:
        model = classifier(loss=ClassDependentLoss([40, 10], protect=[1]))
        fit = trainer(tmp_path, max_epochs=1)
        fit.fit(model, **loaders())
        fit.save_checkpoint(tmp_path / "last.ckpt")
        state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        network = mlp(4, 2, hidden=(6,))
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
        x, _ = blobs().tensors
        assert torch.equal(network(x), model.eval()(x))

    @pytest.mark.parametrize(
        ("scheduler", "interval", "expected"),
        [
            # 4 batches an epoch in groups of 2, for 3 epochs: 6 optimizer steps.
            (partial(OneCycleLR, max_lr=1.0), "step", {"total_steps": 6}),
            (partial(OneCycleLR, max_lr=1.0), "epoch", {"total_steps": 3}),
            (partial(OneCycleLR, max_lr=1.0, total_steps=50), "step", {"total_steps": 50}),
            (partial(OneCycleLR, max_lr=1.0, epochs=4, steps_per_epoch=5), "step", {"total_steps": 20}),
            (CosineAnnealingLR, "epoch", {"T_max": 3}),
            (partial(CosineAnnealingLR, eta_min=0.01), "step", {"T_max": 6}),
            (partial(CosineAnnealingLR, T_max=50), "epoch", {"T_max": 50}),
            (partial(StepLR, step_size=1), "epoch", {"step_size": 1}),
        ],
    )
    def test_schedules_get_their_length_and_step_that_often(
        self, tmp_path: Path, scheduler: Any, interval: Any, expected: dict[str, int]
    ) -> None:
        fit = trainer(tmp_path, accumulate_grad_batches=2)
        fit.fit(classifier(scheduler=scheduler, scheduler_interval=interval), **loaders())
        built = fit.lr_scheduler_configs[0].scheduler
        assert {name: getattr(built, name) for name in expected} == expected
        assert built.last_epoch == {"step": 6, "epoch": 3}[interval]

    def test_cosine_over_steps_ends_at_its_minimum(self, tmp_path: Path) -> None:
        fit = trainer(tmp_path)
        fit.fit(
            classifier(scheduler=partial(CosineAnnealingLR, eta_min=0.01), scheduler_interval="step"),
            **loaders(),
        )
        assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("monitor", "mode", "halvings"),
        [("val_loss", "min", 0), ("val_loss", "max", 3), ("train_loss", "max", 3)],
    )
    def test_plateau_watches_its_monitor(
        self, tmp_path: Path, monitor: str, mode: Any, halvings: int
    ) -> None:
        # Both losses fall in all four epochs, which is no progress for mode "max" from the second one on.
        plateau = partial(ReduceLROnPlateau, mode=mode, factor=0.5, patience=0)
        fit = trainer(tmp_path, max_epochs=4)
        fit.fit(classifier(scheduler=plateau, monitor=monitor), **loaders())
        assert fit.lr_scheduler_configs[0].monitor == monitor
        assert fit.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**halvings

    def test_a_fit_without_end_cannot_give_a_length(self, tmp_path: Path) -> None:
        model = classifier(scheduler=CosineAnnealingLR)
        with pytest.raises(ValueError, match=r"T_max is open, but the trainer's max_epochs=-1"):
            trainer(tmp_path, max_epochs=-1, max_steps=5).fit(model, **loaders())


def test_no_scheduler_and_no_horizon() -> None:
    assert set(classifier().configure_optimizers()) == {"optimizer"}
    assert open_horizon(lambda optimizer: StepLR(optimizer, 1)) is None


def test_one_logit_is_decided_at_zero() -> None:
    assert decide(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [0, 0, 1]
    assert decide(torch.tensor([[-0.1], [0.2]])).tolist() == [0, 1]
    assert decide(torch.tensor([[0.3, 0.1, 0.2], [0.0, 0.1, 5.0]])).tolist() == [0, 2]


def test_bad_classifier_arguments() -> None:
    with pytest.raises(ValueError, match="scheduler_interval='batch' must be 'epoch' or 'step'"):
        classifier(scheduler_interval="batch")
    with pytest.raises(ValueError, match="num_classes=1 must be at least 2"):
        Classifier(mlp(4, 1), nn.BCEWithLogitsLoss(), num_classes=1, optimizer=partial(SGD, lr=0.1))
