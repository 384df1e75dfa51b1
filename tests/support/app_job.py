"""Jobs of a second of the ready-made application, for tests of what they leave behind."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_classprune.job.configuration import conf_dir

# 569 tumours, three epochs a round, two rounds of half the weights.
SHORT = [
    "data=breast_cancer",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "search=fixed",
    "search.fraction=0.5",
    "search.max_rounds=2",
]
# The guard judges each round as it is, as in the paper's way.
EACH_ROUND = [
    "callbacks.classprune.guard.judging=round",
    "callbacks.classprune.guard.offset=none",
    "callbacks.classprune.guard.max_fp_rise=1.0",
]
# Whose rounds are all accepted.
LENIENT = [*SHORT, *EACH_ROUND, "callbacks.classprune.guard.confidence=null", "protect.malignant=1.0"]


def config(folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a job in that folder, as Hydra composes it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [f"run_dir={folder}", *overrides])
