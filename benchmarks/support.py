"""What several benchmarks share: the command line, the trainer, the machine, the networks, tables and files."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig
from torch import nn

from lightning_classprune import files
from lightning_classprune.job.configuration import conf_dir

RESULTS = Path(__file__).parent / "results"


def command_line(description: str | None, out: Path | None = RESULTS) -> argparse.ArgumentParser:
    """Return a parser that shows a benchmark's docstring and has `--out`, the folder of the results.

    Args:
        description: The docstring.
        out: Where results go by default; None for a benchmark that only prints.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if out is not None:
        parser.add_argument(
            "--out", type=Path, default=out, help="folder of the results (default: %(default)s)"
        )
    return parser


def one_thread() -> None:
    """Compute on one thread, in this process and in those that it starts."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def versions() -> dict[str, str]:
    """Return what numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
    }


def named(found: Mapping[str, str]) -> str:
    """Return versions as one phrase."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


def quiet_trainer(*callbacks: Any, **options: Any) -> Trainer:
    """Return a Trainer on the CPU that writes and shows nothing, unless options say otherwise."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(one, Checkpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), **quiet | options)


def job_config(overrides: Sequence[str]) -> DictConfig:
    """Return the ready-made job's configuration."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def draw_statistics(network: nn.Module) -> None:
    """Give BatchNorm layers weights and statistics as after training: as initialised, all channels are alike."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (part.bias.data, part.running_mean):
                tensor.normal_(std=0.2)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as a Markdown table; floats get four significant digits."""
    names = list(rows[0])
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def files_of_runs(folder: Path, pattern: str = "*/*.json") -> list[Path]:
    """The files that runs have left, in order.

    Raises:
        ValueError: There are none: results of before are not to be written over with an empty table.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder}: no runs ({pattern}); make them first, with `run`")
    return found


def read_runs(folder: Path, pattern: str = "*/*.json") -> list[dict[str, Any]]:
    """What runs have left, in the order of their files; see `files_of_runs`."""
    return [json.loads(file.read_text()) for file in files_of_runs(folder, pattern)]


def write(file: Path, lines: Sequence[str]) -> None:
    """Write lines into a file, whose folder is made."""
    files.write_text(file, "\n".join(lines) + "\n")
