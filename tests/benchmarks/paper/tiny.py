"""A tiny archive that can be learned, and a fit of one arm on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import open_dict

from benchmarks.paper.job import CONF
from lightning_classprune.job.app import build_module, facts

JOB = ("data.name=tiny", "data.one_vs_rest=null", "~protect.mel", "model.width=4", "epochs=1")


def write_archive(folder: Path, side: int) -> None:
    """80 images of each of two classes, those of the second one brighter; a quarter of them is the test part."""
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.integers(120, size=(160, side, side, 3)) + 100 * y[:, None, None, None]
    np.savez(
        folder / "tiny.npz",
        x=x.astype(np.uint8),
        y=y,
        classes=np.array(["ok", "bad"]),
        split=(np.arange(160) < 40).astype(np.int64),
        split_names=np.array(["train", "test"]),
    )


def fit(archive: Path, arm: str, spy: Callback) -> tuple[LightningModule, Trainer]:
    """The dense round and two more, of an epoch each."""
    given = ["+protect.bad=1.0", "trainer.accelerator=cpu", "densities=3", f"arm={arm}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("paper", [*JOB, *given, f"data.root={archive}", f"run_dir={archive}"])
    seed_everything(1, verbose=False)
    data = instantiate(cfg.data)
    data.setup("fit")
    with open_dict(cfg):
        cfg.facts = facts(data, cfg.protect)
    module = build_module(cfg)
    trainer = instantiate(cfg.trainer, callbacks=[*(instantiate(c) for c in cfg.callbacks.values()), spy])
    trainer.fit(module, datamodule=data)
    return module, trainer
