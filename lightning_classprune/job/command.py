"""The command `classprune`: loads the job, and torch with it, when there is one to do and not before.

So help, `--version`, `--cfg` and what is wrong with a command line are said at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_classprune import __version__
from lightning_classprune.job.closed_pipe import outlive_readers
from lightning_classprune.job.configuration import conf_dir, see_working_directory

#: Settings that choose a plugin of Hydra, and by the beginning of its name there, which is our extra, its module.
_CHOOSE_PLUGINS = ("hydra/launcher", "hydra/sweeper", "hparams_search")
_PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit": "hydra_submitit_launcher",
    "optuna": "hydra_optuna_sweeper",
}


def main() -> None:
    """Run the job or the sweep that the command line describes, or go on with the one of `resume=RUN_DIR`."""
    outlive_readers()
    see_working_directory()
    arguments = sys.argv[1:]
    if "--version" in arguments:  # Hydra would tell its own
        print(f"lightning-classprune {__version__}")
    elif any(argument.startswith("resume=") for argument in arguments):
        _resume(arguments)
    else:
        for argument in arguments:
            if (mend := unreadable(argument)) is not None:
                sys.exit(f"classprune: {argument}: Hydra cannot read this; {mend}")
            if (extra := lacking(argument)) is not None:
                sys.exit(f"classprune: {argument} needs: pip install 'lightning-classprune[{extra}]'")
        sys.argv[1:] = [open_protect(argument) for argument in arguments]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()


def open_protect(argument: str) -> str:
    """Let `protect.NAME=...` name any class: only the data know which there are, and Hydra knows none beforehand."""
    return f"++{argument}" if argument.startswith("protect.") and "=" in argument else argument


def unreadable(argument: str) -> str | None:
    """What to give in the place of an argument that Hydra's grammar does not take; None if it does, or is no setting.

    Letters beyond ASCII, parentheses and `=` in a value need quotes of their own, inside those of the shell.
    """
    name, equals, value = argument.partition("=")
    if not equals or argument.startswith("-") or _is_read(open_protect(argument)):
        return None
    if name.startswith("protect"):
        return "name the class by its index: 'protect={0: 0.05}'"
    quoted = f'{name}="{value}"'
    if _is_read(quoted):
        return f"put quotes of its own around the value: '{quoted}'"
    return "its grammar is at https://hydra.cc/docs/1.3/advanced/override_grammar/basic"


def lacking(argument: str) -> str | None:
    """The extra of this package that has the plugin of Hydra which an argument asks for, where that is not there."""
    setting, _, value = argument.lstrip("+").partition("=")
    extra = value.partition("_")[0]
    if setting not in _CHOOSE_PLUGINS or extra not in _PLUGINS:
        return None
    # Without any plugin there is no such package, and none in it can be asked for.
    there = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{_PLUGINS[extra]}")
    return None if there else extra


def _is_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def job(cfg: DictConfig) -> float | tuple[float, ...]:
    """Do one job of a Hydra command: `app.job`. Launchers send this function to other processes by its name."""
    _say_where(cfg)
    from lightning_classprune.job import app
    from lightning_classprune.job.plain_errors import one_line

    try:
        return app.job(cfg)
    except Exception as error:
        said = one_line(error)
        # A sweep goes on with its other jobs, and tells the errors itself.
        if said is None or HydraConfig.get().mode != RunMode.RUN or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"classprune: {said}")


def _say_where(cfg: DictConfig) -> None:
    """The first line, which comes before seconds of loading; other processes of a job have nothing to say."""
    if all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        print(f"Run folder: {cfg.run_dir}", flush=True)


def _resume(arguments: Sequence[str]) -> None:
    given = next(argument for argument in arguments if argument.startswith("resume="))
    trust = "--trust" in arguments
    others = [argument for argument in arguments if argument not in (given, "--trust")]
    if others:
        sys.exit(
            "classprune: resume= goes on with the job's own configuration and takes nothing beside it but --trust; "
            f"remove {' '.join(others)}"
        )
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lightning_classprune.job import app, jobs
    from lightning_classprune.job.lock import FolderInUse
    from lightning_classprune.job.run_folder import RunFolder

    try:
        folder = RunFolder.open(Path(given.removeprefix("resume=")).absolute())
        if folder.status()["state"] != "finished":
            folder.trusted_config(trust=trust)
    except ValueError as error:
        sys.exit(f"classprune: {error}")
    try:
        jobs.resume(folder, app.run, trust=trust)
    except (FolderInUse, MisconfigurationException, OmegaConfBaseException, InstantiationException) as error:
        sys.exit(f"classprune: {folder.path}: {' '.join(str(error).split())}")
