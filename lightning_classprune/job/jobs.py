"""Jobs that share a sweep, and jobs that go on: nothing is done twice, and none takes the others down with it."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ParallelStrategy
from omegaconf import DictConfig, OmegaConf

from lightning_classprune.job.configuration import conf_dir
from lightning_classprune.job.lock import FolderInUse
from lightning_classprune.job.objective import Objective
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.sweep.summary import write_summary
from lightning_classprune.job.sweep.sweep import tally

log = logging.getLogger(__name__)


class Work(Protocol):
    """What a job does: `app.run`."""

    def __call__(self, cfg: DictConfig, *, resume: bool = False) -> Objective:
        """Do it, or with `resume` go on in its folder."""


#: With this code a job's own process ends whose folder another one works in.
IN_USE = 75


def resume(folder: RunFolder, work: Work, *, trust: bool = False) -> Objective:
    """Go on with the job of `folder` from its last checkpoint, or from its start if it has none.

    A finished job is left as it is. The folder may have been moved.

    Args:
        folder: The job's.
        work: `app.run` or `app.close`.
        trust: Whoever made the folder may run any code here.

    Raises:
        ValueError: Its files cannot be read, or its configuration names what is no part of a job.
        FolderInUse: Another process works in it.
    """
    if (done := _finished(folder)) is not None:
        print(f"{folder.path}: this job is finished, there is nothing to do. Objective: {done}")
        return done
    config = _moved(folder.trusted_config(trust=trust), folder.path)
    _log_as_before(folder)
    return work(config, resume=True)


def in_sweep(cfg: DictConfig, work: Work, describe: Callable[[DictConfig], object]) -> Objective:
    """Do one job of a Hydra multirun, unless it is finished already, and bring the sweep's summary up to date.

    Args:
        cfg: The job's configuration.
        work: `app.run`.
        describe: `app.describe`, which fills in what the data say.

    Raises:
        MisconfigurationException: Its folder holds another job.
    """
    hydra = HydraConfig.get()
    cores = hydra.launcher.get("cpus_per_task")
    if cores:  # submitit starts all local jobs at once, each with the machine's number of threads
        torch.set_num_threads(cores)
    folder = RunFolder(Path(cfg.run_dir))
    known = folder.config_file.is_file()
    if known:
        _check_same(cfg, folder)
        if (done := _finished(folder)) is not None:
            log.info("%s: this job is finished, it is not done again", folder.path)
            return done
    try:
        processes = _processes(cfg)
        if processes is None:
            return work(cfg, resume=known)
        if not known:
            describe(cfg)
            with folder.held():
                folder.begin(cfg)
        return _apart(folder, threads=max(1, torch.get_num_threads() // processes))
    except FolderInUse:  # how the job stands the other process says
        raise
    except Exception as error:
        # Hydra goes on with the next job; of all errors it shows one, at the end.
        log.exception("The job in %s failed", folder.path)
        if folder.status()["state"] != "failed":
            folder.write_status("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        _summarise(folder.path.parents[len(Path(hydra.sweep.subdir).parts) - 1])


def _finished(folder: RunFolder) -> Objective | None:
    status = folder.status()
    if status["state"] != "finished":
        return None
    value = status["objective"]
    if value is None:
        raise ValueError(f"{folder.path / 'status.json'} says finished, and not with which objective")
    return tuple(value) if isinstance(value, list) else float(value)


def _log_as_before(folder: RunFolder) -> None:
    """Write to the job's log file and screen as Hydra sets them up for a job, if Hydra started it.

    By our own configuration: what the folder says of logging could name any code.
    """
    if (folder.path / ".hydra" / "hydra.yaml").is_file():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            hydra = compose("config", return_hydra_config=True).hydra
        hydra.runtime.output_dir = str(folder.path)
        configure_log(hydra.job_logging)
        logging.captureWarnings(True)


def _processes(cfg: DictConfig) -> int | None:
    """Return how many processes Lightning would start; None if it starts none."""
    strategy = instantiate(cfg.trainer, logger=False).strategy
    if not isinstance(strategy, ParallelStrategy) or strategy.cluster_environment is None:
        return None
    return None if strategy.cluster_environment.creates_processes_externally else strategy.world_size


def _apart(folder: RunFolder, threads: int) -> Objective:
    """Do the job in a process of its own, from which Lightning starts the others.

    Started from the sweep's own process, they would start the whole sweep again (the command line says so), the
    process group and its variables would stay for the next job, and Lightning kills the process that started a failed
    one. The pipe tells them when this process is gone: an orphan must not write into a folder that somebody resumes.
    """
    # Whoever starts a sweep trusts the jobs that it is made of.
    command = [sys.executable, "-m", "lightning_classprune.job.own_process", str(folder.path), "--trust"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with folder.held():
        folder.write_status("running")
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        code = process.wait()
    if code == IN_USE:
        raise FolderInUse(f"{folder.path} is in use by another process")
    if (done := _finished(folder)) is not None:
        return done
    raise RuntimeError(folder.status()["error"] or f"its process ended with code {code}")


def _check_same(cfg: DictConfig, folder: RunFolder) -> None:
    stored = _moved(folder.config(), folder.path)
    asked = copy.deepcopy(cfg)
    asked.facts = stored.facts
    if OmegaConf.is_missing(asked, "protect"):  # the data said what is usual
        asked.protect = stored.protect
    ours, theirs = (OmegaConf.to_container(one, resolve=True) for one in (asked, stored))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    different = sorted(str(key) for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if different:
        raise MisconfigurationException(
            f"{folder.path} holds another job, whose configuration differs in {', '.join(different)}; "
            "choose another hydra.sweep.dir, or remove that folder"
        )


def _moved(cfg: DictConfig, path: Path) -> DictConfig:
    """Return `cfg` with the folder where its job lies now in place of the one where it began."""

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replace(one) for key, one in value.items()}
        if isinstance(value, list):
            return [replace(one) for one in value]
        if isinstance(value, str) and (value == old or value.startswith(old + os.sep)):
            return f"{path}{value.removeprefix(old)}"
        return value

    old = str(cfg.run_dir)
    moved = OmegaConf.create(replace(OmegaConf.to_container(cfg)))
    assert isinstance(moved, DictConfig)
    return moved


def _summarise(sweep_dir: Path) -> None:
    try:
        jobs = write_summary(sweep_dir)
    except Exception as error:  # a summary can be made again, a job cannot
        log.warning("No summary of %s: %s: %s", sweep_dir, type(error).__name__, error)
        return
    log.info("%s. Summary: %s", tally(jobs), sweep_dir / "summary.html")
