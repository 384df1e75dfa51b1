"""`run`: the job for nuclei and for blood cells, a run folder a seed, dense beside delivered on the test part.

The ready-made job (`data=nuclei_npz`, `data=boxes_npz`) with its own settings; a finished run is not done again. The
table tells of missed objects by the rule that was judged (IoU .5) and by a milder one, unmatched predictions, units,
sparsity, verdicts. Blood cells are judged by what the job protects; red cells are counted beside it.

The first network that the guard did not accept looks at the guard's pictures once more, with the offsets of its row:
those in which it finds objects otherwise than the dense network are drawn, the objects outlined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.robustness import interval
from benchmarks.support import job_config, markdown, named, quiet_trainer, versions
from lightning_classprune import files, load_ticket
from lightning_classprune.guard.objects import Found, ObjectTask
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation
from lightning_classprune.job import app
from lightning_classprune.job.objects.final_test import ObjectTest
from lightning_classprune.job.objects.finder import ReadObjects
from lightning_classprune.job.report.pictures import pixels
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.object_pictures import object_pictures
from lightning_classprune.ledger.rows import delivered_row, dense_row

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
        "_target_": "benchmarks.objects.pruned.KeepCandidates",
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
    name, counts = max(row["classes"].items(), key=lambda one: one[1]["p_value"])
    offsets = {of: one["offset"] for of, one in row["classes"].items()}
    look = partial(found, kind, module, archive.guard_dataloader(), archive.class_names)
    dense, now = look(run.tickets / "round=00.safetensors", {}), look(file, offsets)
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
        f"{counts['objects']} objects; {counts['new_alarms']} units with more unmatched predictions, "
        f"{counts['gone_alarms']} with fewer (p = {counts['fp_p_value']:.3g} at {counts['max_fp_rise']:g}). "
        "Its pictures: [objects_refusal.png](objects_refusal.png)."
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
        f"{' and '.join(f'{name!r}' for name in runs[0]['guard'])}.",
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
