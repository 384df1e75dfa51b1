"""What composing the job's configuration needs: its folder, and the resolvers that its files name."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]


def see_working_directory() -> None:
    """Let a command find a user's own modules where it is given, as `python -m` does; a script's folder is first."""
    here = os.getcwd()
    if not getattr(sys.flags, "safe_path", False) and not {"", here} & set(sys.path):
        sys.path.insert(0, here)


def conf_dir() -> Path:
    """Return the folder of the configuration: inside an installed package, or beside it in a source tree."""
    return next(
        path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if (path / "config.yaml").is_file()
    )


def job_folder(overrides: str) -> str:
    """Return the name of a job's folder in its sweep: the same overrides give the same folder, in any sweep order.

    Keys lose their groups, paths their folders, and what is no good in a file name is replaced; a checksum then keeps
    names apart. A name of what varies alone would change with the rest of the sweep, and the job be done again.
    """
    name = re.sub(r"(^|,)[^=,]*[./](?=\w+=)", r"\1", overrides)
    name = re.sub(r"=[^=,]*/(?=[^/,]+(,|$))", "=", name)
    name = re.sub(r"[^\w.,=+-]", "_", name)[:60]
    if name == overrides:
        return name or "job"
    return f"{name}-{hashlib.sha256(overrides.encode()).hexdigest()[:6]}"


def criterion_for(search: Any) -> str:
    """Return the criterion of a search for which none is given.

    Args:
        search: Its word, or a node with its class.
    """
    name = search if isinstance(search, str) else search.get("_target_", "")
    return "lamp_gradient" if name.rpartition(".")[2].lower() == "gradual" else "magnitude"


OmegaConf.register_new_resolver("classprune_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("classprune_criterion", criterion_for, replace=True)
