"""The paper's experiment, one job of it: one data set, one arm, one seed, down the densities 1, 1/2, ... 1/256.

    python -m benchmarks.paper data.root=FOLDER data=dermamnist arm=blind seed=1
    python -m benchmarks.paper -m data.root=FOLDER arm=blind,weighted,weighted_ranking 'seed=range(1,11)'
    python -m benchmarks.paper -m hydra/launcher=joblib hydra.launcher.n_jobs=8 ...
    python -m benchmarks.paper.report outputs/paper

A Hydra application over the package's own conf/ and benchmarks/paper/conf/. Each job trains through the real callback
and a real Trainer with the guard off, so that every round stands, scores every round's network on the guard and test
parts, and writes one .npz; a job whose file is there is skipped.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmarks.paper.files import write_job
from benchmarks.paper.rounds import RoundScores, ScoresAfterVerdicts, ScoresEveryEpochs
from benchmarks.support import versions
from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.job.app import build_module, facts, quieten
from lightning_classprune.job.configuration import conf_dir
from lightning_classprune.job.data.base import SplitDataModule

CONF = Path(__file__).parent / "conf"

OmegaConf.register_new_resolver("classprune_conf", lambda: str(conf_dir()))
OmegaConf.register_new_resolver("times", lambda a, b: a * b)
OmegaConf.register_new_resolver("minus_one", lambda a: a - 1)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="paper")
def main(cfg: DictConfig) -> None:
    """Run the job unless its file is there."""
    file = Path(cfg.job)
    if file.exists():
        print(f"{file} is there")
        return
    started = time.time()
    scores = run(cfg)
    about = {
        "config": OmegaConf.to_container(cfg, resolve=True),
        "seconds": round(time.time() - started, 1),
        "versions": versions(),
        "machine": machine(cfg),
    }
    write_job(file, about, scores.arrays())
    print(f"{file}: {len(scores.densities)} rounds in {about['seconds']} s")


def run(cfg: DictConfig) -> RoundScores:
    """Train down the densities; return every round's scores."""
    quieten()
    torch.set_num_threads(cfg.threads)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data: SplitDataModule = instantiate(cfg.data)
    data.setup("fit")
    with open_dict(cfg):
        cfg.facts = facts(data, cfg.protect)
        if cfg.callbacks.classprune:
            cfg.callbacks.classprune.protect = dict.fromkeys(cfg.protect, 1.0)  # every round stands
    module: LightningModule = build_module(cfg)
    callbacks: list[Callback] = [instantiate(c) for c in cfg.callbacks.values() if c]
    pruning = next((c for c in callbacks if isinstance(c, ClassAwarePruningCallback)), None)
    what = (data, cfg.parts, cfg.facts.protected[0])
    scores = ScoresEveryEpochs(cfg.epochs, *what) if pruning is None else ScoresAfterVerdicts(pruning, *what)
    trainer: Trainer = instantiate(cfg.trainer, callbacks=[scores, *callbacks])
    trainer.fit(module, datamodule=data)
    return scores


def machine(cfg: DictConfig) -> str:
    """Return on what the job ran, for the report."""
    on_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {cfg.threads} thread(s)"
    return f"{device}, {cfg.trainer.precision}"
