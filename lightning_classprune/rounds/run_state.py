"""What a checkpoint holds of a run, and how a later process takes it back: plain dicts of tensors and primitives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_classprune.pruning.masks import pack_all, unpack_all
from lightning_classprune.rounds.plan import RoundState, largest_number_of_tests
from lightning_classprune.rounds.resuming import (
    STATE_VERSION,
    check_extension,
    check_same_parameters,
    left_out,
    run_settings,
    shapes,
)
from lightning_classprune.tickets.ticket import unpack_ticket

if TYPE_CHECKING:
    from lightning_classprune.rounds.run import PruningRun


def state_of(run: PruningRun) -> dict[str, Any]:
    """Everything that a later process needs to go on. All processes call this."""
    return {
        "version": STATE_VERSION,
        "settings": run_settings(run.settings, run.clock.user),
        "parameters": shapes(run.cutter.units.parameters),
        "rounds": run.state.state_dict(),
        **run.judge.state_dict(),
        **run.clock.state_dict(),
        "pending": run.pending,
        "sealed": run.other_callbacks.checkpoints.sealed,
        "masks": pack_all(run.masks),
        "ledger": run.recorder.state_dict(),
        "nested": run.nested.state_dict(),
        "kept": None if run.kept is None else run.kept.state_dict(),
        "spent": run.spent.state_dict(),
        "was_judged": run.closing.was_judged,
        "offsets": run.delivery.offsets_beside(),
        **run.cutter.state_dict(),
        "gradual": run.gradual.state_dict(),
        "search": None if run.search is None else run.search.state_dict(),
        "best": None if run.best is None else run.best.state_dict(run.sharding),
        "accepted": run.delivery.saved(with_training=run.settings.search.point.kind == "none"),
        "rewind_point": run.round_start.state_dict(),
        "fresh": run.round_start.saved_fresh(),
        "ladder": run.ladder.folder,
        "checkpoints": run.other_callbacks.checkpoints.state_dict(),
        "early_stopped": run.other_callbacks.early_stopping.stopped(),
        **left_out(run.trainer, run.module, run.sharding),
        **run.randomness.state_dict(),
    }


def put_back(run: PruningRun, saved: Mapping[str, Any], *, extended: bool) -> None:
    """Let a run that has not begun stand where another stood, as far as that is no state of the trainer's.

    Args:
        run: As `Startup` makes it.
        saved: What `state_of` returned.
        extended: The limits to the rounds were raised since.

    Raises:
        MisconfigurationException: It is of another network, was judged already, or may not be extended.
    """
    check_same_parameters(saved, shapes(run.cutter.units.parameters))
    run.masks = run.cutter.placed(unpack_all(saved["masks"]))
    run.state = RoundState.from_state_dict(saved["rounds"])
    run.judge.load_state_dict(saved)
    run.cutter.load_state_dict(saved)
    run.gradual.load_state_dict(saved["gradual"])
    if "nested" in saved:
        run.nested.load_state_dict(saved["nested"])
    run.closing.was_judged = saved["was_judged"]
    if run.kept is not None:
        run.kept.load_state_dict(saved["kept"])
        if not run.closing.was_judged:
            run.kept.refuse_if_judged()
    run.spent.load_state_dict(saved["spent"])
    if extended:
        check_extension(saved, any_refused=run.spent.any_refused)
        # Without retries no level counts on their number.
        budget = run.judge.budget
        most = budget.tests + largest_number_of_tests(run.plan)
        run.judge.budget = replace(budget, max_tests=max(budget.max_tests, most))
    run.clock.load_state_dict(saved)
    run.pending, run.other_callbacks.checkpoints.sealed = saved["pending"], saved["sealed"]
    if run.best is not None and saved["best"] is not None:
        run.best.load_state_dict(saved["best"], run.sharding)
    run.recorder.load_state_dict(saved["ledger"])
    run.delivery.accepted = unpack_ticket(saved["accepted"], run.sharding)
    run.delivery.earlier_ladder = saved.get("ladder")
    run.round_start.load_state_dict(saved["rewind_point"], saved["fresh"])
    run.other_callbacks.checkpoints.load_state_dict(saved["checkpoints"])
    run.randomness.load_state_dict(saved)
