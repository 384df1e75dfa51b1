"""Scoring: what a criterion may look at before it scores - the network, training data, gradients - without a trace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_classprune.trainer.forward import Predict, as_in_validation, predicted, prepare
from lightning_classprune.trainer.loaders import batch_size, rebuilt, visited_indices
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding, local

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The network in the state in which it is cut, and the data that it trains on.

    Nothing of it is left behind: gradients, buffers, modes, random states and the training's own loaders stay as they
    are. All processes see parts of the same samples and get the same gradients.

    Attributes:
        module: The LightningModule.
        parameters: What can be pruned, by name.
        protected: Indices of the protected classes.
        trainer: The running trainer.
        predict: `(pl_module, batch) -> (scores, target)`.
        sharding: How the parameters are spread over the processes.
        seed: Draws the samples; another one after every verdict and at every cut inside a round, the same in a run that
            is resumed.
    """

    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    protected: tuple[int, ...]
    trainer: Any
    predict: Predict
    sharding: Sharding
    seed: int

    def batches(self, limit: int, only: Collection[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores, with their graph, and targets of training batches in eval mode.

        Args:
            limit: Number of batches of each process; fewer if the data end before.
            only: Classes whose samples are left in a batch, which may be none; None for all.

        Raises:
            ValueError: The training data are no DataLoader over a map-style data set, or scores and targets are no
                tensors.
        """
        prepare(self.predict, self.trainer, self.module, self.sharding.processes)
        drawn: Iterator[Any] | None = None
        for number in range(limit):
            with as_in_validation(self.trainer, self.module, self.seed + number), torch.enable_grad():
                drawn = iter(self._loader(limit)) if drawn is None else drawn
                batch = next(drawn, None)
                if batch is None:
                    return
                scores, target = predicted(self.trainer, self.module, self.predict, batch)[:2]
            if not (isinstance(scores, Tensor) and isinstance(target, Tensor)):
                raise ValueError(
                    f"a criterion with gradients needs scores that are a tensor, and predict returned "
                    f"{type(scores).__name__}; use one that does not look at gradients, such as 'magnitude'"
                )
            if only is not None:
                belongs = _belongs(target, only)
                scores, target = scores[belongs], target[belongs]
            yield scores, target

    def gradients(self, loss: Loss, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Gradients of the loss by parameter, batch by batch; the mean over the processes, pieces in a sharded model.

        Args:
            loss: `(scores, target) -> scalar`; of an empty batch it is not asked, whose gradient is zero.
            batches: What `batches` gives.
        """
        with_graph = iter(batches)
        while True:
            with self._trainable():
                pair = next(with_graph, None)
                if pair is None:
                    return
                scores, target = pair
                value = loss(scores, target) if len(target) else scores.sum() * 0.0
                found = self._backward(value) if self.sharding else self._gradients(value)
            yield found

    def _gradients(self, value: Tensor) -> dict[str, Tensor]:
        # Not `backward`: hooks on accumulated gradients, those of DDP and of the masks, are for training.
        parameters = list(self.parameters.values())
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        processes = self.sharding.processes
        means = {}
        for name, parameter, gradient in zip(self.parameters, parameters, found, strict=True):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            means[name] = processes.gather(gradient).mean(0)
        return means

    def _backward(self, value: Tensor) -> dict[str, Tensor]:
        # A sharded model's gradients are reduced where they are accumulated.
        kept = {parameter: parameter.grad for parameter in self.module.parameters()}
        try:
            for parameter in kept:
                parameter.grad = None
            value.backward()  # type: ignore[no-untyped-call]
            return {
                name: torch.zeros_like(local(p)) if p.grad is None else local(p.grad).clone()
                for name, p in self.parameters.items()
            }
        finally:
            for parameter, gradient in kept.items():
                parameter.grad = gradient

    @contextmanager
    def _trainable(self) -> Iterator[None]:
        """Inside, parameters that are frozen now have gradients too."""
        frozen = [parameter for parameter in self.parameters.values() if not parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def _loader(self, limit: int) -> DataLoader[Any]:
        made = self.trainer.fit_loop._combined_loader
        loader = made.flattened[0] if made is not None and len(made.flattened) == 1 else None
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise ValueError(
                "a criterion that looks at training data needs one DataLoader over a map-style data set for training; "
                f"there is {type(loader).__name__ if loader is not None else 'another arrangement of loaders'}"
            )
        processes: Processes = self.sharding.processes
        indices, _ = visited_indices(loader)
        generator = torch.Generator().manual_seed(self.seed)
        order = [indices[i] for i in torch.randperm(len(indices), generator=generator).tolist()]
        # As many batches on every process: the backward pass of a sharded model waits for all.
        share = min(limit * (batch_size(loader) or 1), len(order) // processes.world_size)
        mine = order[processes.rank :: processes.world_size][: max(share, 1)]
        return rebuilt(loader, mine)


def _belongs(target: Tensor, classes: Collection[int]) -> Tensor:
    """`(n,)` booleans: which samples are of one of the classes."""
    if target.ndim == 2 and target.shape[1] > 1:
        return target[:, list(classes)].bool().any(1)
    return torch.isin(target.flatten().long(), torch.tensor(list(classes), device=target.device))
