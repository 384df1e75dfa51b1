"""Objects and units: level and power of the tests of units, time of the matching, networks that find objects pruned.

    python -m benchmarks.objects tables
    python -m benchmarks.objects run --data nuclei --root FOLDER --seeds 11 12 13 14 15
    python -m benchmarks.objects run --data blood --root FOLDER --seeds 11 12 13 14 15
    python -m benchmarks.objects matching --root FOLDER

`tables`: units of several objects whose fates are correlated (beta-binomial: the four fates of an object - found by
both networks, newly missed, newly found, missed by both - are drawn from a Dirichlet distribution of the unit with the
correlation given). Level: the true rise is exactly the tolerance, .05, and how often it is accepted all the same at 95%
confidence. For `one` and `betting` the rise is of objects, averaged over units; for `any` of units with any missed
object, whose true rise is made exactly the tolerance. `pooled` takes all objects for independent cases, as nobody
should. Power: an unchanged network, which differs on 5% of the objects, half each way.

`run`: the ready-made job (`data=nuclei_npz`, `data=boxes_npz`) with its own settings, one run folder a seed under
`--runs`; a finished one is not done again. The table tells of the test part, dense beside delivered: missed objects by
the rule that was judged (IoU .5) and by a milder one, unmatched predictions, units, sparsity, verdicts. Blood cells are
judged by the protected class, `WBC`; the others are counted beside it.

The first network that the guard did not accept looks at the guard's pictures once more, with the offset of its row:
those in which it finds objects otherwise than the dense network are drawn, the objects outlined.

`matching`: how long 500 pictures of nuclei take by each rule, once they lie in memory: every nucleus' prediction is the
nucleus moved by up to a pixel each way, some are left out, and some are made up. Without `--root` ellipses take
the place of nuclei.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from benchmarks.robustness import interval
from benchmarks.support import (
    RESULTS,
    command_line,
    job_config,
    markdown,
    named,
    one_thread,
    quiet_trainer,
    versions,
    write,
)
from lightning_classprune import files, load_ticket
from lightning_classprune.guard.betting import betting_p_value
from lightning_classprune.guard.matching import boxes_of, in_turn
from lightning_classprune.guard.objects import Found, ObjectTask, Reading
from lightning_classprune.guard.statistics import exact_p_value, rate_upper, tango_z
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation, Segmentation
from lightning_classprune.job import app
from lightning_classprune.job.objects.final_test import ObjectTest
from lightning_classprune.job.objects.finder import ReadObjects
from lightning_classprune.job.report.pictures import pixels
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.object_pictures import object_pictures
from lightning_classprune.ledger.rows import delivered_row, dense_row

TOLERANCE, ALPHA = 0.05, 0.05
#: Units and objects of each.
SIZES = ((60, 6), (60, 28), (150, 6), (300, 6))
CORRELATIONS = (0.0, 0.05, 0.1, 0.25, 0.5)
#: Shares of objects that are missed by both networks, and newly found, where the level is looked at.
BOTH, FOUND = 0.05, 0.03

Counts = NDArray[np.int64]
Ints = NDArray[np.int64]
Test = Callable[[Counts, np.random.Generator], float]


def fates(
    shares: tuple[float, ...],
    units: int,
    objects: int,
    correlation: float,
    sims: int,
    rng: np.random.Generator,
) -> Counts:
    """`(sims, units, 4)`: objects found by both, newly missed, newly found, missed by both."""
    if correlation:
        strength = (1 - correlation) / correlation
        mean = np.maximum(np.array(shares), 1e-9)
        gammas = np.maximum(rng.standard_gamma(mean * strength, (sims, units, 4)), 1e-300)
        chances = gammas / gammas.sum(-1, keepdims=True)
    else:
        chances = np.broadcast_to(np.array(shares), (sims, units, 4))
    counts: Counts = rng.multinomial(objects, chances)
    return counts


def one(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by one object a unit."""
    edges = counts.cumsum(-1)
    drawn = (rng.integers(0, edges[:, -1])[:, None] >= edges).sum(-1)
    return exact_p_value(int((drawn == 1).sum()), int((drawn == 2).sum()), len(counts), TOLERANCE)


def any_missed(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by units with any missed object."""
    now, before = counts[:, 1] + counts[:, 3] > 0, counts[:, 2] + counts[:, 3] > 0
    return exact_p_value(int((now & ~before).sum()), int((before & ~now).sum()), len(counts), TOLERANCE)


def betting(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by the units' means."""
    return betting_p_value(((counts[:, 1] - counts[:, 2]) / counts.sum(-1)).tolist(), TOLERANCE)


def pooled(counts: Counts, rng: np.random.Generator) -> float:
    """P-value of all objects as if they were independent, by the score test: the exact one of so many takes long."""
    new, gone = int(counts[:, 1].sum()), int(counts[:, 2].sum())
    return float(ndtr(tango_z(new, gone, int(counts.sum()), TOLERANCE)))


TESTS: dict[str, Test] = {"one": one, "any": any_missed, "betting": betting, "pooled": pooled}


def at_the_limit(name: str, objects: int, correlation: float) -> tuple[float, ...]:
    """Shares of the four fates with which the rise that a test is about is exactly the tolerance."""
    if name != "any":
        new = FOUND + TOLERANCE
        return (1 - BOTH - FOUND - new, new, FOUND, BOTH)
    low, high = FOUND, 1 - BOTH - FOUND
    for _ in range(30):
        new = (low + high) / 2
        rise = _clear(FOUND + BOTH, objects, correlation) - _clear(new + BOTH, objects, correlation)
        low, high = (new, high) if rise < TOLERANCE else (low, new)
    return (1 - BOTH - FOUND - low, low, FOUND, BOTH)


def _clear(missed: float, objects: int, correlation: float) -> float:
    """Chance that a unit has no missed object (beta-binomial)."""
    if not correlation:
        return float((1 - missed) ** objects)
    strength = (1 - correlation) / correlation
    a, places = (1 - missed) * strength, np.arange(objects)
    return float(np.prod((a + places) / (strength + places)))


def accepted(
    name: str, shares: tuple[float, ...], size: tuple[int, int], rho: float, sims: int, seed: int
) -> int:
    """How often of `sims` times a test accepts."""
    rng = np.random.default_rng([seed, int(1000 * rho), *size])
    counts = fates(shares, *size, rho, sims, rng)
    return sum(TESTS[name](each, rng) <= ALPHA for each in counts)


def tables(sims: int, seed: int) -> str:
    """Both tables in Markdown."""
    head = "| units x objects | correlation | " + " | ".join(TESTS) + " |\n|---|---|" + "---|" * len(TESTS)
    level, power = [head], [head]
    for size in SIZES:
        for rho in CORRELATIONS:
            cells = [accepted(t, at_the_limit(t, size[1], rho), size, rho, sims, seed) for t in TESTS]
            level.append(_line(size, rho, [_share(k, sims) for k in cells]))
            same = (1 - 0.05 - BOTH, 0.025, 0.025, BOTH)
            cells = [accepted(t, same, size, rho, sims, seed + 1) for t in TESTS]
            power.append(_line(size, rho, [f"{k / sims:.2f}" for k in cells]))
    return (
        f"# Tests of units\n\n{sims} simulations a cell, seed {seed}, {named(versions())}; tolerance {TOLERANCE:g} at "
        "95% confidence. What the cells are is said in `benchmarks/objects.py`; `pooled`, the test of all objects as "
        "if they were independent, is what the package does not do.\n\n## Level\n\nHow often a true rise of exactly "
        "the tolerance is accepted, in percent, and the upper end of a 95% interval: at most 5 where a test holds.\n\n"
        + "\n".join(level)
        + "\n\n## Power\n\nHow often an unchanged network is accepted that differs on 5% of the objects, half each "
        "way.\n\n" + "\n".join(power) + "\n"
    )


def _line(size: tuple[int, int], rho: float, cells: list[str]) -> str:
    return f"| {size[0]} x {size[1]} | {rho:g} | " + " | ".join(cells) + " |"


def _share(k: int, sims: int) -> str:
    return f"{100 * k / sims:.1f} ({100 * rate_upper(k, sims, 0.025):.1f})"


# -- real pictures --

#: Data group of the job, what is protected, and the rules that the table tells, the judged one first.
DATA: dict[str, tuple[str, list[str]]] = {
    "nuclei": ("nuclei_npz", ["nucleus"]),
    "blood": ("boxes_npz", ["RBC", "WBC", "Platelets"]),
}
RULES: dict[str, dict[str, Any]] = {
    "nuclei": {"IoU .5": InstanceSegmentation(), "centroid": InstanceSegmentation(rule="centroid")},
    "blood": {
        "IoU .5": Detection(score_threshold=0.3),
        "IoU .3": Detection(iou=0.3, score_threshold=0.3),
    },
}


class KeepCandidates(Callback):
    """Copies the networks that the guard has judged, of which a run itself keeps those that were accepted only.

    Args:
        tickets: Where the run keeps them until it ends.
        folder: Where the copies go, as `kept-round=NN.safetensors`.
    """

    def __init__(self, tickets: str, folder: str) -> None:
        self._tickets, self._folder = Path(tickets), Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """They are judged, and not yet removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in self._tickets.glob("kept-round=*.safetensors"):
            shutil.copyfile(file, self._folder / f"{file.stem.rpartition('-')[0]}.safetensors")


def job(data: str, root: Path, folder: Path, seed: int, overrides: Sequence[str]) -> RunFolder:
    """Do the job of one seed, unless its folder holds it already."""
    run = RunFolder(folder)
    if run.config_file.is_file() and run.status()["state"] == "finished":
        return run
    group, _ = DATA[data]
    keep = {
        "tickets": run.tickets,
        "folder": folder / CANDIDATES,
        "_target_": "benchmarks.objects.KeepCandidates",
    }
    own = [f"data={group}", f"data.root={root}", f"seed={seed}", f"run_dir={folder}"]
    own += [f"+callbacks.keep_candidates.{name}={value}" for name, value in keep.items()]
    config = job_config([*own, *QUIET, *overrides])
    app.run(config)
    return run


#: Of every run: nothing on the terminal, and no GPU.
QUIET = ("trainer.enable_progress_bar=false", "trainer.accelerator=cpu")


#: In the run folder: the networks that the guard judged.
CANDIDATES = "candidates"
#: In the run folder: what a finished run's networks find in the test part.
MEASURED = "objects.json"


def measured(data: str, run: RunFolder, seed: int) -> dict[str, Any]:
    """What a run says: its verdicts, and by class and rule the counts of its dense and its delivered network."""
    kept = run.path / MEASURED
    if kept.is_file():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    config, rows = run.config(), run.ledger()
    module = app.build_module(config)
    archive = split_of(run)
    final, dense = delivered_row(rows), dense_row(rows)
    assert final is not None
    assert dense is not None
    told: dict[str, Any] = {
        "seed": seed,
        "verdicts": [[row["sparsity"], row["verdict"]] for row in rows[1:]],
        "sparsity": final["sparsity"],
        "seconds": sum(row["seconds"] for row in rows),
        "pictures": len(archive.splits.parts["test"]),
        "guard": {
            name: [dense["classes"][name]["fn"], one["fn"], one["units"]]
            for name, one in final["classes"].items()
        },
        "test": [],
    }
    for rule, kind in RULES[data].items():
        look = partial(found, kind, module, archive.test_dataloader(), archive.class_names)
        before = look(run.tickets / "round=00.safetensors", {})
        offsets = {name: one["offset"] for name, one in final["classes"].items()}
        now = before if final is dense else look(run.accepted, offsets)
        for name in DATA[data][1]:
            misses, alarms = now.pairs(before, name)
            assert misses.inside is not None
            assert alarms.inside is not None
            inside = misses.inside
            told["test"].append(
                {
                    "class": name,
                    "rule": rule,
                    "objects": inside.cases,
                    "missed": [inside.before, inside.now],
                    "newly": [inside.new, inside.gone],
                    "unmatched": [alarms.inside.before, alarms.inside.now],
                    "units": misses.support,
                    "units_missed": [misses.baseline_missed, misses.fn],
                }
            )
    files.write_text(kept, json.dumps(told))
    return told


def split_of(run: RunFolder) -> Any:
    """The run's data, split."""
    archive: Any = instantiate(run.config().data)
    archive.setup()
    return archive


def refusal(data: str, run: RunFolder, out: Path) -> str | None:
    """Draw what the first refused network of a run misses, and say what; None where none was refused, or is left."""
    rows = run.ledger()
    place = next((place for place, row in enumerate(rows) if row["verdict"] in ("refused", "unproven")), None)
    if place is None:
        return None
    file = run.path / CANDIDATES / f"kept-round={place:02d}.safetensors"
    if not file.is_file():
        return None
    row, archive, module = rows[place], split_of(run), app.build_module(run.config())
    kind = next(iter(RULES[data].values()))
    name, counts = next(iter(row["classes"].items()))
    look = partial(found, kind, module, archive.guard_dataloader(), archive.class_names)
    dense, now = look(run.tickets / "round=00.safetensors", {}), look(file, {name: counts["offset"]})
    changes = now.changes(dense, name)
    newly = (len(changes.lost_sample), len(changes.won_sample))
    assert newly == (
        counts["objects_newly_missed"],
        counts["objects_newly_found"],
    )  # of the network in the row

    def picture(sample: int) -> Any:
        return pixels(
            archive.splits.parts["guard"][sample][0], archive.normalization, max(archive.image_size)
        )

    figure = object_pictures(picture, dense, now, name, most=8)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "objects_refusal.png", dpi=60)
    return (
        f"Seed {run.config().seed}, round {row['round']}: {row['sparsity']:.0%}, {row['verdict']}: of {name} "
        f"{counts['newly_missed']} units newly missed and {counts['newly_found']} newly found of {counts['units']} "
        f"(p = {counts['p_value']:.3g} at tolerance {counts['tolerance']:g}); {newly[0]} and {newly[1]} of "
        f"{counts['objects']} objects. Its pictures: [objects_refusal.png](objects_refusal.png)."
    )


def report(data: str, runs: Sequence[dict[str, Any]], overrides: Sequence[str]) -> list[str]:
    """Both tables of a data set in Markdown: what runs have in common, and each."""
    seeds = [one["seed"] for one in runs]
    delivered = sum(one["sparsity"] > 0 for one in runs)
    settings = f" with {' '.join(overrides)}" if overrides else " with its own settings"
    lines = [
        f"# {data.capitalize()}: dense and delivered",
        "",
        f"The job `data={DATA[data][0]}`{settings}; seeds {', '.join(map(str, seeds))}, the test part "
        f"({runs[0]['pictures']} pictures). {delivered} of {len(runs)} runs deliver a pruned network; where none is, "
        "the dense one is compared with itself. Changes are means over seeds with 95% intervals (Student's t). The "
        "guard judges units by the first rule, of "
        f"{' and '.join(f'{name!r}' for name in runs[0]['guard'])} alone.",
        "",
    ]
    rows = []
    for place, first in enumerate(runs[0]["test"]):
        mine = [one["test"][place] for one in runs]
        pictures = runs[0]["pictures"]
        rows.append(
            {
                "class": first["class"],
                "found by": first["rule"],
                "objects": first["objects"],
                "missed by the dense one": _rate([one["missed"][0] / one["objects"] for one in mine]),
                "change": _change([(one["missed"][1] - one["missed"][0]) / one["objects"] for one in mine]),
                "unmatched a picture, dense": _rate([one["unmatched"][0] / pictures for one in mine]),
                "their change": _change(
                    [(one["unmatched"][1] - one["unmatched"][0]) / pictures for one in mine]
                ),
                "units missed, change": _change(
                    [(one["units_missed"][1] - one["units_missed"][0]) / one["units"] for one in mine]
                ),
            }
        )
    each = [
        {
            "seed": one["seed"],
            "class": row["class"],
            "found by": row["rule"],
            "delivered": f"{one['sparsity']:.0%}",
            "missed": f"{row['missed'][0]} -> {row['missed'][1]} of {row['objects']} "
            f"(+{row['newly'][0]} -{row['newly'][1]})",
            "unmatched": f"{row['unmatched'][0]} -> {row['unmatched'][1]}",
            "missed units": f"{row['units_missed'][0]} -> {row['units_missed'][1]} of {row['units']}",
            "guard": "{} -> {} of {}".format(*one["guard"][row["class"]])
            if row["class"] in one["guard"]
            else "-",
            "verdicts": ", ".join(f"{sparsity:.0%} {verdict}" for sparsity, verdict in one["verdicts"]),
            "s": f"{one['seconds']:.0f}",
        }
        for one in runs
        for row in one["test"]
    ]
    return [
        *lines,
        markdown(rows),
        "",
        "Each run:",
        "",
        markdown(each),
        "",
        f"{named(versions())}, one core.",
    ]


def _rate(values: Sequence[float]) -> str:
    return f"{float(np.mean(values)):.3f}"


def _change(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:+.3f}±{half:.3f}"


def found(
    kind: Any, module: Any, loader: Any, names: Sequence[str], network: Path, offsets: Mapping[str, float]
) -> Found:
    """What a network finds in the pictures of a loader: that of a ticket, or of a checkpoint."""
    if network.suffix == ".ckpt":
        saved = torch.load(network, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["state_dict"])
    else:
        load_ticket(network, module)
    task = ObjectTask(kind, names, range(1, len(names)), 0.0, "one", with_offset=True)
    test = ObjectTest(task, ReadObjects())
    test.offsets = offsets
    quiet_trainer(test).test(module, loader, verbose=False)
    assert test.tested is not None
    return test.tested.found


# -- time of the matching --

PICTURES, BATCH, MOST = 500, 8, 5.0


def nuclei(root: Path | None) -> list[Ints]:
    """Maps of numbers of 500 pictures: of the archive, or of ellipses."""
    if root is not None:
        with np.load(root / "nuclei_dsb2018_192.npz", allow_pickle=False) as arrays:
            return [one.astype(np.int64) for one in arrays["instances"][:PICTURES]]
    rng = np.random.default_rng(0)
    rows, columns = np.indices((192, 192))
    made = []
    for _ in range(PICTURES):
        one = np.zeros((192, 192), np.int64)
        for number in range(1, 41):
            (y, x), (high, wide) = rng.integers(0, 192, 2), rng.uniform(4, 12, 2)
            one[((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2 < 1] = number
        made.append(one)
    return made


def guessed(true: Ints, rng: np.random.Generator) -> Ints:
    """A prediction: every object moved a little, some left out, a few made up."""
    moved = np.roll(true, rng.integers(-1, 2, 2), (0, 1))
    gone = rng.random(int(moved.max()) + 1) < 0.1
    moved = np.where(gone[moved], 0, moved)
    for number in range(1, 4):
        y, x = rng.integers(0, 180, 2)
        moved[y : y + 10, x : x + 10] = true.max() + number
    return moved


def listed(numbers: Ints, rng: np.random.Generator | None = None) -> dict[str, Any]:
    """Masks as `InstanceSegmentation` reads them, and their boxes; with scores where they are predictions."""
    there = np.unique(numbers[numbers > 0])
    told = {"map": torch.from_numpy(numbers), "labels": torch.ones(len(there), dtype=torch.int64)}
    places, count = in_turn(numbers)
    told["boxes"] = torch.from_numpy(boxes_of(places, count))
    if rng is not None:
        told["scores"] = torch.from_numpy(rng.random(len(there)))
    return told


def matching(root: Path | None) -> list[str]:
    """A table: seconds by rule, with and without the biases at which offsets are tried."""
    rng = np.random.default_rng(1)
    true = nuclei(root)
    claimed = [guessed(one, rng) for one in true]
    target, given = [listed(one) for one in true], [listed(one, rng) for one in claimed]
    masks, scores = (torch.from_numpy(np.stack(one) > 0) for one in (true, claimed))
    raw = np.where(scores, 3.0, -3.0) + rng.normal(size=scores.shape)
    logits = torch.from_numpy(ndimage.gaussian_filter(raw, (0, 1, 1))).float()
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "InstanceSegmentation, IoU": (InstanceSegmentation(), given, target),
        "InstanceSegmentation, centroid": (InstanceSegmentation(rule="centroid"), given, target),
        "InstanceSegmentation, coverage": (InstanceSegmentation(rule="coverage"), given, target),
        "Detection, IoU": (Detection(), given, target),
        "Segmentation, coverage": (Segmentation(), logits, masks.long()),
        "Segmentation, IoU": (Segmentation(rule="iou"), logits, masks.long()),
        "Segmentation, centroid": (Segmentation(rule="centroid"), logits, masks.long()),
    }
    rows = []
    for name, (kind, predictions, targets) in kinds.items():
        row: dict[str, Any] = {"task and rule": name}
        for with_offset in (False, True):
            biases = (0.0, *kind.biases()) if with_offset else (0.0,)
            how = Reading(("background", "nucleus"), (1,), 0.0, biases)
            began, found_, objects = time.process_time(), 0, 0
            for start in range(0, PICTURES, BATCH):
                batch = slice(start, start + BATCH)
                _, seen = kind.read(predictions[batch], targets[batch], how)
                found_, objects = found_ + int(seen[1].found[:, 0].sum()), objects + len(seen[1].found)
            row["objects"], row["found"] = objects, found_
            row["s with offsets" if with_offset else "s"] = f"{time.process_time() - began:.2f}"
            row["biases"] = len(biases)
        rows.append(row)
    which = "nuclei of the archive" if root is not None else "ellipses"
    return [
        "# Time of the matching",
        "",
        f"{PICTURES} pictures of 192 x 192 ({which}), in batches of {BATCH}, processor time of one core; with offsets: "
        f"what is found is counted at every bias. Each bias is one matching more. The aim is {MOST:g} s for one.",
        "",
        markdown(rows),
        "",
        f"Made by `python -m benchmarks.objects matching`, {named(versions())}.",
    ]


def main() -> None:
    """The command line."""
    parser = command_line(__doc__, RESULTS)
    what = parser.add_subparsers(dest="what", required=True)
    made = what.add_parser("tables")
    made.add_argument("--sims", type=int, default=2000, help="simulations a cell (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    ran = what.add_parser("run", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ran.add_argument("--data", choices=("nuclei", "blood"), required=True, help="which archive")
    ran.add_argument("--root", type=Path, required=True, help="folder of the archives")
    ran.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="one run each")
    ran.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    ran.add_argument(
        "--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="of the job's configuration"
    )
    timed = what.add_parser("matching")
    timed.add_argument("--root", type=Path, help="folder of the archives (default: ellipses are made up)")
    args = parser.parse_args()
    one_thread()
    if args.what == "matching":
        write(args.out / "objects_matching.md", matching(args.root))
        return
    if args.what == "tables":
        files.write_text(args.out / "objects_tests.md", tables(args.sims, args.seed))
        return
    runs = [
        measured(
            args.data,
            job(args.data, args.root, args.runs / f"{args.data}-{seed}", seed, args.overrides),
            seed,
        )
        for seed in args.seeds
    ]
    lines = report(args.data, runs, args.overrides)
    for seed in args.seeds:
        if told := refusal(args.data, RunFolder(args.runs / f"{args.data}-{seed}"), args.out):
            lines += ["", "## A refusal", "", told]
            break
    write(args.out / f"objects_{args.data}.md", lines)


if __name__ == "__main__":
    main()
