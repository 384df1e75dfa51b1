"""What pruning adds to a checkpoint, in bytes: masks, rewind point, accepted ticket, and the rest.

    python -m benchmarks.checkpoint_size [--out benchmarks/results]

One round of a ResNet-18 for 32x32 images on a few random samples, with SGD (momentum) and AdamW, for each kind of
rewinding. Every part is saved on its own with `torch.save`, beside the whole file and the file of the same fit without
pruning. Writes checkpoint_size.md.
"""

from __future__ import annotations

import io
import tempfile
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from benchmarks.support import command_line, markdown, one_thread, quiet_trainer, write
from lightning_classprune import ClassAwarePruningCallback, Fixed, Guard

KEY = "ClassAwarePruningCallback"


class Network(pl.LightningModule):
    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.net, self.kind = resnet18(num_classes=2), optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.kind == "AdamW":
            return torch.optim.AdamW(self.parameters(), lr=1e-3)
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Keep(pl.Callback):
    """Saves in the last batch of a fit, where a round is in training."""

    def __init__(self, path: str, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


def size(value: Any) -> int:
    """Bytes of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.tell()


def saved(folder: str, optimizer: str, rewind: str | None) -> dict[str, Any]:
    """A checkpoint from inside round 1; without pruning, from the same epoch."""
    generator = torch.Generator().manual_seed(0)
    train, guard = (
        DataLoader(
            TensorDataset(torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 2), batch_size=8
        )
        for _ in range(2)
    )
    path = f"{folder}/{optimizer}-{rewind}.ckpt"
    callbacks: list[pl.Callback] = [Keep(path, 5 if rewind else 2)]
    if rewind:
        callbacks.append(
            ClassAwarePruningCallback(
                num_classes=2,
                protect={1: 1.0},
                target_sparsity=0.5,
                search=Fixed(fraction=0.5, rewind=rewind),
                guard=Guard(confidence=None, max_fp_rise=None),
                guard_dataloader=guard,
            )
        )
    pl.seed_everything(0, verbose=False)
    quiet_trainer(*callbacks, max_epochs=2).fit(Network(optimizer), train)
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def main() -> None:
    out = command_line(__doc__).parse_args().out
    one_thread()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for optimizer in ("SGD", "AdamW"):
            plain = size(saved(folder, optimizer, None))
            for rewind in ("init", "epoch:1", "lr", "none"):
                checkpoint = saved(folder, optimizer, rewind)
                state = checkpoint["callbacks"][KEY]
                rest = {k: v for k, v in state.items() if k not in ("masks", "rewind_point", "accepted")}
                ticket = state["accepted"]
                parts = {
                    "without pruning": plain,
                    "with": size(checkpoint),
                    "masks": size(state["masks"]),
                    "rewind point": size(state["rewind_point"]) if state["rewind_point"] else 0,
                    "ticket: masks": size(ticket["masks"]),
                    "ticket: weights": size(ticket["tensors"]),
                    "ticket: training": size(ticket["training"]) if ticket["training"] else 0,
                    "the rest": size(rest),
                }
                told = {name: f"{count / 1e6:.2f}" for name, count in parts.items()}
                rows.append({"optimizer": optimizer, "rewind": rewind} | told)
                print(rows[-1], flush=True)
    weights = sum(p.numel() for p in resnet18(num_classes=2).parameters())
    lines = [
        "# Size of a checkpoint",
        "",
        f"ResNet-18 ({weights:,} parameters in float32, {4 * weights / 1e6:.1f} MB), a checkpoint written inside round "
        f"1 (`python -m benchmarks.checkpoint_size`, torch {torch.__version__}). MB = 1e6 bytes; each part as "
        "`torch.save` writes it.",
        "",
        markdown(rows),
        "",
        "The masks take one bit a weight. The rewind point (weights and buffers, with the optimizer state where it is "
        "not the start) is there once, and not at all for `lr` and `none` with the magnitude criterion, which need "
        "none. The last accepted ticket is there once, for a refused round goes back to it; `none` also keeps its "
        "optimizer state. A checkpoint that is written after the fit holds neither: the module is the ticket then.",
    ]
    write(out / "checkpoint_size.md", lines)


if __name__ == "__main__":
    main()
