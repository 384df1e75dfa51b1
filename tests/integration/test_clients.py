"""Modules that others have written, of masks, boxes, tokens and encoders: trained, judged and pruned as they stand."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.functional import to_pil_image

from lightning_classprune import LinearProbe
from lightning_classprune.guard.tasks import Detection, Segmentation, Tokens
from tests.support.kit import fit, plain_pruner
from tests.support.shapes import Pictures, boxes_of

WHY = "recipes for packages that this project does not depend on"


class Wrapped(pl.LightningModule):
    """A LightningModule around a model, as users write it.

    Args:
        model: Anything.
        loss: `(model, batch) -> scalar`.
    """

    def __init__(self, model: Any, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self.model, batch)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def judged(module: pl.LightningModule, predict: Any, task: Any, make: Any, **options: Any) -> list[Any]:
    """The ledger of a short run in which the point rule judges."""
    defaults: dict[str, Any] = {
        "task": task,
        "predict": predict,
        "protect": {1: 1.0},
        "confidence": None,
        "guard_dataloader": make(8, 3),
        "target_sparsity": 0.3,
        "fraction": 0.3,
        "rewind": "none",
    }
    callback = plain_pruner(**(defaults | options))
    fit(module, callback, train=make(4, 1), val=make(4, 2), max_epochs=1)
    return callback.ledger


def test_a_detector_of_torchvision() -> None:
    detection = pytest.importorskip("torchvision.models.detection", reason=WHY)
    ops = pytest.importorskip("torchvision.ops", reason=WHY)
    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
    backbone.out_channels = 8
    model = detection.FasterRCNN(
        backbone,
        min_size=24,
        max_size=24,
        rpn_anchor_generator=detection.rpn.AnchorGenerator(((6,),), ((1.0,),)),
        box_roi_pool=ops.MultiScaleRoIAlign(["0"], 3, 2),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU()),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, 2),
    )

    def together(samples: list[Any]) -> Any:
        targets = [
            {"boxes": boxes_of(numbers).float(), "labels": torch.ones(int(numbers.max()), dtype=torch.int64)}
            for _, numbers, _ in samples
        ]
        return [picture.expand(3, -1, -1) for picture, _, _ in samples], targets

    def predict(module: Any, batch: Any) -> Any:
        return module.model(batch[0]), batch[1]

    module = Wrapped(model, lambda model, batch: sum(model(*batch).values()))
    ledger = judged(
        module,
        predict,
        Detection(score_threshold=0.06),
        lambda n, seed: DataLoader(Pictures(n, seed), batch_size=4, collate_fn=together),
    )
    assert [row["verdict"] for row in ledger] == ["baseline", "accepted"]
    objects = sum(int(one.max()) for one in Pictures(8, 3).parts[1])
    assert [row["classes"]["1"]["objects"] for row in ledger] == [objects] * 2


def test_segmentation_models_pytorch() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch", reason=WHY)
    model = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1)

    def loss(model: Any, batch: Any) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], (batch[1] > 0).float())

    def predict(module: Any, batch: Any) -> Any:
        return module.model(batch[0]), (batch[1] > 0).long()

    def larger(samples: list[Any]) -> Any:
        pictures = torch.stack([nn.functional.pad(one, (4, 4, 4, 4)) for one, _, _ in samples])
        return pictures, torch.stack([nn.functional.pad(one, (4, 4, 4, 4)) for _, one, _ in samples])

    def make(n: int, seed: int) -> Any:
        return DataLoader(Pictures(n, seed), batch_size=4, collate_fn=larger)

    assert judged(Wrapped(model, loss), predict, Segmentation(), make)[0]["classes"]["1"]["units"] == 8


def test_semantic_segmentation_of_torchgeo() -> None:
    trainers = pytest.importorskip("torchgeo.trainers", reason=WHY)
    module = trainers.SemanticSegmentationTask(
        model="fcn", in_channels=1, task="multiclass", num_classes=2, num_filters=4
    )

    def together(samples: list[Any]) -> Any:
        pictures, maps, _ = zip(*samples, strict=True)
        return {"image": torch.stack(pictures), "mask": (torch.stack(maps) > 0).long()}

    def make(n: int, seed: int) -> Any:
        return DataLoader(Pictures(n, seed), batch_size=4, collate_fn=together)

    ledger = judged(module, lambda m, batch: (m(batch["image"]), batch["mask"]), Segmentation(), make)
    assert ledger[0]["classes"]["1"]["units"] == 8


def test_a_token_classifier_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason=WHY)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )

    def make(n: int, seed: int) -> Any:
        words = torch.randint(1, 20, (n, 6), generator=torch.Generator().manual_seed(seed))
        labels = torch.where(words < 6, 1, torch.where(words < 12, 2, 0))
        labels[:, -1] = -100
        samples = [{"input_ids": a, "labels": b} for a, b in zip(words, labels, strict=True)]
        return DataLoader(samples, batch_size=4)  # type: ignore[arg-type]

    module = Wrapped(
        transformers.BertForTokenClassification(config), lambda model, batch: model(**batch).loss
    )

    def predict(module: Any, batch: Any) -> Any:
        return module.model(input_ids=batch["input_ids"]).logits, batch["labels"]

    assert judged(module, predict, Tokens(), make, num_classes=3)[0]["classes"]["1"]["objects"] > 0


def test_an_encoder_of_lightly() -> None:
    data, losses, heads, transforms = (
        pytest.importorskip(f"lightly.{name}", reason=WHY)
        for name in ("data", "loss", "models.modules", "transforms")
    )

    class SimCLR(pl.LightningModule):
        """As lightly's examples have it."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(start_dim=1)
            )
            self.projection_head = heads.SimCLRProjectionHead(8, 8, 4)
            self.criterion = losses.NTXentLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            first, second = (self.projection_head(self.backbone(view)) for view in batch[0])
            loss: Tensor = self.criterion(first, second)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.06)

    def images(n: int, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        return TensorDataset(torch.rand(n, 3, 24, 24, generator=generator), torch.arange(n) % 2)

    class Photographs(Dataset[tuple[Any, int]]):
        transform = transforms.SimCLRTransform(input_size=24)

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> tuple[Any, int]:
            x, y = images(8, 1)[index]
            return self.transform(to_pil_image(x)), int(y)

    views = data.LightlyDataset.from_torch_dataset(Photographs())
    probe = LinearProbe(
        lambda module, x: module.backbone(x).flatten(1), DataLoader(images(8, 4), batch_size=4)
    )
    ledger = judged(
        SimCLR(),
        probe,
        None,
        lambda n, seed: DataLoader(views if seed == 1 else images(n, seed), batch_size=4),
        prunable=["backbone.*"],
    )
    assert [row["verdict"] for row in ledger] == ["baseline", "accepted"]
    assert ledger[0]["classes"]["1"]["support"] == 4
