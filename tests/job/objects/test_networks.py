"""Networks that find objects: what they learn from, what is read from their scores, and sizes of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.export.onnx_export import export_onnx
from lightning_classprune.job.objects import unet as unet_module
from lightning_classprune.job.objects.centre_detector import bumps, centre_detector, heat_maps
from lightning_classprune.job.objects.finder import ObjectNetwork
from lightning_classprune.job.objects.instance_network import InstanceNetwork, deeplab, parts_of, unet
from lightning_classprune.job.objects.torchvision_detector import torchvision_detector
from lightning_classprune.job.objects.torchvision_masks import torchvision_masks
from lightning_classprune.job.objects.unet import UNet
from tests.support.older import needs_onnx_exporter

BOXES = {
    "boxes": torch.tensor([[3.0, 4.0, 13.0, 10.0], [20.0, 5.0, 26.0, 15.0]]),
    "labels": torch.tensor([1, 2]),
}
NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def numbers() -> Tensor:
    """Two objects that touch, numbered 3 and 7."""
    made = torch.zeros(32, 35, dtype=torch.int32)
    made[2:10, 2:8], made[2:10, 8:16] = 3, 7
    return made


def test_sizes_are_as_they_are_said_to_be() -> None:
    def weights(network: nn.Module) -> int:
        return sum(one.numel() for one in network.parameters())

    assert 450_000 < weights(unet()) < 550_000
    assert 270_000 < weights(centre_detector(num_classes=4)) < 330_000


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 35)])
def test_scores_are_of_the_size_of_the_picture(size: tuple[int, int]) -> None:
    assert UNet(1, 3, width=3)(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_brightness_and_contrast_of_a_picture_say_nothing() -> None:
    network = UNet(1, 2, width=3).eval()
    x = torch.randn(1, 1, 32, 32)
    assert torch.allclose(network(x), network(5 * x - 3), atol=1e-2)
    assert torch.isfinite(network(torch.zeros(1, 1, 32, 32))).all()


@needs_onnx_exporter
def test_bright_pictures_of_little_contrast_have_the_same_scores_in_onnx_runtime(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)

    class First(nn.Module):
        """What a U-Net does first: a whole one takes far longer to export, and fails alike."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(unet_module._standardised(x))
            return scores

    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(192.0), torch.arange(192.0), indexing="ij")
    waves = 2 * (rows / 30).sin() * (columns / 40).cos()
    pictures = (248 + waves + 2 * torch.rand(2, 3, 192, 192)).to(torch.uint8)
    # Raises where scores differ by more than it allows: by some sixty times as much with one sum over a whole picture.
    report = export_onnx(First(), tmp_path / "first.onnx", pictures, normalization=(0.5, 0.25))
    assert report.max_difference < report.tolerance / 4


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pictures of 32 x 20 pixels are too small .* 32 x 32"):
        UNet(1, 2, width=3)(torch.zeros(1, 1, 32, 20))


def test_pixels_are_inside_border_or_background() -> None:
    made = parts_of(numbers(), torch.tensor([1, 2]), 9)
    assert made[3:9, 3:7].unique().tolist() == [1]
    assert made[3:9, 9:15].unique().tolist() == [2]
    assert made[2:10, 7:9].unique().tolist() == [9]  # where they touch
    assert (made == 0).equal(numbers() == 0)
    assert parts_of(torch.zeros(4, 4), torch.zeros(0), 9).unique().tolist() == [0]
    # An object that fills the picture has no border, and no background is needed.
    assert parts_of(torch.ones(4, 4), torch.tensor([2]), 9).unique().tolist() == [2]


def test_objects_are_read_back_from_perfect_scores() -> None:
    target = numbers()
    wanted = parts_of(target, torch.tensor([1, 2]), 3)
    scores = 20 * nn.functional.one_hot(wanted, 4).permute(2, 0, 1)[None].float()
    found = InstanceNetwork(nn.Identity()).read(scores)[0]
    assert found["labels"].tolist() == [1, 2]
    assert found["scores"].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert (found["map"] > 0).equal(target > 0)
    for number, mask in ((1, target == 3), (2, target == 7)):
        mine = found["map"] == number
        assert int((mine & mask).sum()) / int((mine | mask).sum()) > 0.8


def test_scores_that_are_no_numbers_are_no_picture_without_objects() -> None:
    for network in (unet(1, 2, width=3), centre_detector(1, 2, width=3)):
        found = network.read(torch.full((1, 3, 32, 32), torch.nan))[0]
        assert torch.isnan(found["scores"]).any()


def test_boxes_are_read_back_from_perfect_scores() -> None:
    like = torch.zeros(2, 8, 9)  # of 32 x 35 pixels
    each = bumps(BOXES["boxes"], like.shape[1:])
    heat = heat_maps(each, BOXES["labels"], like)
    assert heat[0, 1, 2] == heat[1, 2, 5] == 1  # centres at (8, 7) and (23, 10)
    assert int((heat == 1).sum()) == 2
    wanted = (BOXES["boxes"][:, 2:] - BOXES["boxes"][:, :2]).log().T / 3
    scores = torch.cat([torch.logit(heat.clamp(0.001, 0.999)), wanted[:, each.argmax(0)]])
    found = centre_detector(1, 3, width=3).read(scores[None])[0]
    best = found["scores"] > 0.9
    assert found["labels"][best].tolist() == [1, 2]
    sizes = found["boxes"][best, 2:] - found["boxes"][best, :2]
    assert torch.allclose(sizes, BOXES["boxes"][:, 2:] - BOXES["boxes"][:, :2], atol=1e-3)
    assert torch.allclose(
        found["boxes"][best], BOXES["boxes"], atol=3.0
    )  # half a place of 4 pixels, and a bit


def test_a_peak_is_read_between_places() -> None:
    network = centre_detector(1, 2, width=3)
    logits = torch.full((1, 8, 8), -9.0)
    logits[0, 3, 4], logits[0, 3, 5] = 2.0, 1.99  # as high: the centre lies between the two
    box = network.read(torch.cat([logits, torch.ones(2, 8, 8)])[None])[0]["boxes"][0]
    assert ((box[:2] + box[2:]) / 2).tolist() == pytest.approx([20.0, 14.0], abs=0.1)


def test_a_coarse_network_scores_four_by_four_pixels() -> None:
    assert UNet(1, 3, width=3, coarse=True)(torch.randn(2, 1, 33, 47)).shape == (2, 3, 8, 12)


def masks() -> list[dict[str, Tensor]]:
    empty = {"map": torch.zeros(32, 35, dtype=torch.int32), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"map": numbers(), "labels": torch.tensor([1, 2])}, empty]


@pytest.mark.parametrize(
    "network",
    [
        unet(1, 3, width=3),
        centre_detector(1, 3, width=3),
        torchvision_detector("fasterrcnn_mobilenet_v3_large_320_fpn", 1, 3, min_size=32),
        deeplab("deeplabv3_mobilenet_v3_large", 1, 3),
    ],
    ids=["unet", "centre_detector", "faster_rcnn", "deeplab"],
)
def test_every_network_learns_from_full_and_empty_pictures_and_is_read(network: nn.Module) -> None:
    assert isinstance(network, ObjectNetwork)
    targets = masks() if network.told_by == "map" else [BOXES, NO_BOXES]
    loss = network.train().loss(torch.randn(2, 1, 32, 35), targets)
    loss.backward()
    assert torch.isfinite(loss)
    network.eval()
    before = {name: one.clone() for name, one in network.named_buffers()}
    with torch.no_grad():
        assert torch.isfinite(network.loss(torch.randn(2, 1, 32, 35), targets))  # at validation
        found = network.read(network(torch.randn(2, 1, 32, 35)))
    assert not any(one.training for one in network.modules())
    assert all(torch.equal(one, before[name]) for name, one in network.named_buffers())
    assert len(found) == 2
    for one in found:
        assert len(one["labels"]) == len(one["scores"])
        assert network.told_by in one
        assert not len(one["labels"]) or 1 <= int(one["labels"].min()) <= int(one["labels"].max()) <= 2


def test_one_picture_is_a_batch_for_deeplab_too() -> None:
    network = torchvision_masks("deeplabv3_mobilenet_v3_large", 3, 2).train()
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torchvision_detector("resnet18"), "none of torchvision's Faster R-CNNs .*retinanet"),
        (lambda: torchvision_masks("unet", 3, 2), "no segmentation model of torchvision; .*deeplabv3"),
        (lambda: unet(width=0), "width=0 must be at least 1"),
        (lambda: unet(border_weight=0.5), "border_weight=0.5 must be at least 1"),
        (lambda: centre_detector(size_weight=0), "size_weight=0 must be above 0"),
    ],
)
def test_bad_arguments_are_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=said):
        make()
