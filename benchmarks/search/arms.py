"""What the search benchmark compares: the data, and the arms, each with what it is."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_classprune import Adaptive, Fixed

DATA = {
    "elpv": ("data=elpv",),
    "derma": (
        "data=npz",
        "data.name=skin_dermamnist_28",
        "data.one_vs_rest=mel",
        "protect={mel: 0.05}",
    ),
    "cracks": (
        "data=npz",
        "data._target_=benchmarks.paper.data.ThinnedNpz",
        "data.name=crack_pavement_concrete_64",
        "+data.train_counts=[2750,550]",
        "data.fractions={train: 0.70, val: 0.10, guard: 0.20, test: 0.0}",
        r"protect={positive \(crack\): 0.05}",
    ),
}
EPOCHS = 8  # of the dense round
SHORT = EPOCHS // 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm: at most one of `search` and `gradual_to`, without which it is a dense training.

    Attributes:
        about: What it is, for the report.
        search: That of the callback.
        gradual_to: Pruned share that Lightning's ModelPruning comes to after the dense training.
        loss: Of the conf group; None for the job's own.
        epochs: Of the dense round.
        as_long_as: Arm whose epochs a dense training takes instead.
    """

    about: str
    search: Fixed | Adaptive | None = None
    gradual_to: float | None = None
    loss: str | None = None
    epochs: int = EPOCHS
    as_long_as: str | None = None

    @property
    def prunes(self) -> bool:
        """Whether it is not a dense training alone."""
        return self.search is not None or self.gradual_to is not None


# One refusal ends a run, as with the fixed steps.
UNFORGIVING = Adaptive(round_epochs=SHORT, on_refusal="stop", retries=0, max_rounds=None)

ARMS = {
    "dense": Arm(about="round 0 alone"),
    "fixed 20%, init": Arm(
        about="a fifth a round, weights rewound to the start (Frankle & Carbin)", search=Fixed(fraction=0.2)
    ),
    "fixed 50%, init": Arm(
        about="a half a round, rewound to the start (Entezari & Saukh)", search=Fixed(fraction=0.5)
    ),
    "fixed 50%, lr": Arm(
        about="a half a round, learning-rate rewinding (Renda et al.)",
        search=Fixed(fraction=0.5, rewind="lr"),
    ),
    "fixed 75%, lr": Arm(
        about="three quarters a round, learning-rate rewinding", search=Fixed(fraction=0.75, rewind="lr")
    ),
    "one-shot 98%, lr": Arm(
        about="one step to 2%, learning-rate rewinding, one test",
        search=Fixed(fraction=0.98, rewind="lr", max_rounds=1),
    ),
    "gradual to 2%": Arm(
        about=f"after the dense training {EPOCHS} epochs at a constant rate of 5e-4 in which Lightning's "
        "ModelPruning follows the cubic of Zhu & Gupta, the last two without pruning; one test",
        gradual_to=0.98,
    ),
    "adaptive, lr": Arm(
        about=f"steps by validation data, learning-rate rewinding, rounds of {SHORT} epochs",
        search=UNFORGIVING,
    ),
    "adaptive, lr, one retry": Arm(
        about="the same with one retry, which shares the error level, in at most five rounds",
        search=Adaptive(round_epochs=SHORT, on_refusal="retry", retries=1, max_rounds=5),
    ),
    "adaptive, init": Arm(
        about=f"steps by validation data, rewound to the start, rounds of {EPOCHS} epochs",
        search=Adaptive(rewind="init", round_epochs=EPOCHS, on_refusal="stop", retries=0, max_rounds=None),
    ),
    "adaptive, lr, class-blind": Arm(
        about="control: the same with plain cross-entropy", search=UNFORGIVING, loss="cross_entropy"
    ),
    "dense, as long as adaptive, lr": Arm(
        about="control: one dense training of as many epochs as 'adaptive, lr' took",
        as_long_as="adaptive, lr",
    ),
    "dense, half as long": Arm(about="for the question whether round 0 may be cut short", epochs=EPOCHS // 2),
}
