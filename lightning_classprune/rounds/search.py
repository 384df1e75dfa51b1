"""Search: what validation data say of a candidate. It chooses and abandons candidates; it never judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard import statistics
from lightning_classprune.guard.data import (
    GuardData,
    find_validation_loaders,
    shard_guard_data,
)
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.trainer.horizon import Horizon
from lightning_classprune.trainer.processes import Processes

#: Least chance of proof, by validation data, at which a trained candidate is worth its guard test. No guarantee rests
#: on it: it weighs a test that may end the run against one more round of training. Low, for a dense network that was
#: lucky on the validation data makes every candidate look bad there, and says nothing of the guard's.
CHANCE = 0.1
#: One-sided error level at which validation data must show a rise beyond the tolerance, for what holds without
#: retraining.
LEVEL = 0.4
#: The same in the middle of a round, where much can still change: only what has collapsed is hopeless.
LEVEL_AT_HALF = 0.01
#: How far beyond the tolerance it must be there, in FN rate.
MARGIN_AT_HALF = 0.1


def find_validation_data(trainer: Any, guard: GuardData, processes: Processes) -> GuardData:
    """This process' share of the validation data.

    Raises:
        MisconfigurationException: There is none, or it is the guard data, which would choose what it judges.
    """
    loaders = find_validation_loaders(trainer)
    judging = {id(getattr(share.loader, "dataset", share.loader)) for share in guard.shares}
    shared = any(id(getattr(loader, "dataset", loader)) in judging for loader in loaders or ())
    if loaders is None or shared:
        what = "the two are the same" if shared else "there is no validation data"
        raise MisconfigurationException(
            f"search='adaptive' chooses by validation data what the guard judges by other data, but {what}; give "
            + (
                "the guard a split of its own (guard_dataloader=...)"
                if shared
                else "the Trainer validation data"
            )
            + ", or use search='fixed'"
        )
    try:
        return shard_guard_data(loaders, "validation", processes.rank, processes.world_size)
    except ValueError as error:
        raise MisconfigurationException(f"search='adaptive', validation data: {error}") from error


def beyond(
    pairs: Mapping[str, Evidence], tolerances: Mapping[str, FNTolerance], level: float, margin: float = 0.0
) -> str | None:
    """What speaks at a one-sided error level for a rise beyond a tolerance; None if nothing does.

    Tango's lower bound of the rise, as in the guard's `refused`; a class without positives says nothing.

    Args:
        pairs: Paired counts against the dense network, by class.
        tolerances: The same classes' tolerances.
        level: In (0, 0.5].
        margin: Added to the tolerances, as a rate.
    """
    for name, pair in pairs.items():
        if not pair.support:
            continue
        allowed = tolerances[name].rise(pair.support, pair.baseline_missed) + margin
        lower = -statistics.tango_upper(pair.newly_found, pair.newly_missed, pair.support, level)
        if lower > allowed:
            return (
                f"{name}: {pair.newly_missed} newly missed, {pair.newly_found} newly found of {pair.support} "
                f"validation positives speak for a rise of the FN rate above {allowed:.3g} (lower bound {lower:.3g} "
                f"at level {level})"
            )
    return None


def unlikely(
    pairs: Mapping[str, Evidence],
    tolerances: Mapping[str, FNTolerance],
    positives: Mapping[str, int],
    level: float | None,
) -> str | None:
    """Why a candidate is not worth a guard test, if it is not: a refusal may end the run.

    Args:
        pairs: Paired validation counts against the dense network, by class; one without positives says nothing.
        tolerances: The same classes' tolerances.
        positives: The guard's positives of these classes. Their labels alone: nothing that a network makes of them.
        level: Of the guard test; None for the point rule.
    """
    for name, pair in pairs.items():
        if not pair.support:
            continue
        allowed = tolerances[name].rise(pair.support, pair.baseline_missed)
        chance = statistics.chance_of_proof(
            pair.newly_missed,
            pair.newly_found,
            pair.support,
            allowed,
            level,
            positives[name],
            round(pair.baseline_missed / pair.support * positives[name]),
        )
        if chance < CHANCE:
            return (
                f"{name}: {pair.newly_missed} newly missed, {pair.newly_found} newly found of {pair.support} "
                f"validation positives leave a chance of {chance:.2g} that {positives[name]} guard positives "
                f"{'accept' if level is None else 'prove'} a rise of the FN rate below {allowed:.3g}"
            )
    return None


@dataclass
class Search:
    """The validation evidence of one run.

    Attributes:
        evaluator: How cases are decided. It knows nothing of what was decided on the guard's.
        protected: The protected classes.
        data: The validation data.
        dense: Outcomes of the dense network at the end of round 0.
        halfway: Its outcomes in the middle of round 0, if that was passed.
        passes: Passes over the validation data for the present attempt.
        looked: Epochs that the loop had processed at the last look in the middle of a round.
    """

    evaluator: Evaluator
    protected: tuple[Protected, ...]
    data: GuardData
    dense: Outcomes | None = None
    halfway: Outcomes | None = None
    passes: int = 0
    looked: int = -1

    def is_halfway(self, horizon: Horizon, epochs: int) -> bool:
        """Whether half of a round is over, where its length is known in epochs; said once, also after a resume.

        Args:
            horizon: The round's.
            epochs: Epochs that the loop has processed.
        """
        halfway = horizon.epochs > 1 and epochs - horizon.start_epoch == ceil(horizon.epochs / 2)
        new, self.looked = halfway and self.looked != epochs, epochs if halfway else self.looked
        return new

    def outcomes(self, trainer: Any, module: Any) -> Outcomes | None:
        """Outcomes on the validation data, the same on all ranks; None if the scores are NaN."""
        self.passes += 1
        return self.evaluator.outcomes(trainer, module, self.data)

    def at_half(self, trainer: Any, module: Any, *, dense: bool) -> str | None:
        """Look in the middle of a round; why its candidate is not worth the rest of it, if it is not.

        Args:
            trainer: The running trainer.
            module: The network, as it would be judged.
            dense: It is that of round 0, which sets what candidates are compared with.
        """
        now = self.outcomes(trainer, module)
        if dense:
            self.halfway = now
            return None
        reason = self.hopeless_at_half(now)
        return None if reason is None else f"half-way through the round, {reason}"

    def at_end(
        self, trainer: Any, module: Any, positives: Mapping[str, int] | None, level: float | None
    ) -> str | None:
        """Look at the end of a round; why its candidate is not worth a guard test, if it is not.

        Args:
            trainer: The running trainer.
            module: The network, as it would be judged.
            positives: The guard's positives by class, of its labels alone; None for the dense network.
            level: Of the guard test; None for the point rule.
        """
        now = self.outcomes(trainer, module)
        if positives is None:
            self.dense = now
            return None
        return self.not_worth_a_test(now, positives, level)

    def not_worth_a_test(
        self, now: Outcomes | None, positives: Mapping[str, int], level: float | None
    ) -> str | None:
        """As `at_end`, of the candidate's outcomes."""
        return self._against(now, self.dense, partial(unlikely, positives=positives, level=level))

    def hopeless_at_half(self, now: Outcomes | None) -> str | None:
        """Why a candidate in the middle of its round is not worth the rest of it, if it is not.

        It has collapsed beside the dense network in the middle of its own training and at its end.

        Args:
            now: Its outcomes.
        """
        collapsed = partial(beyond, level=LEVEL_AT_HALF, margin=MARGIN_AT_HALF)
        if self.halfway is None or self._against(now, self.halfway, collapsed) is None:
            return None
        return self._against(now, self.dense, collapsed)

    def _against(
        self,
        now: Outcomes | None,
        before: Outcomes | None,
        speaks: Callable[[Mapping[str, Evidence], Mapping[str, FNTolerance]], str | None],
    ) -> str | None:
        if now is None:
            return "its scores are NaN: its training diverged"
        if before is None:
            return None
        try:
            pairs = {one.name: now.pairs(before, one.name)[0] for one in self.protected}
        except ValueError as error:
            raise MisconfigurationException(f"search='adaptive', validation data: {error}") from error
        tolerances = {one.name: one.tolerance for one in self.protected}
        agreed: str | None = self.evaluator.processes.first(speaks(pairs, tolerances))
        return agreed

    def reach(
        self, trainer: Any, module: Any, accepted: int, to_try: Sequence[int], prune: Callable[[int], None]
    ) -> int:
        """Units up to which an accepted network can be pruned without retraining, in FN and in errors of all classes.

        One pass over the validation data for each density to try, from the densest on, up to the first that does not
        hold.

        Args:
            trainer: The running trainer.
            module: The network.
            accepted: Units pruned in it.
            to_try: Pruned units, ascending.
            prune: Puts the network, pruned to that many units, into the module.
        """
        for pruned in to_try:
            prune(pruned)
            seen = self.outcomes(trainer, module)
            worse = self._against(seen, self.dense, partial(beyond, level=LEVEL)) is not None
            if seen is None or worse or self._errs(seen):
                break
            accepted = pruned
        return accepted

    def _errs(self, now: Outcomes) -> bool:
        """Whether decisions of all classes got worse: one that is found everywhere is never missed."""
        assert self.dense is not None
        pair = now.mistakes(self.dense)
        misses = {one.name: now.pairs(self.dense, one.name)[0] for one in self.protected}
        allowed = max(
            one.tolerance.rise(max(misses[one.name].support, 1), misses[one.name].baseline_missed)
            for one in self.protected
        )
        reason = beyond({"all": pair}, {"all": FNTolerance(rate=allowed)}, LEVEL)
        return bool(self.evaluator.processes.first(reason is not None))

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        kept = {"dense": self.dense, "halfway": self.halfway}
        saved = {name: one.state_dict() if one is not None else None for name, one in kept.items()}
        return {"passes": self.passes, "looked": self.looked, **saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.passes, self.looked = state["passes"], state["looked"]
        self.dense, self.halfway = (
            self.evaluator.task.restored(state[name]) if state[name] is not None else None
            for name in ("dense", "halfway")
        )
