"""Kinds of jobs: what of a job depends on whether a sample has a class or holds objects, in one place."""

from __future__ import annotations

from typing import Any, Protocol, cast

from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from omegaconf import DictConfig

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.classifier import Classifier
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.final_test import FinalTest
from lightning_classprune.job.objects.answers import ObjectAnswers
from lightning_classprune.job.objects.final_test import ObjectTest
from lightning_classprune.job.objects.finder import Finder
from lightning_classprune.job.objects.pictures import object_pictures
from lightning_classprune.job.report.pictures import thumbnails
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.scores_file import Scores


class Kind(Protocol):
    """What a job does in a way of its own."""

    def module(self, cfg: DictConfig) -> LightningModule:
        """The LightningModule of a configuration whose `facts` are filled in."""
        ...

    def final_test(
        self, cfg: DictConfig, data: SplitDataModule, pruning: ClassAwarePruningCallback | None
    ) -> FinalTest | ObjectTest:
        """The callback that looks at a split in the end."""
        ...

    def illustrate(
        self,
        folder: RunFolder,
        data: SplitDataModule,
        protected: list[int],
        pruning: ClassAwarePruningCallback,
        scores: Scores,
    ) -> None:
        """Keep the pictures that the report shows."""
        ...


class OfClasses:
    """A sample has a class."""

    def module(self, cfg: DictConfig) -> LightningModule:
        """See `Kind`."""
        if not cfg.loss:
            raise ValueError(
                "loss=own is of networks that find objects; use loss=class_dependent, class_balanced or cross_entropy"
            )
        loss = instantiate(cfg.loss)
        return Classifier(loss=loss, num_classes=cfg.facts.num_classes, **_optimized(cfg))

    def final_test(
        self, cfg: DictConfig, data: SplitDataModule, pruning: ClassAwarePruningCallback | None
    ) -> FinalTest:
        """See `Kind`."""
        threshold = 0.0 if pruning is None else pruning.settings.threshold
        return FinalTest(data.class_names, cfg.facts.protected, threshold)

    def illustrate(
        self,
        folder: RunFolder,
        data: SplitDataModule,
        protected: list[int],
        pruning: ClassAwarePruningCallback,
        scores: Scores,
    ) -> None:
        """Those of samples whose decision changed."""
        decisions = cast(dict[str, Decisions], pruning.guard_outcomes)
        folder.write_pictures(thumbnails(data, decisions, protected))


class OfObjects:
    """A sample holds objects."""

    def module(self, cfg: DictConfig) -> LightningModule:
        """See `Kind`."""
        if cfg.loss:
            raise ValueError(
                f"loss={cfg.loss.get('_target_')}: networks that find objects have a loss of their own; use loss=own"
            )
        return Finder(told_by=cfg.facts.told_by, **_optimized(cfg))

    def final_test(
        self, cfg: DictConfig, data: SplitDataModule, pruning: ClassAwarePruningCallback | None
    ) -> ObjectTest:
        """See `Kind`."""
        kind, names, protected = instantiate(cfg.task), data.class_names, cfg.facts.protected
        rest = [index for index in range(1, len(names)) if index not in protected]
        others = ObjectTask(kind, names, rest, 0.0, "one", with_offset=False) if rest else None
        if pruning is not None:
            return ObjectTest(cast(ObjectTask, pruning.settings.task), pruning.settings.predict, others)
        task = ObjectTask(kind, names, protected, 0.0, "one", with_offset=False)
        return ObjectTest(task, instantiate(cfg.predict), others)

    def illustrate(
        self,
        folder: RunFolder,
        data: SplitDataModule,
        protected: list[int],
        pruning: ClassAwarePruningCallback,
        scores: Scores,
    ) -> None:
        """Those of samples in which objects are found otherwise."""
        guard = cast(dict[str, ObjectAnswers], scores.get("guard", {}))
        if guard.keys() >= {"dense", "delivered"}:
            pictures = object_pictures(data, guard["dense"], guard["delivered"], protected)
            folder.write_object_pictures(pictures)


def kind_of(cfg: DictConfig) -> Kind:
    """The kind of a job; run folders of old do not say, and are of classes."""
    return OfObjects() if cfg.get("task") else OfClasses()


def _optimized(cfg: DictConfig) -> dict[str, Any]:
    """Network, optimizer and scheduler, as arguments of `Optimized`."""
    return {
        "network": instantiate(cfg.model),
        "optimizer": instantiate(cfg.optimizer),
        **instantiate(cfg.scheduler),
    }
