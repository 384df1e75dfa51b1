"""`scores.npz`: what the dense and the delivered network said of the guard and the test split, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from lightning_classprune import files
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.objects.answers import Alarms, ObjectAnswers, found_arrays, found_from

AnyAnswers: TypeAlias = Answers | ObjectAnswers
#: Split (`guard`, `test`) -> network (`dense`, `delivered`) -> what it says there.
Scores = Mapping[str, Mapping[str, AnyAnswers]]

_ALARMS = ("sample", "label", "box")


def write_scores(path: Path, scores: Scores) -> None:
    """Write the arrays `SPLIT/target`, `SPLIT/NETWORK/predicted` and `SPLIT/NETWORK/margin/CLASS`.

    Of objects they are `SPLIT/sample`, `unit`, `kind`, `box` and so on, a row an object and one a sample and class, and
    `SPLIT/NETWORK/value` and `SPLIT/NETWORK/alarms/...`; see `guard.objects.Found`. `SPLIT/NETWORK/others/CLASS` are
    the missed objects of a class that nobody protects, and all of them.
    """
    arrays: dict[str, Any] = {}
    for split, networks in scores.items():
        for network, one in networks.items():
            if isinstance(one, ObjectAnswers):
                arrays |= _object_arrays(one, split, network)
            else:
                arrays |= _class_arrays(one, split, network)
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _class_arrays(one: Answers, split: str, network: str) -> dict[str, Any]:
    names = one.decisions.names
    return {
        "class_names": np.array(names),
        f"{split}/target": one.decisions.target.to(torch.int16).numpy(),
        f"{split}/{network}/predicted": one.decisions.predicted.to(torch.int16).numpy(),
        **{
            f"{split}/{network}/margin/{names.index(name)}": margin.numpy()
            for name, margin in one.margins.items()
        },
    }


def _object_arrays(one: ObjectAnswers, split: str, network: str) -> dict[str, Any]:
    return {
        **{f"{split}/{name}": array for name, array in found_arrays(one.found).items()},
        f"{split}/{network}/value": one.found.value.numpy().astype(np.int32),
        **{f"{split}/{network}/alarms/{name}": getattr(one.alarms, name).numpy() for name in _ALARMS},
        **{
            f"{split}/{network}/others/{one.found.names.index(name)}": np.array(counts, dtype=np.int64)
            for name, counts in one.others.items()
        },
    }


def read_scores(path: Path) -> dict[str, dict[str, AnyAnswers]]:
    """What `write_scores` wrote.

    Raises:
        ValueError, KeyError: It is not such a file.
    """
    found: dict[str, dict[str, AnyAnswers]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            for end, read in _READERS.items():
                if key.endswith(end):
                    split, network, _ = key.split("/")
                    found.setdefault(split, {})[network] = read(arrays, split, network)
    return found


def _answers(arrays: Any, split: str, network: str) -> Answers:
    names = tuple(str(name) for name in arrays["class_names"])
    target, predicted = arrays[f"{split}/target"], arrays[f"{split}/{network}/predicted"]
    decisions = Decisions(
        torch.from_numpy(target).long(), torch.from_numpy(predicted).long(), len(names), names
    )
    start = f"{split}/{network}/margin/"
    margins = {
        names[int(name.removeprefix(start))]: torch.from_numpy(arrays[name])
        for name in arrays.files
        if name.startswith(start)
    }
    return Answers(decisions, margins)


def _object_answers(arrays: Any, split: str, network: str) -> ObjectAnswers:
    start = f"{split}/"
    own = {name.removeprefix(start): arrays[name] for name in arrays.files if name.startswith(start)}
    alarms = {name: torch.from_numpy(own[f"{network}/alarms/{name}"]) for name in _ALARMS}
    found = found_from(own, own[f"{network}/value"])
    others = {}
    for name, array in own.items():
        if name.startswith(f"{network}/others/"):
            missed, cases = array.tolist()
            others[found.names[int(name.rpartition("/")[2])]] = (missed, cases)
    return ObjectAnswers(found, Alarms(**alarms), others)


#: What only one kind of answers has -> how it is read.
_READERS: dict[str, Callable[[Any, str, str], AnyAnswers]] = {
    "/predicted": _answers,
    "/value": _object_answers,
}
