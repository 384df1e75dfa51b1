"""The ending of a job: what is delivered is written, tested beside the dense network, and told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard.objects import Found
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.comparison import compared
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.final_test import FinalTest
from lightning_classprune.job.kinds import kind_of
from lightning_classprune.job.objects.final_test import ObjectTest
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.samples_file import write_samples
from lightning_classprune.job.scores_file import AnyAnswers, write_scores
from lightning_classprune.job.telling import tell
from lightning_classprune.job.unprotected import lost
from lightning_classprune.ledger.figure import figure
from lightning_classprune.ledger.rows import Row
from lightning_classprune.pruning.masks import layer_counts
from lightning_classprune.tickets.loading import load_ticket
from lightning_classprune.trainer.checkpoint_hashes import write_hash
from lightning_classprune.trainer.versions import safe_loading


@dataclass(frozen=True)
class Ending:
    """What the ending of one job needs.

    Attributes:
        cfg: Its configuration.
        trainer: That has trained.
        module: As delivered.
        data: All four parts.
        pruning: None where nothing was pruned.
        final_test: A callback of the trainer.
        folder: Where everything goes.
    """

    cfg: DictConfig
    trainer: Trainer
    module: LightningModule
    data: SplitDataModule
    pruning: ClassAwarePruningCallback | None
    final_test: FinalTest | ObjectTest
    folder: RunFolder

    def leave(self, new_module: Callable[[], LightningModule]) -> None:
        """Write, test and tell; all processes call this.

        Args:
            new_module: Returns a module of the job's kind, for the dense network.
        """
        rows = [] if self.pruning is None else self.pruning.ledger
        self._write(rows)
        self.trainer.save_checkpoint(self.folder.accepted, weights_only=False)
        if self.trainer.is_global_zero and self.folder.accepted.is_file():
            write_hash(self.folder.accepted)
        scores = self._tested(new_module, rows)
        if not self.trainer.is_global_zero:
            return
        if scores:
            write_scores(self.folder.scores_file, scores)
        if self.pruning is not None and rows:
            with harmless("the pictures of the report"):
                indices = list(self.cfg.facts.protected)
                kind_of(self.cfg).illustrate(self.folder, self.data, indices, self.pruning, scores)
        self._write_counts(scores.get("test", {}))
        protected = [self.data.class_names[index] for index in self.cfg.facts.protected]
        tell(rows, compared(scores, protected), lost(scores, protected))

    def _write(self, rows: list[Row]) -> None:
        if not self.trainer.is_global_zero:
            return
        folder = self.folder
        if samples := self.data.splits.samples:
            have_classes = self.data.splits.told_by is None
            write_samples(folder.samples_file, samples, self.data.class_names if have_classes else None)
        if self.pruning is None or not rows:
            return
        # Of classes or objects, which is what this job does.
        folder.write_guard(cast(dict[str, Decisions] | dict[str, Found], self.pruning.guard_outcomes))
        folder.write_json("layers.json", {"layers": layer_counts(self.pruning.masks)})
        with harmless("ledger.png"):
            figure(rows).savefig(folder.path / "ledger.png")

    def _tested(
        self, new_module: Callable[[], LightningModule], rows: list[Row]
    ) -> dict[str, dict[str, AnyAnswers]]:
        """What both networks say of the test split and, where verdicts were given, of the guard, now that they are."""
        offsets = {} if self.pruning is None else self.pruning.offsets
        networks = {"delivered": (self.module, offsets)}
        first = self.folder.tickets / "round=00.safetensors"
        if rows and first.is_file():
            dense = new_module()
            load_ticket(first, dense)
            networks["dense"] = (dense, {})
        loaders = {"test": self.data.test_dataloader}
        if rows:
            loaders["guard"] = self.data.guard_dataloader
        found: dict[str, dict[str, AnyAnswers]] = {}
        loggers = self.trainer.loggers
        for split, loader in loaders.items():
            for network, (module, bias) in networks.items():
                # What loggers call a test is that of the delivered network on the test split.
                self.trainer.loggers = loggers if (split, network) == ("test", "delivered") else []
                tested = self._look(module, bias, loader())
                if tested is not None:
                    found.setdefault(split, {})[network] = tested
        self.trainer.loggers = loggers
        return found

    def _look(
        self, module: LightningModule, offsets: Mapping[str, float], loader: DataLoader[Any]
    ) -> AnyAnswers | None:
        self.final_test.offsets = offsets
        self.trainer.test(module, dataloaders=loader, verbose=False, **safe_loading(self.trainer))
        return self.final_test.tested

    def _write_counts(self, test: Mapping[str, AnyAnswers]) -> None:
        """`test.json`: the counts of the delivered network, and of the dense one's classes."""
        if "delivered" not in test:
            return
        counts: dict[str, Any] = test["delivered"].counted()
        if "dense" in test:
            counts["dense"] = test["dense"].counted()["classes"]
        self.folder.write_json("test.json", counts)


@contextmanager
def harmless(name: str) -> Iterator[None]:
    """Turn an error of what only illustrates a run into a warning: a picture is not worth a network."""
    try:
        yield
    except Exception as error:
        rank_zero_warn(
            f"{name} could not be written ({type(error).__name__}: {error}); the run itself is not affected"
        )
