"""Every way to optimize that a LightningModule has: nothing leaks, and what was judged is delivered."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_classprune.pruning.enforcement import Enforcement
from tests.support.kit import FEATURES
from tests.support.witness import Classifier, assert_pruned, small_net, watched_fit

OPTIMIZERS = {
    "sgd_momentum": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2),
    "sgd_nesterov_foreach": lambda m: torch.optim.SGD(
        m.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True
    ),
    "sgd_fused": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, fused=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.02),
    "adam_foreach": lambda m: torch.optim.Adam(m.parameters(), lr=0.02, foreach=True, amsgrad=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, weight_decay=0.1),
    "adamw_fused": lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, fused=True),
    "lbfgs": lambda m: torch.optim.LBFGS(m.parameters(), lr=0.3, max_iter=4, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("rewind", ["init", "step:5"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_revives_a_pruned_weight(name: str, rewind: str) -> None:
    """With `step:5`, momentum comes back that would move the weights pruned since."""
    assert_pruned(watched_fit(Classifier(optimizers=OPTIMIZERS[name]), settings={"rewind": rewind}))


class TwoOptimizers(Classifier):
    """Manual optimization: each batch steps one optimizer twice and another once."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__(optimizers=lambda m: None)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        first, last = self.net[0], self.net[3]
        return [
            torch.optim.Adam([*first.parameters(), *self.net[1].parameters()], lr=0.02),
            torch.optim.SGD(last.parameters(), lr=0.05, momentum=0.9),
        ]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in (*self.optimizers(), self.optimizers()[0]):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()


def test_manual_optimization_with_two_optimizers_and_three_steps_a_batch() -> None:
    job = watched_fit(TwoOptimizers())
    assert_pruned(job)
    assert job.trainer.global_step == 3 * 2 * 4 * 3  # rounds, epochs, batches, steps


def test_manual_optimization_limited_by_steps() -> None:
    job = watched_fit(TwoOptimizers(), max_epochs=-1, max_steps=15)
    assert_pruned(job)
    assert [row["epochs"] for row in job.pruning.ledger] == [2, 2, 2]
    assert job.trainer.global_step == 45


def test_accumulation() -> None:
    job = watched_fit(accumulate_grad_batches=3)
    assert_pruned(job)
    assert job.trainer.global_step == 3 * 2 * 2


class NormWitness(L.Callback):
    """At each step: is what clipping sees masked already?"""

    def __init__(self) -> None:
        self.pruning: Any = None
        self.seen = 0
        self.outside: list[float] = []
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        # Called before the clipping of `configure_gradient_clipping`.
        gradients = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
        for name, mask in self.pruning.masks.items():
            self.seen += int((~mask).sum())
            self.outside.append(float(gradients[name][~mask].abs().sum()))


class ClippedNorm(Classifier):
    """Remembers the norm of the gradient after clipping, over kept weights and all other parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def configure_gradient_clipping(self, optimizer: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, **kwargs)
        self.norms.append(
            float(torch.stack([p.grad.norm() for p in self.parameters() if p.grad is not None]).norm())
        )


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_sees_the_sparse_model_only(algorithm: str) -> None:
    module, witness = ClippedNorm(), NormWitness()

    class Attach(L.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            witness.pruning = next(c for c in trainer.callbacks if hasattr(c, "masks"))

    limit = 0.05
    job = watched_fit(
        module, callbacks=[Attach(), witness], gradient_clip_val=limit, gradient_clip_algorithm=algorithm
    )
    assert_pruned(job)
    assert witness.seen > 0
    assert not any(witness.outside)
    if algorithm == "norm":
        # Were pruned gradients part of the norm, what is left after masking would be shorter than the limit.
        clipped = [n for n in module.norms[8:] if n > 0.9 * limit]
        assert len(clipped) > 8
        assert clipped == pytest.approx([limit] * len(clipped), rel=1e-4)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(FEATURES, FEATURES)
        self.second = nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.head = nn.Linear(FEATURES, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))) + x)


def test_shared_parameters_are_counted_once_and_held_in_both_places() -> None:
    job = watched_fit(Classifier(Tied()))
    assert_pruned(job)
    assert sorted(job.pruning.masks) == ["net.first.weight", "net.head.weight"]
    net = job.module.net
    assert net.first.weight is net.second.weight
    assert sum(m.numel() for m in job.pruning.masks.values()) == FEATURES * FEATURES + 2 * FEATURES


def test_frozen_layers_are_left_alone() -> None:
    module = Classifier()
    module.net[0].requires_grad_(False)
    before = module.net[0].weight.clone()
    job = watched_fit(module)
    assert_pruned(job)
    assert list(job.pruning.masks) == ["net.3.weight"]
    assert torch.equal(module.net[0].weight, before)


def test_a_frozen_weight_that_a_predicate_asks_for_is_pruned() -> None:
    module = Classifier()
    module.net[0].requires_grad_(False)
    job = watched_fit(module, settings={"prunable": lambda name, p: name == "net.0.weight"})
    assert_pruned(job)
    assert not module.net[0].weight.requires_grad


class TwoParts(Classifier):
    """A backbone and a head, as BackboneFinetuning wants."""

    def __init__(self) -> None:
        super().__init__(net=nn.Identity())
        net = small_net()
        self.backbone, self.head = net[:3], net[3:]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def configure_optimizers(self) -> Any:
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class EpochLog(L.Callback):
    """What is trained in every epoch, and how."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.trainable: list[bool] = []
        self.statistics: list[bool] = []
        self.rates: list[list[float]] = []
        self.pruning_masked = 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            groups = trainer.optimizers[0].param_groups
            self.groups.append(len(groups))
            self.rates.append([round(g["lr"], 8) for g in groups])
            self.trainable.append(pl_module.backbone[0].weight.requires_grad)
            self.statistics.append(pl_module.backbone[1].track_running_stats)


class Unfreeze(L.callbacks.BaseFinetuning):
    """Unfreezes the backbone in the round's second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.005)


FINETUNING = {
    "base": Unfreeze,
    "backbone": lambda: L.callbacks.BackboneFinetuning(
        unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.5, backbone_initial_lr=0.004, train_bn=False
    ),
}


@pytest.mark.parametrize("rewind", ["init", "lr", "none"])
@pytest.mark.parametrize("kind", FINETUNING)
def test_every_round_unfreezes_at_its_own_epoch(kind: str, rewind: str) -> None:
    log = EpochLog()
    finetuning = FINETUNING[kind]()
    job = watched_fit(TwoParts(), callbacks=[finetuning, log], max_epochs=3, settings={"rewind": rewind})
    assert_pruned(job)
    assert len(finetuning._internal_optimizer_metadata[0]) == 2  # what a resumed run makes its groups from
    assert list(job.pruning.masks) == ["backbone.0.weight", "head.3.weight"]
    if rewind == "none":  # goes on with what was unfrozen
        assert log.groups == [1, 2, 2] + [2] * 6
        return
    assert log.groups == [1, 2, 2] * 3
    assert log.trainable == [False, True, True] * 3
    assert (
        log.statistics == ([kind == "backbone", True, True]) * 3
    )  # Lightning's own keeps them for BatchNorm
    assert log.rates == log.rates[:3] * 3


def test_a_layer_that_is_unfrozen_mid_round_has_masked_gradients_too() -> None:
    witness = NormWitness()

    class Attach(L.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            witness.pruning = next(c for c in trainer.callbacks if hasattr(c, "masks"))

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if pl_module.backbone[0].weight.grad is not None:
                witness.on_before_optimizer_step(trainer, pl_module, optimizer)

    job = watched_fit(TwoParts(), callbacks=[Attach(), Unfreeze()], max_epochs=2)
    assert_pruned(job)
    assert witness.seen > 0
    assert not any(witness.outside)


class Counted:
    """A compiler backend that runs the graph as it is and counts how often it is called."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


class GraphLog(L.Callback):
    """Graphs compiled by the end of each epoch's training batches."""

    def __init__(self, backend: Counted) -> None:
        self.backend = backend
        self.graphs: list[int] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.graphs.append(self.backend.graphs)


@pytest.mark.parametrize(("what", "rewind"), [("submodule", "lr"), ("module", "init")])
def test_rounds_compile_nothing_anew(what: str, rewind: str) -> None:
    torch._dynamo.reset()
    backend = Counted()
    module = Classifier()
    log = GraphLog(backend)
    if what == "submodule":
        module.net = torch.compile(module.net, backend=backend)
        fitted = module
    else:
        fitted = torch.compile(module, backend=backend)
    job = watched_fit(
        fitted,
        callbacks=[log],
        settings={"target_sparsity": 0.9, "rewind": rewind},
    )
    job.module = module
    assert_pruned(job, ["baseline"] + ["accepted"] * 4)
    assert sorted(job.pruning.masks) == ["net.0.weight", "net.3.weight"]
    assert backend.graphs > 0
    # The dense round has compiled for training, validation and judging; after that nothing.
    assert log.graphs[2:] == [log.graphs[2]] * (len(log.graphs) - 2)
    assert backend.graphs == log.graphs[2]
    torch._dynamo.reset()


class Images(nn.Module):
    """Convolutions over the features laid out as an image."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.checkpointed = checkpointed
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4, 2)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 2, 4, 1)
        if self.checkpointed and self.training:
            x = checkpoint(self.features, x, use_reentrant=False)
        else:
            x = self.features(x)
        return self.head(x.flatten(1))


def test_channels_last_stays_channels_last() -> None:
    net = Images().to(memory_format=torch.channels_last)
    job = watched_fit(Classifier(net, lambda m: torch.optim.Adam(m.parameters(), lr=0.01)))
    assert_pruned(job)
    assert net.second.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.second.weight.is_contiguous()


def test_channels_last_prunes_the_same_weights() -> None:
    def train(memory_format: torch.memory_format) -> dict[str, Tensor]:
        net = Images().to(memory_format=memory_format)
        job = watched_fit(Classifier(net, lambda m: torch.optim.SGD(m.parameters(), lr=0.0)))
        return job.pruning.masks

    contiguous, channels_last = train(torch.contiguous_format), train(torch.channels_last)
    assert all(torch.equal(contiguous[name], channels_last[name]) for name in contiguous)


def test_gradient_checkpointing_trains_the_same_sparse_network() -> None:
    def train(checkpointed: bool) -> Any:
        net = Images(checkpointed)
        job = watched_fit(Classifier(net, lambda m: torch.optim.Adam(m.parameters(), lr=0.01)))
        assert_pruned(job)
        return job

    plain, recomputed = train(False), train(True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.module.parameters(), recomputed.module.parameters(), strict=True)
    )


def test_a_dense_round_has_no_hooks() -> None:
    """The first round is the run that the user would have had."""
    module = small_net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    masks = {"0.weight": torch.ones_like(module[0].weight, dtype=torch.bool)}
    Enforcement().hold(masks, dict(module.named_parameters()), [optimizer])
    assert not optimizer._optimizer_step_post_hooks
