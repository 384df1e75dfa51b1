"""Probes: a small classifier on an encoder's features, so that networks trained without labels can be judged.

A probe is a `predict` function that is fitted anew before every pass over guard or validation data: on frozen features
of labelled training data, standardised there, from a seed. It is a function of the network and of those data, so it is
part of the candidate: what is judged, saved with its ticket and handed over is the network with its probe.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader

from lightning_classprune.trainer.arguments import is_number, whole
from lightning_classprune.trainer.batches import part, reading
from lightning_classprune.trainer.forward import predicted
from lightning_classprune.trainer.loaders import is_stream, rebuilt, visited_indices
from lightning_classprune.trainer.randomness import loader_generators, seed_process, untouched_randomness
from lightning_classprune.trainer.sharding import local

#: `(pl_module, inputs) -> (n, ...)` features.
Features: TypeAlias = Callable[[Any, Any], Tensor]

#: Of a feature's largest size, the standard deviation up to which it is constant but for rounding.
_CONSTANT = 1e-6
#: How fast a neighbour's weight falls with its cosine distance, as in Wu et al. 2018 (arXiv 1805.01978).
_TEMPERATURE = 0.1


class Probe(ABC):
    """What both probes share: reading the labelled data, and when they are fitted.

    Every class weighs the same, however rare. On several processes each reads all training data, and all take the first
    one's fit.

    Args:
        features: `(pl_module, inputs) -> (n, ...)`, such as `lambda module, x: module.encoder(x)`.
        train_loader: Labelled training data; its batches are read as those of the default `predict`. Of a data set
            every sample is read once, in a fixed order.
        seed: Of what the data set draws when it is read.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, features: Features, train_loader: Iterable[Any], *, seed: int = 0) -> None:
        kind = type(self).__name__
        if not callable(features):
            raise ValueError(
                f"{kind}: features={features!r} must be a function (pl_module, inputs) -> features"
            )
        if not hasattr(train_loader, "__iter__"):
            raise ValueError(
                f"{kind}: train_loader={train_loader!r} must be a loader of labelled training data"
            )
        self.features = features
        self.train_loader = train_loader
        self.seed = whole(f"{kind}: seed", seed, 0)
        self.class_names: tuple[str, ...] = ()
        self._fitted: dict[str, Tensor] = {}
        self._head: nn.Module | None = None
        self._fitted_to = b""

    def __call__(self, pl_module: Any, batch: Any) -> tuple[Tensor, Any]:
        """Scores `(n, classes)` and the target of a batch.

        Raises:
            RuntimeError: It was not fitted.
        """
        features, target = self._read(pl_module, batch)
        if self._head is None:
            raise RuntimeError(
                f"{type(self).__name__} was not fitted: it is by the callback, or by prepare(...)"
            )
        return self._head.to(features.device)(features), target

    # -- what the callback asks of it --

    def know(self, class_names: Sequence[str]) -> None:
        """Learn which classes there are."""
        self.class_names = tuple(class_names)

    @property
    def loaders(self) -> list[Any]:
        """What it is fitted on."""
        return [self.train_loader]

    def prepare(self, trainer: Any, pl_module: Any) -> None:
        """Fit it to the network as it is; random state and the network stay as they were.

        Args:
            trainer: The running trainer.
            pl_module: The network, in eval mode.

        Raises:
            ValueError: The training data cannot be read, or have no sample of a class.
        """
        # What processes skip must be the same: a sharded network's forward pass waits for all.
        mark = _mark(pl_module) if trainer.world_size == 1 else b""
        if mark and mark == self._fitted_to:
            return
        generators = loader_generators([self.train_loader])
        # Validation runs in inference mode, and the fit needs gradients.
        with torch.inference_mode(mode=False), torch.no_grad(), untouched_randomness(generators):
            seed_process(self.seed)
            features, target = self._training(trainer, pl_module)
            scale, mean = _standard(features)
            if bool(torch.isfinite(features).all()):
                self.restore(self._fit((features - mean) / scale, target, mean, scale))
            else:  # a network that has diverged: its scores say so
                self.restore({name: one * torch.nan for name, one in self._blank(features).items()})
        self._fitted_to = mark

    def fitted(self) -> dict[str, Tensor]:
        """What was fitted, for `restore` and `head`; empty before."""
        return {name: tensor.clone() for name, tensor in self._fitted.items()}

    def restore(self, fitted: Mapping[str, Tensor]) -> None:
        """Take what `fitted` returned for what is fitted."""
        self._fitted = {name: tensor.detach().cpu() for name, tensor in fitted.items()}
        self._head = self.head(fitted) if fitted else None
        self._fitted_to = b""

    def state_dict(self) -> dict[str, Any]:
        """What two runs must share to go on one with the other's: not what was fitted."""
        return {"features": self.features, "seed": self.seed}

    # -- what it is --

    @abstractmethod
    def head(self, fitted: Mapping[str, Tensor] | None = None) -> nn.Module:
        """A module from features to scores, to export behind an encoder.

        Args:
            fitted: Such as `TicketFile.beside` has; None: what is fitted now, after a fit the delivered network's.

        Raises:
            ValueError: Nothing is fitted.
        """

    @abstractmethod
    def _fit(self, features: Tensor, target: Tensor, mean: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """What is fitted to standardised features `(n, d)` of float64."""

    @abstractmethod
    def _blank(self, features: Tensor) -> dict[str, Tensor]:
        """Tensors of the form of what is fitted."""

    def _of(self, fitted: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        found = self._fitted if fitted is None else fitted
        if not found:
            raise ValueError(f"{type(self).__name__}: nothing is fitted yet")
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    def _read(self, pl_module: Any, batch: Any) -> tuple[Tensor, Any]:
        found = reading(batch)
        features = self.features(pl_module, part(batch, found.input))
        if not isinstance(features, Tensor) or features.ndim < 1:
            raise ValueError(
                f"{type(self).__name__}: features returned {type(features).__name__}, and no tensor (n, ...)"
            )
        # Unlike training, judging compares decisions: half precision would make ties.
        return features.float().flatten(1) if features.ndim > 1 else features.float()[:, None], part(
            batch, found.target
        )

    def _training(self, trainer: Any, pl_module: Any) -> tuple[Tensor, Tensor]:
        """Features and classes of all training samples, on the CPU."""
        pairs = [predicted(trainer, pl_module, self._read, batch)[:2] for batch in self._batches()]
        kind, classes = type(self).__name__, len(self.class_names)
        if not pairs:
            raise ValueError(f"{kind}: train_loader is empty")
        targets = [torch.as_tensor(target).cpu() for _, target in pairs]
        features = torch.cat([one.cpu().double() for one, _ in pairs])
        if any(target.ndim != 1 for target in targets) or any(
            target.is_floating_point() for target in targets
        ):
            raise ValueError(f"{kind}: train_loader must give a class index a sample, whole numbers (n,)")
        target = torch.cat(targets).long()
        if len(target) != len(features):
            raise ValueError(
                f"{kind}: features gave {len(features)} rows for {len(target)} samples of train_loader"
            )
        if bool((target < 0).any()) or bool((target >= classes).any()):
            raise ValueError(
                f"{kind}: train_loader has classes from {int(target.min())} to {int(target.max())}; 0 to {classes - 1} "
                "are known (num_classes)"
            )
        missing = [name for index, name in enumerate(self.class_names) if not bool((target == index).any())]
        if missing:
            raise ValueError(
                f"{kind}: train_loader has no sample of class {missing[0]!r}, so no probe can tell it; give labelled "
                "training data of every class"
            )
        return features, target

    def _batches(self) -> Iterator[Any]:
        loader = self.train_loader
        if isinstance(loader, DataLoader) and not is_stream(loader):
            loader = rebuilt(loader, visited_indices(loader)[0])
        yield from loader


class LinearProbe(Probe):
    """Multinomial logistic regression on standardised features, every class of equal weight.

    Fitted by L-BFGS in float64 from zeros to its one optimum, with a penalty on the squared weights, so that fewer
    samples than features do no harm.

    Args:
        features: See `Probe`.
        train_loader: See `Probe`.
        penalty: Of half the squared weights beside the sum of the losses, above 0.
        seed: See `Probe`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self, features: Features, train_loader: Iterable[Any], *, penalty: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(features, train_loader, seed=seed)
        if not is_number(penalty) or not 0 < penalty < float("inf"):
            raise ValueError(f"LinearProbe: penalty={penalty!r} must be a finite number above 0")
        self.penalty = float(penalty)

    def state_dict(self) -> dict[str, Any]:
        """See `Probe.state_dict`."""
        return super().state_dict() | {"penalty": self.penalty}

    def head(self, fitted: Mapping[str, Tensor] | None = None) -> nn.Linear:
        """A linear layer, which has the standardisation in it."""
        found = self._of(fitted)
        layer = nn.Linear(found["weight"].shape[1], len(found["weight"]))
        layer.load_state_dict(dict(found))
        return layer.requires_grad_(False)

    def _fit(self, features: Tensor, target: Tensor, mean: Tensor, scale: Tensor) -> dict[str, Tensor]:
        classes, size = len(self.class_names), len(features)
        shares = torch.bincount(target, minlength=classes).double()
        weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=300,
            history_size=20,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            solver.zero_grad()
            losses = cross_entropy(
                features @ weight.T + bias, target, weight=1 / (classes * shares), reduction="sum"
            )
            value: Tensor = losses + self.penalty / (2 * size) * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            solver.step(loss)  # type: ignore[no-untyped-call]
        folded = weight.detach() / scale
        return {"weight": folded.float(), "bias": (bias.detach() - folded @ mean).float()}

    def _blank(self, features: Tensor) -> dict[str, Tensor]:
        classes = len(self.class_names)
        return {"weight": torch.zeros(classes, features.shape[1]), "bias": torch.zeros(classes)}


class KNNProbe(Probe):
    """The nearest training samples by cosine similarity of standardised features vote, the nearer the more.

    Args:
        features: See `Probe`.
        train_loader: See `Probe`.
        neighbours: How many vote, 1 or more; at most as many as there are.
        seed: See `Probe`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self, features: Features, train_loader: Iterable[Any], *, neighbours: int = 20, seed: int = 0
    ) -> None:
        super().__init__(features, train_loader, seed=seed)
        self.neighbours = whole("KNNProbe: neighbours", neighbours, 1)

    def state_dict(self) -> dict[str, Any]:
        """See `Probe.state_dict`."""
        return super().state_dict() | {"neighbours": self.neighbours}

    def head(self, fitted: Mapping[str, Tensor] | None = None) -> Neighbours:
        """A module that holds the training samples' features."""
        return Neighbours(self._of(fitted), self.neighbours)

    def _fit(self, features: Tensor, target: Tensor, mean: Tensor, scale: Tensor) -> dict[str, Tensor]:
        votes = torch.nn.functional.one_hot(target, len(self.class_names)).float()
        return {
            "mean": mean.float(),
            "scale": scale.float(),
            "known": normalize(features.float()),
            "votes": votes / votes.sum(0) * len(votes),
        }

    def _blank(self, features: Tensor) -> dict[str, Tensor]:
        row = torch.zeros(features.shape[1])
        return {"mean": row, "scale": row, "known": row[None], "votes": torch.zeros(1, len(self.class_names))}


class Neighbours(nn.Module):
    """Scores by the nearest known features: the logarithm of each class' share of the votes.

    Args:
        fitted: What `KNNProbe` fitted.
        neighbours: How many vote.
    """

    mean: Tensor
    scale: Tensor
    known: Tensor
    votes: Tensor

    def __init__(self, fitted: Mapping[str, Tensor], neighbours: int) -> None:
        super().__init__()
        for name, tensor in fitted.items():
            self.register_buffer(name, tensor)
        self.neighbours = min(neighbours, len(self.known))

    def forward(self, features: Tensor) -> Tensor:
        """Scores `(n, classes)` of features `(n, d)`."""
        near = normalize((features - self.mean) / self.scale) @ self.known.T
        similarity, place = near.topk(self.neighbours, dim=1)
        weights = torch.softmax(similarity / _TEMPERATURE, dim=1)
        shares = (weights[..., None] * self.votes[place]).sum(1)
        return torch.log(shares / shares.sum(1, keepdim=True) + 1e-6)


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and mean of every feature; a constant one keeps its scale."""
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    return torch.where(deviation > _CONSTANT * features.abs().amax(0), deviation, 1.0), mean


def _mark(module: nn.Module) -> bytes:
    """A hash of all parameters and buffers."""
    told = hashlib.blake2b()
    for tensor in (*module.parameters(), *module.buffers()):
        content = local(tensor).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        told.update(content.tobytes())
    return told.digest()
