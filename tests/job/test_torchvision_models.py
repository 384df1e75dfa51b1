"""Torchvision's models, fitted at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_classprune.job.torchvision_models import replace_head, replace_stem, torchvision_model

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
        (lambda: torchvision_model("resnet18", num_classes=0), "num_classes=0"),
        (lambda: torchvision_model("resnet18", in_channels=0), "in_channels=0"),
        (lambda: replace_head(nn.Sequential(nn.ReLU()), 2), "no named Linear or Conv2d"),
        (lambda: replace_stem(nn.Sequential(nn.Linear(3, 2)), 2, keep_filters=False), "no plain Conv2d"),
    ],
)
def test_bad_arguments(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
