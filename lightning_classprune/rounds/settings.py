"""Settings: the constructor arguments of the callback, checked together and in the form that the parts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from math import ceil, isfinite
from typing import Any

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.options import Guard
from lightning_classprune.guard.protected import Protected, check_names, read_protected
from lightning_classprune.guard.task import Task
from lightning_classprune.guard.tasks import AnyTask, Detection, InstanceSegmentation, Segmentation, Tokens
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.pruning.criteria import Criterion, CriterionName
from lightning_classprune.pruning.granularities import GRANULARITIES
from lightning_classprune.pruning.options import UNSAID, Cut
from lightning_classprune.rounds.options import Adaptive, AnySearch, Fixed, Gradual, Search, read_search
from lightning_classprune.rounds.schedules import TOWARDS_A_JUDGEMENT, AdaptiveSteps
from lightning_classprune.tickets.options import Files
from lightning_classprune.trainer.arguments import is_number, share, whole
from lightning_classprune.trainer.forward import Predict, PreparedPredict, default_predict
from lightning_classprune.trainer.identity import identity

#: What a gradual search cuts by unless a cut is given: as sparse as it goes, magnitude alone does not hold.
GRADUAL_CRITERION: CriterionName = "lamp_gradient"

#: Where an argument of the flat list of old is now.
MOVED = {
    "confidence": "guard=Guard(confidence=...)",
    "baseline": "guard=Guard(baseline=...)",
    "criterion": "cut=Cut(criterion=...)",
    "scope": "cut=Cut(scope=...)",
    "granularity": "cut=Cut(granularity=...)",
    "prunable": "cut=Cut(prunable=...)",
    "prune_fraction": "search=Fixed(fraction=...)",
    "schedule": "search='fixed' or search='adaptive'",
    "rewind": "search=Fixed(rewind=...) or search=Adaptive(rewind=...)",
    "on_refusal": "search=Fixed(on_refusal=...) or search=Adaptive(on_refusal=...)",
    "retries": "search=Fixed(retries=...) or search=Adaptive(retries=...)",
    "max_rounds": "search=Fixed(max_rounds=...) or search=Adaptive(max_rounds=...)",
    "round_epochs": "search=Fixed(round_epochs=...) or search=Adaptive(round_epochs=...)",
    "max_total_epochs": "search=Fixed(max_total_epochs=...) or search=Adaptive(max_total_epochs=...)",
    "ladder": "files=Files(ladder=...)",
    "rewind_file": "files=Files(rewind_file=...)",
}


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the callback does not have, and say where those of old are.

    Raises:
        TypeError: There is one.
    """
    for name, value in arguments.items():
        where = f"it is {MOVED[name]} now" if name in MOVED else "see its documentation for those that it has"
        raise TypeError(f"ClassAwarePruningCallback has no argument {name}={value!r}; {where}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run is to do; see `ClassAwarePruningCallback` for the meaning of each."""

    num_classes: int
    class_names: tuple[str, ...]
    protected: tuple[Protected, ...]
    target_sparsity: float
    search: Search
    guard: Guard
    cut: Cut
    criterion: Criterion
    files: Files
    threshold: float
    predict: Predict
    guard_dataloader: Any
    kind: AnyTask | None = None
    _saved: dict[str, Any] = field(init=False, repr=False, compare=False)

    @classmethod
    def read(
        cls,
        *,
        num_classes: int,
        protect: Mapping[int | str, float | FNTolerance],
        class_names: Sequence[str] | None,
        target_sparsity: float,
        search: str | AnySearch,
        guard: Guard,
        cut: Cut,
        files: Files,
        threshold: float,
        predict: Predict | None,
        guard_dataloader: Any,
        task: AnyTask | None = None,
    ) -> Settings:
        """Check every argument, and those that must go together.

        Raises:
            ValueError: Names the argument, its value, what is allowed and the fix.
        """
        num_classes = whole("num_classes", num_classes, 2)
        names = _class_names(class_names, num_classes)
        target_sparsity = share("target_sparsity", target_sparsity)
        chosen = read_search(search, survives_refusals=getattr(guard, "judging", None) != "end")
        if cut is UNSAID and isinstance(chosen, Gradual):
            cut = Cut(criterion=GRADUAL_CRITERION)
        for name, value, kind in (("guard", guard, Guard), ("cut", cut, Cut), ("files", files, Files)):
            if not isinstance(value, kind):
                raise ValueError(f"{name}={value!r} must be {kind.__name__}(...)")
        if not is_number(threshold) or not isfinite(threshold):
            raise ValueError(
                f"threshold={threshold!r} is not a finite number; it is compared with raw scores"
            )
        if predict is not None and not callable(predict):
            raise ValueError(
                f"predict={predict!r} is not callable; it must be (pl_module, batch) -> (scores, target)"
            )
        if isinstance(predict, PreparedPredict):
            predict.know(names)
        _check_guard_dataloader(guard_dataloader)
        fraction = chosen.fraction if isinstance(chosen, Fixed) else None
        if isinstance(chosen, Gradual) and GRANULARITIES[cut.granularity].one_step is not None:
            raise ValueError(
                f"Cut.granularity={cut.granularity!r} is one step to half of the weights, so search='gradual' has "
                "nothing to shrink little by little; use search=Fixed(fraction=0.5)"
            )
        GRANULARITIES[cut.granularity].check(cut.granularity, target_sparsity, fraction, chosen.retries)
        if guard.baseline == "current" and not chosen.point.keeps_weights:
            raise ValueError(
                "Guard.baseline='current' judges the weights as they come, so rewind="
                f"{chosen.rewind!r} has no earlier point; use rewind='lr' or rewind='none'"
            )
        criterion = Criterion.of(cut.criterion)
        if guard.baseline == "current" and criterion.listens and isinstance(chosen, Fixed | Adaptive):
            raise ValueError(
                f"Guard.baseline='current' trains nothing before the first cut, so Cut.criterion={cut.criterion!r} has "
                "no gradients to score by; use criterion='class_lamp_gradient', which looks at them itself, or 'lamp', "
                "or baseline='train'"
            )
        if guard.judging == "end" and chosen.retries:
            raise ValueError(
                f"Guard.judging='end' survives refusals by validation data alone, so retries={chosen.retries} does not "
                f"go with it; use search={type(chosen).__name__}(on_refusal='stop', retries=0)"
            )
        if files.judged and guard.judging != "end":
            raise ValueError(
                f"Files.judged={list(files.judged)}: files are candidates of their own, which are all known before the "
                "guard looks once; use Guard(judging='end')"
            )
        if files.nested and guard.judging != "end":
            raise ValueError(
                "Files.nested=True: networks that share their weights are trained when all candidates are known, and "
                "judged together; use Guard(judging='end')"
            )
        if files.judged and task is not None:
            raise ValueError(
                f"Files.judged={list(files.judged)} with task={type(task).__name__}(...): files are judged of classes "
                "and labels only; use judged=[]"
            )
        protected = read_protected(protect, names, guard.confidence, guard.max_fp_rise)
        guard.limits_under(protected)  # which checks them
        if isinstance(predict, PreparedPredict) and task is not None:
            raise ValueError(
                f"predict={type(predict).__name__}(...) decides classes, and task={type(task).__name__}(...) does not; "
                "leave task out"
            )
        _check_task(task, guard, protected)
        return cls(
            num_classes=num_classes,
            class_names=names,
            protected=protected,
            kind=task,
            target_sparsity=target_sparsity,
            search=chosen,
            guard=guard,
            cut=cut,
            criterion=criterion,
            files=files,
            threshold=float(threshold),
            predict=predict or default_predict,
            guard_dataloader=guard_dataloader,
        )

    @property
    def task(self) -> Task:
        """What a decision is."""
        protected = [one.index for one in self.protected]
        if self.kind is None:
            return ClassesOrLabels(self.class_names, protected, self.threshold, self.guard.cluster)
        return ObjectTask(
            self.kind,
            self.class_names,
            protected,
            self.threshold,
            self.guard.cluster,
            with_offset=self.guard.offset == "validation",
        )

    @property
    def asks_validation(self) -> str | None:
        """The argument that makes validation data decide something, if one does."""
        if self.guard.offset == "validation":
            return "Guard.offset='validation'"
        if self.guard.judging == "end":
            return "Guard.judging='end'"
        return "search='adaptive'" if self.search.steps is not None else None

    @property
    def steps(self) -> AdaptiveSteps | None:
        """How the next density is chosen by validation data; None if it is not."""
        if self.search.steps is None or self.guard.judging == "round":
            return self.search.steps
        return TOWARDS_A_JUDGEMENT

    @property
    def tolerances(self) -> dict[str, FNTolerance]:
        """The protected classes' tolerances by name."""
        return {one.name: one.tolerance for one in self.protected}

    def card(self) -> dict[str, Any]:
        """What a kept network's card tells of how it was judged, in primitives."""
        return {
            "class_names": list(self.class_names),
            "protect": {name: tolerance.to_dict() for name, tolerance in self.tolerances.items()},
            "confidence": self.guard.confidence,
            "threshold": self.threshold,
        } | ({} if self.kind is None else {"rule": self.kind.in_words})

    def target(self, total: int) -> int:
        """The smallest number of pruned units whose share of `total` is at least the target, or the last density's."""
        sparsity = Fraction(str(self.target_sparsity))
        if isinstance(self.search, Gradual) and self.search.last is not None:
            sparsity = min(sparsity, 1 - Fraction(str(self.search.last)))
        return ceil(sparsity * total)

    def state_dict(self) -> dict[str, Any]:
        """Primitives that two runs must share for one to continue the other: all but where files and data are."""
        return dict(self._saved)

    def __post_init__(self) -> None:
        # Told now: a user's object may change while it is used.
        object.__setattr__(self, "_saved", self._told())

    def _told(self) -> dict[str, Any]:
        saved: dict[str, Any] = {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "protect": [one.saved() for one in self.protected],
            "target_sparsity": self.target_sparsity,
            "threshold": self.threshold,
            "predict": identity(self.predict),
            "search": type(self.search).__name__,
        }
        for options in (self.search, self.guard, self.cut):
            prefix = type(options).__name__
            saved |= {f"{prefix}.{one.name}": identity(getattr(options, one.name)) for one in fields(options)}
        if self.kind is not None:
            saved["task"] = identity(self.kind)
        if self.files.judged:
            saved["Files.judged"] = list(self.files.judged)
        if self.files.nested:
            saved["Files.nested"] = True
        return saved | {"Cut.criterion": self.criterion.identity}


def _check_task(task: object, guard: Guard, protected: Sequence[Protected]) -> None:
    if task is None:
        return
    if not isinstance(task, Segmentation | InstanceSegmentation | Detection | Tokens):
        raise ValueError(
            f"task={task!r} must be None for classes or labels, or one of lightning_classprune.tasks: "
            "Segmentation(...), InstanceSegmentation(...), Detection(...), Tokens(...)"
        )
    if isinstance(task, Tokens) and guard.corruptions is not None:
        raise ValueError("Guard.corruptions change images, and task=Tokens(...) has none; leave them out")
    if guard.offset == "validation" and task.competes and len(protected) > 1:
        raise ValueError(
            f"Guard.offset='validation' with {len(protected)} protected classes and task={type(task).__name__}(...): "
            f"classes compete for {task.noun}, and offsets of several are not tried together; protect one class, or "
            "use offset='none'"
        )


def _class_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    if class_names is None:
        return tuple(str(i) for i in range(num_classes))
    listed = isinstance(class_names, Sequence) and not isinstance(class_names, str)
    names = tuple(class_names) if listed and all(isinstance(name, str) for name in class_names) else ()
    if len(names) != num_classes:
        told = repr(class_names) if len(repr(class_names)) < 1000 else f"{len(names)} names"
        raise ValueError(f"class_names={told} must be {num_classes} different names, one a class")
    check_names("class_names", names)
    return names


def _check_guard_dataloader(loader: Any) -> None:
    iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if loader is not None and (isinstance(loader, str) or not (callable(loader) or iterable)):
        raise ValueError(
            f"guard_dataloader={loader!r} is no data: a DataLoader, several, a function that returns them, or None for "
            "the datamodule's guard_dataloader()"
        )
