"""What only a GPU can show: masks, memory, waits and resumed runs on it. Skipped without one.

    pytest -n 0 tests/integration/test_gpu.py

Jobs of several processes run on GPUs with `CLASSPRUNE_TESTS_ON=gpu` in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_classprune import sparsify_for_inference
from lightning_classprune.pruning.enforcement import Enforcement
from lightning_classprune.pruning.masks import apply_masks
from tests.support.compare import assert_same, weights
from tests.support.kit import fit, pruner, tiny, verdicts
from tests.support.processes import run_job

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1, "deterministic": True}


class Watch(pl.Callback):
    """Leaks after every step, and the most memory of every epoch."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.leaks = 0
        self.peaks: list[int] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        parameters = dict(pl_module.named_parameters())
        self.leaks += sum(int(parameters[n][~m].count_nonzero()) for n, m in self.callback.masks.items())

    def on_train_epoch_end(self, *_: Any) -> None:
        self.peaks.append(torch.cuda.max_memory_allocated())


@pytest.mark.parametrize("rewind", ["init", "lr", "none"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_masks_hold_in_every_precision(precision: str, rewind: str) -> None:
    callback = pruner(rewind=rewind)
    watch, module = Watch(callback), tiny()
    fit(module, callback, watch, precision=precision, **GPU)
    assert watch.leaks == 0
    assert verdicts(callback) == ["baseline", *["accepted"] * 3]
    assert {mask.device.type for mask in callback.masks.values()} == {"cpu"}


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"capturable": True}])
def test_steps_wait_for_nothing(options: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).cuda()
    parameters = {"0.weight": net[0].weight}
    masks = {"0.weight": torch.rand(64, 64, device="cuda") < 0.1}
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.1, **options)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    x = torch.randn(8, 64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not net[0].weight[~masks["0.weight"]].any()


class Wide(pl.LightningModule):
    """Large enough for weights to be most of the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.Linear(4096, 2))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(nn.functional.pad(x.flatten(1), (0, 64))[:, :6])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1].long())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


def test_a_pruned_round_takes_two_bytes_a_weight_more() -> None:
    callback, module = pruner(max_rounds=2), Wide()
    watch = Watch(callback)
    watch.on_train_batch_end = lambda *_: None  # type: ignore[method-assign]
    fit(module, callback, watch, val=[], **GPU)
    size = sum(p.numel() for p in module.parameters())
    assert max(watch.peaks) - max(watch.peaks[:2]) < 2.5 * size


@pytest.mark.parametrize("device", [0, pytest.param(1, marks=two_gpus)])
def test_resumed_is_the_same_run_also_on_another_device(device: int, tmp_path: Path) -> None:
    files = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="{epoch}")
    whole, callback = tiny(), pruner(max_rounds=2)
    fit(whole, callback, files, **GPU)
    for epoch in (1, 2, 3):
        module, again = tiny(), pruner(max_rounds=2)
        fit(module, again, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", **GPU | {"devices": [device]})
        assert_same(weights(module), weights(whole))
        assert verdicts(again) == verdicts(callback)


def test_what_rounds_otherwise_on_a_gpu_stays_dense() -> None:
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128)).cuda()
    for layer in (net[0], net[2]):
        layer.weight.data.view(len(layer.weight), -1, 4)[..., :2] = 0
    x = torch.randn(64, 256, device="cuda")
    made, _ = sparsify_for_inference(net, x)
    torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-4)


@two_gpus
def test_processes_on_gpus_end_with_one_network(tmp_path: Path) -> None:
    names = "uneven,sampled,averaged,gradual"
    run_job("ddp_job.py", "ddp", str(tmp_path), names, timeout=600, CLASSPRUNE_TESTS_ON="gpu")
    first, second = (torch.load(tmp_path / f"process-{rank}.pt", weights_only=False) for rank in (0, 1))
    for name in names.split(","):
        for part in ("masks", "weights"):
            assert_same(first[name][part], second[name][part])


@two_gpus
def test_sharded_networks_on_gpus(tmp_path: Path) -> None:
    run_job("fsdp2_job.py", str(tmp_path), timeout=900, CLASSPRUNE_TESTS_ON="gpu")
    first, second = (torch.load(tmp_path / f"process-{rank}.pt", weights_only=False) for rank in (0, 1))
    for name, found in first.items():
        if isinstance(found, dict):
            assert_same(found["masks"], second[name]["masks"])
            assert_same(found["weights"], second[name]["weights"])
