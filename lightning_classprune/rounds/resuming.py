"""Resuming: what Lightning leaves out when it goes on from a checkpoint, and a run needs to go on as it would have.

Lightning saves no logged metrics, so that whatever looks at them at an epoch's end (EarlyStopping, plateau schedulers)
fails or is skipped in the epoch that is resumed. And which checkpoints a run can go on from at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.rounds.settings import Settings
from lightning_classprune.trainer.horizon import Limits, epochs_done
from lightning_classprune.trainer.identity import is_opaque
from lightning_classprune.trainer.metrics import publish
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import (
    capture_buffers,
    capture_trainable,
    copy_state,
    restore_buffers,
    restore_trainable,
)

STATE_VERSION = 5


def run_settings(settings: Settings, limits: Limits) -> dict[str, Any]:
    """What two runs must share: the callback's settings, and the trainer's limits, which are those of a round."""
    return settings.state_dict() | {"max_epochs": limits.max_epochs, "max_steps": limits.max_steps}


def shapes(parameters: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The shape of every prunable parameter."""
    return {name: list(p.shape) for name, p in parameters.items()}


def check_same_run(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Compare settings with those of a checkpoint; whether limits to its rounds were raised, and nothing else differs.

    Raises:
        MisconfigurationException: Names what differs.
    """
    if saved.get("version") != STATE_VERSION:
        raise MisconfigurationException(
            f"the checkpoint's pruning state has version {saved.get('version')}; this package reads {STATE_VERSION}: "
            "go on with the version of the package that wrote it, or take its weights alone into a new run"
        )
    theirs = saved["settings"]
    opaque = [k for k in mine if is_opaque(mine[k])]
    if opaque:
        raise MisconfigurationException(
            f"{opaque[0]} cannot be compared with that of the run that wrote the checkpoint ({mine[opaque[0]]}); give "
            "it state_dict() and load_state_dict(state), or use a function that can be imported"
        )
    differing = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
    if differing and all(k in mine and k in theirs and _is_raised(k, theirs[k], mine[k]) for k in differing):
        return True
    if differing:
        raise MisconfigurationException(
            "the checkpoint was written by a run with other settings: "
            + "; ".join(
                f"{k} was {_short(theirs.get(k))} and is now {_short(mine.get(k))}" for k in differing
            )
            + ". Give what that run had; only max_rounds, max_total_epochs and target_sparsity may grow"
        )
    return False


def _is_raised(name: str, before: Any, now: Any) -> bool:
    """Whether a setting only lets a run go further than before."""
    if name.rpartition(".")[2] in ("max_rounds", "max_total_epochs"):
        return now is None or (before is not None and now > before)
    return name == "target_sparsity" and bool(now > before)


def check_extension(saved: Mapping[str, Any], *, any_refused: bool) -> None:
    """Refuse raised limits where the guard's answers could have asked for them.

    A sequence of tests that stops at its first refusal may be made longer while it was not stopped; a level that was
    divided among a number of tests, or candidates that were judged together, fix that number for ever.

    Args:
        saved: The state of the run.
        any_refused: A test of it was not accepted, whatever checkpoint is resumed.

    Raises:
        MisconfigurationException: The run may not be extended.
    """
    settings = saved["settings"]
    if settings["Guard.judging"] == "end":
        why = "its candidates were judged, and a judgement is final" if saved["was_judged"] else None
    elif settings.get(f"{settings['search']}.retries"):
        why = "with retries the level of each test counts on the number of tests that was fixed before the first"
    else:
        refused = any_refused or saved["rounds"]["refusals"]
        why = "the guard has refused a candidate, and more of them would be free tries" if refused else None
    if why is not None:
        raise MisconfigurationException(
            f"larger max_rounds, max_total_epochs or target_sparsity: this run cannot be extended, for {why}; resume "
            "it with the settings that it had, or begin a new run, with other guard data"
        )


def _short(told: Any) -> str:
    text = repr(told)
    return text if len(text) <= 300 else f"{text[:300]}..."


def check_same_parameters(saved: Mapping[str, Any], mine: Mapping[str, list[int]]) -> None:
    """Compare the prunable parameters with those of a checkpoint.

    Raises:
        MisconfigurationException: Names what differs.
    """
    theirs = saved["parameters"]
    differing = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
    if differing:
        raise MisconfigurationException(
            "the checkpoint was written for a model with other prunable parameters: "
            + ", ".join(f"{n} {theirs.get(n)} -> {mine.get(n)}" for n in differing)
            + "; give the model, and the Cut(prunable=...), of that run"
        )


def left_out(trainer: Any, module: nn.Module, sharding: Sharding) -> dict[str, Any]:
    """What a checkpoint of Lightning lacks, in tensors and primitives; all processes call this."""
    progress = trainer.fit_loop.epoch_progress.current
    return {
        "metrics": copy_state(dict(trainer.callback_metrics)),
        # Whether the hooks of an epoch's end are running: the plateau schedulers' turn is still to come.
        "inside_epoch_end": bool(progress.completed < progress.processed),
        "trainable": capture_trainable(module),
        # Sharded checkpoints keep one process' buffers, and any one's; statistics differ from process to process.
        "buffers": sharding.processes.gather_objects(capture_buffers(module)) if sharding else None,
    }


def restore_left_out(saved: Mapping[str, Any], trainer: Any, module: nn.Module, processes: Processes) -> None:
    """Put back what `left_out` returned; callbacks and plateau schedulers see the metrics that they could see then."""
    restore_trainable(module, saved["trainable"])
    if saved["buffers"] is not None:
        same = len(saved["buffers"]) == processes.world_size
        restore_buffers(module, saved["buffers"][processes.rank if same else 0])
    publish(trainer, saved["metrics"])


def step_plateau_schedulers(trainer: Any) -> None:
    """Lightning's own step at the end of an epoch, which it skips where that epoch was resumed."""
    if not trainer.lightning_module.automatic_optimization:
        return
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and epochs_done(trainer) % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            value = trainer.callback_metrics[config.monitor]
            trainer.lightning_module.lr_scheduler_step(config.scheduler, value)


def finish_epoch(trainer: Any) -> None:
    """Count the epoch that was resumed as done, as Lightning itself does for a checkpoint of an epoch's last batch.

    For a round whose steps were all taken inside it: the loop would see nothing left to do, or train on.
    """
    loop = trainer.fit_loop
    loop.epoch_progress.increment_processed()
    loop.epoch_progress.increment_completed()
    loop.epoch_loop._batches_that_stepped += 1
    for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        part.on_iteration_done()
