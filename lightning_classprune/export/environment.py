"""What a run was made with, so that somebody else can make it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any

import torch

PACKAGES = (
    "lightning-classprune",
    "lightning",
    "torch",
    "torchvision",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "scipy",
)


def environment() -> dict[str, Any]:
    """Return versions, machine, git state of the working folder and the command, in primitives.

    `git` is None outside a repository or without git; `dirty` says that tracked files differ from the commit.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: installed_version(name) for name in PACKAGES},
        "git": _git_state(),
    }


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is only on the path."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
