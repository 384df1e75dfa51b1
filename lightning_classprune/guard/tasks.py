"""Tasks beyond classes and labels, as users name them: `from lightning_classprune.tasks import Segmentation`."""

from __future__ import annotations

from typing import TypeAlias

from lightning_classprune.guard.boxes import Detection
from lightning_classprune.guard.instances import InstanceSegmentation
from lightning_classprune.guard.masks import Segmentation
from lightning_classprune.guard.tokens import Tokens

__all__ = ["AnyTask", "Detection", "InstanceSegmentation", "Segmentation", "Tokens"]

AnyTask: TypeAlias = Segmentation | InstanceSegmentation | Detection | Tokens
