"""Search: what validation data say of a candidate. They choose, offset and abandon candidates, and judge none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard import statistics
from lightning_classprune.guard.conditions import Looks
from lightning_classprune.guard.data import GuardData, find_validation_loaders, shard_guard_data
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.offset import (
    Labels,
    as_often,
    chance_on_both_sides,
    choose_offset,
    one_table,
)
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.task import Columns, Outcomes
from lightning_classprune.trainer.horizon import Horizon
from lightning_classprune.trainer.processes import Processes

#: Least chance of proof, by validation data, at which a trained candidate is worth its guard test. No guarantee rests
#: on it: it weighs a test that may end the run against one more round of training. Low, for a dense network that was
#: lucky on the validation data makes every candidate look bad there, and says nothing of the guard's.
CHANCE = 0.1
#: One-sided error level at which validation data must show a rise beyond a limit, for what holds without retraining.
LEVEL = 0.4
#: The same in the middle of a round, where much can still change: only what has collapsed is hopeless.
LEVEL_AT_HALF = 0.01
#: How far beyond the limit it must be there, as a rate.
MARGIN_AT_HALF = 0.1
#: How often the offsets of competing classes are gone through, unless they stay before.
TURNS = 3


def find_validation_data(trainer: Any, guard: GuardData, processes: Processes, what_for: str) -> GuardData:
    """This process' share of the validation data.

    Args:
        trainer: The running trainer.
        guard: The guard data.
        processes: The processes that share the work.
        what_for: The argument that asks for them.

    Raises:
        MisconfigurationException: There is none, or it is the guard data, which would choose what it judges.
    """
    loaders = find_validation_loaders(trainer)
    judging = {id(getattr(share.loader, "dataset", share.loader)) for share in guard.shares}
    shared = any(id(getattr(loader, "dataset", loader)) in judging for loader in loaders or ())
    if loaders is None or shared:
        what = "the two are the same" if shared else "there is no validation data"
        mend = (
            "the guard a split of its own (guard_dataloader=...)" if shared else "the Trainer validation data"
        )
        raise MisconfigurationException(
            f"{what_for} chooses by validation data what the guard judges by other data, but {what}; give {mend}, or "
            "use search='fixed' with Guard(offset='none', judging='round')"
        )
    try:
        return shard_guard_data(loaders, "validation", processes.rank, processes.world_size)
    except ValueError as error:
        raise MisconfigurationException(f"{what_for}, validation data: {error}") from error


def beyond(pair: Evidence, allowed: float, level: float) -> bool:
    """Whether paired counts speak at a one-sided error level for a rise beyond what is allowed.

    By Tango's lower bound, quick enough for looks that only choose; no cases say nothing.
    """
    if not pair.support:
        return False
    return -statistics.tango_upper(pair.newly_found, pair.newly_missed, pair.support, level) > allowed


@dataclass(frozen=True)
class Look:
    """What validation data say of a candidate.

    Attributes:
        offsets: Bias to add to a class' score, by name; none for those not named.
        chance: That the guard proves it harmless, by protected class; empty where nothing can be said.
        reason: Why it is not worth a guard test, if it is not.
    """

    offsets: dict[str, float] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class Search:
    """The validation evidence of one run.

    Attributes:
        evaluator: How cases are decided. It knows nothing of what was decided on the guard's.
        protected: The protected classes.
        data: The validation data.
        with_offset: An offset is chosen for every candidate.
        labels: How many cases the guard has of each protected class and of others; known after round 0.
        dense: Outcomes of the dense network at the end of round 0.
        halfway: Its outcomes in the middle of round 0, if that was passed.
        under: Its outcomes at the end of round 0 under the conditions that the guard has besides, by name.
        passes: Passes over the validation data for the present attempt.
        looked: Epochs that the loop had processed at the last look in the middle of a round.
    """

    evaluator: Evaluator
    protected: tuple[Protected, ...]
    data: GuardData
    with_offset: bool = False
    labels: Mapping[str, Labels] = field(default_factory=dict)
    dense: Outcomes | None = None
    halfway: Outcomes | None = None
    under: dict[str, Outcomes] = field(default_factory=dict)
    passes: int = 0
    looked: int = -1

    def is_halfway(self, horizon: Horizon, epochs: int, after: float = 0.0) -> bool:
        """Whether half of a round is over, where its length is known in epochs; said once, also after a resume.

        Args:
            horizon: The round's.
            epochs: Epochs that the loop has processed.
            after: Share of the round that does not count, in [0, 1): half of the rest is asked for.
        """
        half = ceil(horizon.epochs * (1 + after) / 2)
        halfway = 1 < horizon.epochs != half == epochs - horizon.start_epoch
        new, self.looked = halfway and self.looked != epochs, epochs if halfway else self.looked
        return new

    def columns(self, trainer: Any, module: Any) -> Columns | None:
        """The task's columns of the validation data, the same on all ranks; None if the scores are NaN."""
        self.passes += 1
        return self.evaluator.columns(trainer, module, self.data)

    def looks(self, trainer: Any, module: Any) -> Looks | None:
        """As `columns`, and under every condition that the guard has besides."""
        self.passes += 1 + len(self.evaluator.conditions)
        return self.evaluator.looks(trainer, module, self.data)

    def at_half(self, trainer: Any, module: Any, *, dense: bool, level: float | None) -> str | None:
        """Look in the middle of a round; why its candidate is not worth the rest of it, if it is not.

        Args:
            trainer: The running trainer.
            module: The network, as it would be judged.
            dense: It is that of round 0, which sets what candidates are compared with.
            level: Of the guard test; None for the point rule.
        """
        columns = self.columns(trainer, module)
        if dense:
            self.halfway = None if columns is None else self.evaluator.task.outcomes(columns, {})
            return None
        reason = self.hopeless_at_half(columns, level)
        return None if reason is None else f"half-way through the round, {reason}"

    def hopeless_at_half(self, columns: Columns | None, level: float | None) -> str | None:
        """Why a candidate in the middle of its round is not worth the rest of it, if it is not.

        It has collapsed beside the dense network in the middle of its own training and at its end.

        Args:
            columns: Its columns.
            level: Of the guard test.
        """
        if columns is None:
            return "its scores are NaN: its training diverged"
        if self.halfway is None or self.dense is None:
            return None
        collapsed = [self._collapsed(columns, before, level) for before in (self.halfway, self.dense)]
        reason: str | None = self.evaluator.processes.first(collapsed[1] if all(collapsed) else None)
        return reason

    def _collapsed(self, columns: Columns, before: Outcomes, level: float | None) -> str | None:
        now = self.evaluator.task.outcomes(columns, self._offsets(columns, before, level))
        for one, what, pair, allowed in self._sides(now, before):
            if beyond(pair, allowed + MARGIN_AT_HALF, LEVEL_AT_HALF):
                return (
                    f"{one.name}: {pair.newly_missed} new {what}, {pair.newly_found} gone of {pair.support} validation "
                    f"cases speak for a rise beyond {allowed:.3g} by more than {MARGIN_AT_HALF:g}"
                )
        return None

    def at_end(self, trainer: Any, module: Any, level: float | None) -> Look:
        """Look at the end of a round, before a guard test; of the dense network's all that is needed later is kept.

        Args:
            trainer: The running trainer.
            module: The network, as it would be judged.
            level: Of the guard test; None for the point rule.
        """
        looks = self.looks(trainer, module)
        if self.dense is None:
            if looks is not None:
                outcomes = self.evaluator.task.outcomes
                self.dense = outcomes(looks.plain, {})
                self.under = {name: outcomes(columns, {}) for name, columns in looks.under.items()}
            return Look()
        if looks is None:
            return Look(reason="its scores are NaN: its training diverged")
        look: Look = self.evaluator.processes.first(self._look(looks, self.dense, level))
        return look

    def _look(self, looks: Looks, dense: Outcomes, level: float | None) -> Look:
        offsets = self._offsets(looks.plain, dense, level, looks.under)
        decide, chance = self.evaluator.task.outcomes, dict[str, float]()
        alone: dict[str, float] = {}  # of a class under one condition
        told: dict[str, str] = {}
        sides = [("", self.protected, looks.plain, dense)]
        sides += [
            (f" under {one.name}", one.protected, looks.under[one.name], self.under[one.name])
            for one in self.evaluator.conditions
        ]
        for place, protected, columns, before in sides:
            now = decide(columns, offsets)
            for one in protected:
                misses, alarms = self._pairs(now, before, one)
                if not misses.support or not self.labels[one.name].positives:
                    continue
                tables = one_table(misses), one_table(alarms)
                where = one.name + place
                alone[where] = float(chance_on_both_sides(*tables, one, self.labels[one.name], level)[0])
                chance[one.name] = chance.get(one.name, 1.0) * alone[where]
                told[where] = (
                    f"{misses.newly_missed} newly missed, {misses.newly_found} newly found of {misses.support}, "
                    f"{alarms.newly_missed} new false alarms, {alarms.newly_found} gone of {alarms.support}"
                )
        if not chance or prod(chance.values()) >= CHANCE:
            return Look(offsets, chance)
        worst = min(alone, key=lambda where: alone[where])
        does = "accepts" if level is None else "proves"
        return Look(
            offsets,
            chance,
            f"{worst}: {told[worst]} on validation data leave a chance of {prod(chance.values()):.2g} that the guard "
            f"{does} it",
        )

    def too_few(self, level: float | None) -> str | None:
        """Why validation data cannot accept any candidate, if they cannot: not even one that changes no decision.

        Args:
            level: Of the guard's test; None for the point rule.
        """
        assert self.dense is not None
        for one in self.protected:
            misses, alarms = self._pairs(self.dense, self.dense, one)
            sides = one_table(misses), one_table(alarms)
            chance = float(chance_on_both_sides(*sides, one, self.labels[one.name], level)[0])
            if chance < CHANCE:
                return (
                    f"{one.name}: {misses.support} validation positives and {alarms.support} negatives are too few to "
                    f"choose by: a network that decides every one of them as the dense network does has a chance of "
                    f"{chance:.2g} that the guard proves it"
                )
        return None

    def _offsets(
        self,
        columns: Columns,
        dense: Outcomes,
        level: float | None,
        under: Mapping[str, Columns] | None = None,
    ) -> dict[str, float]:
        """The offsets, class after class; with a view to conditions too, where there are.

        Where classes compete for a case the offset of one moves the others. Several that have moved together cannot go
        back one by one, for each is held by the others: so they begin where each is decided as often as by the dense
        network, and are gone through from there. Where they do not compete, the others are none of a class' business.
        """
        offsets: dict[str, float] = {}
        if not self.with_offset or not self.labels:
            return offsets
        task = self.evaluator.task
        # Of a class without positives nothing is known: it stays where it is, and has no say about others.
        known = [
            one
            for one in self.protected
            if self.labels[one.name].positives and self._pairs(dense, dense, one)[0].support
        ]
        compete = task.exclusive(columns)
        # Of competing classes one offset less says the same.
        free = [one.name for one in (known[: len(task.names) - 1] if compete else known)]

        def others(name: str) -> dict[str, float]:
            return {other: bias for other, bias in offsets.items() if other != name}

        def begin(name: str) -> float:
            return -as_often(task.sweep(columns, others(name), name, dense), name)

        def choose(name: str) -> float:
            say = known if compete else [one for one in known if one.name == name]
            return self._offset(name, say, columns, others(name), dense, level, under or {})

        together = compete and len(free) > 1
        for step in (begin, choose) if together else (choose,):
            for _ in range(TURNS if together else 1):
                before = dict(offsets)
                for name in free:
                    offsets[name] = step(name)
                if offsets == before:
                    break
        agreed: dict[str, float] = self.evaluator.processes.first(offsets)
        return agreed

    def _offset(
        self,
        name: str,
        say: Sequence[Protected],
        columns: Columns,
        others: Mapping[str, float],
        dense: Outcomes,
        level: float | None,
        under: Mapping[str, Columns],
    ) -> float:
        """That of one class, with the others where they are; for those classes that have a say."""
        task = self.evaluator.task
        heard = {one.name for one in say}
        beside = [
            (
                task.sweep(under[condition.name], others, name, self.under[condition.name]),
                [limits for limits in condition.protected if limits.name in heard],
            )
            for condition in self.evaluator.conditions
            if condition.name in under
        ]
        sweep = task.sweep(columns, others, name, dense)
        return -choose_offset(sweep, say, self.labels, level, under=beside).threshold

    def _sides(self, now: Outcomes, before: Outcomes) -> list[tuple[Protected, str, Evidence, float]]:
        """What is guarded: class, what is counted, paired counts, allowed rise of its rate."""
        sides = []
        for one in self.protected:
            misses, alarms = self._pairs(now, before, one)
            positives = self.labels[one.name].positives if self.labels else misses.support
            allowed = one.rise_among(misses.support, misses.baseline_missed, positives)
            sides.append((one, "misses", misses, allowed))
            if one.max_fp_rise is not None:
                sides.append((one, "false alarms", alarms, one.max_fp_rise))
        return sides

    def _pairs(self, now: Outcomes, before: Outcomes, one: Protected) -> tuple[Evidence, Evidence]:
        try:
            return now.pairs(before, one.name)
        except ValueError as error:
            raise MisconfigurationException(f"validation data: {error}") from error

    def reach(
        self,
        trainer: Any,
        module: Any,
        accepted: int,
        to_try: Sequence[int],
        level: float | None,
        prune: Callable[[int], None],
    ) -> int:
        """Units up to which an accepted network can be pruned without retraining, on both sides.

        One pass over the validation data for each density to try, from the densest on, up to the first that does not
        hold. Where false alarms are not guarded, errors of all classes stand for them: a class that is found
        everywhere is never missed.

        Args:
            trainer: The running trainer.
            module: The network.
            accepted: Units pruned in it.
            to_try: Pruned units, ascending.
            level: Of the guard test; None for the point rule.
            prune: Puts the network, pruned to that many units, into the module.
        """
        assert self.dense is not None
        for pruned in to_try:
            prune(pruned)
            columns = self.columns(trainer, module)
            holds = columns is not None and self._holds(columns, self.dense, level)
            if not self.evaluator.processes.first(holds):
                break
            accepted = pruned
        return accepted

    def _holds(self, columns: Columns, dense: Outcomes, level: float | None) -> bool:
        now = self.evaluator.task.outcomes(columns, self._offsets(columns, dense, level))
        sides = self._sides(now, dense)
        if any(one.max_fp_rise is None for one in self.protected):
            largest = max(allowed for _, what, _, allowed in sides if what == "misses")
            sides.append((self.protected[0], "errors", now.mistakes(dense), largest))
        return not any(beyond(pair, allowed, LEVEL) for _, _, pair, allowed in sides)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        kept = {"dense": self.dense, "halfway": self.halfway}
        saved = {name: one.state_dict() if one is not None else None for name, one in kept.items()}
        under = {name: one.state_dict() for name, one in self.under.items()}
        return {"passes": self.passes, "looked": self.looked, "under": under, **saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.passes, self.looked = state["passes"], state["looked"]
        restored = self.evaluator.task.restored
        self.under = {name: restored(one) for name, one in state.get("under", {}).items()}
        self.dense, self.halfway = (
            self.evaluator.task.restored(state[name]) if state[name] is not None else None
            for name in ("dense", "halfway")
        )
