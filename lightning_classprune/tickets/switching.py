"""Switching: a running network becomes another accepted ticket of its ladder, in place."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.tickets.joint import JointLadder, Member
from lightning_classprune.tickets.joint_file import read_ladder
from lightning_classprune.tickets.loading import in_words
from lightning_classprune.trainer.names import canonical

_BUDGETS: dict[str, Callable[[Member], float | None]] = {
    "max_bytes": lambda member: member.bytes,
    "max_multiplications": lambda member: member.multiplications,
    "max_ms": lambda member: member.ms,
}


def switch_ticket(
    model: nn.Module,
    ladder: JointLadder | str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    max_multiplications: int | None = None,
    max_ms: float | None = None,
) -> Member:
    """Make a running network the densest accepted ticket of its ladder that keeps a budget; give exactly one.

    The densest, because every ticket was accepted and a budget is there to be used: by recall on the guard data one
    ticket would be taken for almost every budget, as `load_ticket` does.

    Parameters and buffers are written in place, so that optimizers and other threads of the program hold them still;
    modes and gradients stay. Call it between two forwards. A `DecisionOffset` behind the network is set to the ticket's
    offsets; where there is none, a warning says what to add.

    Args:
        model: Of the architecture of the tickets, on any device; or a module of it and a `DecisionOffset`.
        ladder: What `read_ladder` returned, which is held in memory; a path is read and verified at every call.
        max_bytes: Size of its ticket file, 1 or more.
        max_multiplications: By weights that are not zero, for one sample, 1 or more.
        max_ms: Milliseconds of one forward, above 0.

    Returns:
        The ticket that the network is now, with its own verdict: of those that keep the budget, the one of the largest
        ticket file.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: No ticket keeps the budget, the cost was not measured (`measure_ladder`), the ladder is damaged, or
            the model is another; nothing is changed then.
    """
    limits = {"max_bytes": max_bytes, "max_multiplications": max_multiplications, "max_ms": max_ms}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if len(given) != 1:
        told = f"{' and '.join(given)} are" if given else "none is"
        raise ValueError(f"give exactly one of {', '.join(limits)}; {told} given")
    ((name, limit),) = given.items()
    _check_limit(name, limit)
    offset, network = _behind(model)
    if not isinstance(ladder, JointLadder):
        ladder = read_ladder(ladder, network)
    number = _choose(ladder, name, limit)
    member = ladder.members[number]
    biases = None if offset is None else torch.tensor(offset.biases(member.offsets))
    put_in(ladder, number, network)
    if offset is not None and biases is not None:
        offset.bias.copy_(biases)
    if offset is None and any(member.offsets.values()):
        rank_zero_warn(
            f"round {member.round} was judged with offsets: add {in_words(member.offsets)} before the decision "
            "(Member.offsets), or put a DecisionOffset behind the network, which is then set at every switch"
        )
    return member


@torch.no_grad()
def put_in(ladder: JointLadder, number: int, network: nn.Module) -> None:
    """Write a member of a ladder into a network, in place.

    Raises:
        ValueError: The network is another; it is not changed then.
    """
    for target, place in _targets(ladder, network):
        target.copy_(ladder.tensor(number, place))


def _check_limit(name: str, limit: float) -> None:
    kinds = (int, float) if name == "max_ms" else (int,)
    if type(limit) not in kinds or not (0 < limit < float("inf")):
        allowed = "a number above 0" if name == "max_ms" else "a whole number, 1 or more"
        raise ValueError(f"{name}={limit!r} is out of range: {allowed}")


def _choose(ladder: JointLadder, name: str, limit: float) -> int:
    """Which member to take."""
    found = [_BUDGETS[name](member) for member in ladder.members]
    costs = {number: cost for number, cost in enumerate(found) if cost is not None}
    if len(costs) < len(found):
        raise ValueError(
            f"{name}={limit!r}: that of the tickets in {ladder.path} is not known; measure it once with "
            "ladder = measure_ladder(read_ladder(path), model, example)"
        )
    fitting = [number for number, cost in costs.items() if cost <= limit]
    if not fitting:
        there = ", ".join(f"round {ladder.members[n].round}: {cost:.6g}" for n, cost in costs.items())
        raise ValueError(f"no ticket in {ladder.path} keeps {name}={limit!r}; there are {there}")
    return max(fitting, key=lambda number: ladder.members[number].bytes)


def _behind(model: nn.Module) -> tuple[DecisionOffset | None, nn.Module]:
    """The module that adds offsets, and the network before it, where the model is made of these two."""
    children = list(model.children())
    offsets = [child for child in children if isinstance(child, DecisionOffset)]
    others = [child for child in children if not isinstance(child, DecisionOffset)]
    return (offsets[0], others[0]) if len(offsets) == len(others) == 1 else (None, model)


def _targets(ladder: JointLadder, network: nn.Module) -> list[tuple[Tensor, int]]:
    """What is to be written -> which tensor of the ladder; ids tell tensors of the network from copies of a hook."""
    own = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    state = {
        name: tensor
        for name, tensor in network.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and id(tensor) in own
    }
    places = ladder.fitting(state)
    for name, tensor in state.items():
        if tensor.is_meta or hasattr(tensor, "to_local"):
            kind = "on the meta device" if tensor.is_meta else "spread over processes"
            raise ValueError(f"{canonical(name)} is {kind}; a network is switched where it is whole")
    return [(tensor, places[canonical(name)]) for name, tensor in state.items()]
