"""A ladder in one file, and switching between its tickets: bytes, milliseconds, and misses and false alarms of each.

    python -m benchmarks.ladder run --data elpv --runs outputs/ladder
    python -m benchmarks.ladder report --runs outputs/ladder

Each seed is the ready-made job with candidates of 20%, 5% and 1% of the weights; its ladder holds the dense network and
what the guard accepted. The ladder is read (`read_ladder`), measured (`measure_ladder`), written to one file
(`save_ladder`) and walked down and up again (`switch_ticket`); milliseconds are CPU time of one thread, the shortest of
nine. "One value set" is what a ladder of nested masks would be: the same masks over the weights of the densest pruned
ticket, as they are, and after a joint training of 24 epochs in which each step adds the losses of all members (as in
slimmable networks, Yu et al. 2019), both with BatchNorm measured anew for each on the training data; nothing judged
those. Misses, false alarms and AUC are of the test split, which nothing else reads; a ticket's offset is in its bias.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.func import functional_call

from benchmarks.search.both_sides import configured, told
from benchmarks.search.runs import command_line, on_test, quieten, run_missing, trainer
from benchmarks.support import markdown, one_thread, write
from lightning_classprune import (
    ClassAwarePruningCallback,
    measure_ladder,
    read_ladder,
    save_ladder,
    switch_ticket,
)
from lightning_classprune.export.folding import estimate_batchnorm
from lightning_classprune.export.latency import interleaved
from lightning_classprune.job import app
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.tickets.joint import JointLadder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.trainer.names import named_parameters

DENSITIES = (0.2, 0.05, 0.01)
EPOCHS = 24  # of the joint training

State = dict[str, Tensor]


def run_one(arm: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, Any]:
    folder = runs / data / f"run-{seed}"
    words = [f"search.densities=[{','.join(map(str, DENSITIES))}]"]
    cfg, made = configured(data, root, seed, str(folder), words)
    module, protected = app.build_module(cfg), cfg.facts.protected[0]
    if not Ladder(folder / "tickets").entries():
        pruning: ClassAwarePruningCallback = instantiate(cfg.callbacks.classprune)
        trainer(cfg.trainer.max_epochs, pruning).fit(module, datamodule=made)
    batches = [x for x, _ in made.train_dataloader()]
    ladder = measure_ladder(read_ladder(folder / "tickets", module), module, batches[0])
    file = folder / "ladder.safetensors"
    joint = save_ladder(file, ladder)
    again = folder / "again.safetensors"
    save_ladder(again, read_ladder(file, module))
    if again.read_bytes() != file.read_bytes():
        raise AssertionError("the same ladder made two files")
    members = [
        {
            "density": 1 - member.verdict["sparsity"],
            "bytes": member.bytes,
            "multiplications": member.multiplications,
            "verdict": member.verdict["verdict"],
            **on_test(held(module, ladder, number), made, protected),
        }
        for number, member in enumerate(ladder.members)
    ]
    switches = {
        str(member.bytes): partial(switch_ticket, module, ladder, max_bytes=member.bytes)
        for member in ladder.members
    }
    result = {"arm": arm, "data": data, "seed": seed, "joint": joint, "members": members}
    result["switch_ms"] = max(interleaved(switches, rounds=9).values())
    result["read_ms"] = interleaved({"read": partial(read_ladder, file, module)}, rounds=9)["read"]
    masks = [ladder.network(number)[1] for number in range(1, len(ladder.members))]
    if len(masks) > 1:
        shared = held(module, ladder, 1)
        result["as they are"] = one_value_set(shared, masks, batches, made, protected, folder)
        trained = copy.deepcopy(shared)
        train_together(trained, masks, made, cfg.optimizer.lr, seed)
        result["trained together"] = one_value_set(trained, masks, batches, made, protected, folder)
    return result


def held(module: LightningModule, ladder: JointLadder, number: int) -> LightningModule:
    """The module, which holds the member now."""
    twin = copy.deepcopy(module)
    twin.load_state_dict(ladder.network(number)[0])
    return twin.eval()


def one_value_set(
    module: LightningModule,
    masks: Sequence[Masks],
    batches: Sequence[Tensor],
    data: Any,
    protected: int,
    folder: Path,
) -> dict[str, Any]:
    """The networks that the masks make of one set of weights, and the bytes of all in one file."""
    tickets, found = folder / "nested", []
    Ladder(tickets).forget()
    for number, mask in enumerate(masks):
        twin = copy.deepcopy(module).eval()
        apply_masks(mask, named_parameters(twin))
        estimate_batchnorm(twin, batches)
        found.append(on_test(twin, data, protected))
        row = {"round": number, "sparsity": 0.0, "verdict": "unproven", "classes": {}}
        Ladder(tickets).add(row, twin.state_dict(), mask, {"verdict": row})
    return {"joint": save_ladder(folder / "nested.safetensors", read_ladder(tickets)), "members": found}


def train_together(module: Any, masks: Sequence[Masks], data: Any, lr: float, seed: int) -> None:
    """Train one set of weights under all masks, in place: each step adds the losses of all members."""
    torch.manual_seed(seed)
    parameters = named_parameters(module)
    optimizer = module.make_optimizer(module.parameters())
    batches = data.train_dataloader()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=EPOCHS * len(batches))
    module.train()
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            for mask in masks:
                masked = {name: parameters[name] * mask[name] for name in mask}
                module.loss(functional_call(module, masked, (x,)), y).backward()
            optimizer.step()
            schedule.step()


# -- the report --


def summed_up(result: Mapping[str, Any]) -> str:
    parts = [("own", result["members"])]
    parts += [
        (name, result[name]["members"]) for name in ("as they are", "trained together") if name in result
    ]
    auc = {name: [round(one["auc"], 3) for one in members] for name, members in parts}
    separate = [one["bytes"] for one in result["members"]]
    return f"{separate} bytes, joint {result['joint']}, switch {result['switch_ms']:.2f} ms, AUC {auc}"


def rise(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, str]:
    return {
        "FN": told([(now["fn"] - was["fn"]) / now["positives"] for now, was in pairs]),
        "FP": told([(now["fp"] - was["fp"]) / now["negatives"] for now, was in pairs]),
        "AUC": told([now["auc"] - was["auc"] for now, was in pairs]),
        "FN at 5% FPR": told(
            [(now["fn_at_fpr"] - was["fn_at_fpr"]) / now["positives"] for now, was in pairs]
        ),
    }


def members_table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for density in DENSITIES:
        there = [
            (r, i) for r in results for i, one in enumerate(r["members"]) if close(one["density"], density)
        ]
        for values in ("its own", "as they are", "trained together"):
            pairs = [
                (r["members"][i] if values == "its own" else r[values]["members"][i - 1], r["members"][0])
                for r, i in there
                if values == "its own" or values in r
            ]
            if pairs:
                ladder = "accepted by the guard" if values == "its own" else "one value set, not judged"
                rows.append(
                    {
                        "weights": f"{density:.0%}",
                        "values": values,
                        "ladder": ladder,
                        "seeds": len(pairs),
                        **rise(pairs),
                    }
                )
    return markdown(rows)


def close(a: float, b: float) -> bool:
    return abs(a - b) < 0.1 * b


def bytes_table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for r in sorted(results, key=lambda r: r["seed"]):
        separate = [one["bytes"] for one in r["members"]]
        nested = r.get("trained together", {}).get("joint")
        rows.append(
            {
                "seed": r["seed"],
                "tickets, density": " ".join(f"{100 * one['density']:.3g}%" for one in r["members"]),
                "separate files": " + ".join(f"{one:,}" for one in separate) + f" = {sum(separate):,}",
                "one file": f"{r['joint']:,}",
                "pruned ones, separate": f"{sum(separate[1:]):,}",
                "pruned ones, one value set": "-" if nested is None else f"{nested:,}",
                "multiplications": " ".join(f"{one['multiplications'] / 1e6:.2f}M" for one in r["members"]),
                "switch, ms": r["switch_ms"],
                "read and verify, ms": r["read_ms"],
            }
        )
    return markdown(rows)


def report(runs: Path, out: Path) -> None:
    """Write ladder.md of all runs that there are."""
    results = [json.loads(file.read_text()) for file in sorted(runs.glob("*/*.json"))]
    text = [
        "# A ladder in one file",
        "",
        "`python -m benchmarks.ladder --help` explains how this was made. Test split; rise over the dense network of",
        "the same run, mean and Student's 95% interval over the seeds.",
        "",
    ]
    for data in sorted({r["data"] for r in results}):
        mine = [r for r in results if r["data"] == data]
        dense = [r["members"][0] for r in mine]
        text += [
            f"## {data}, default network",
            "",
            f"Test: {dense[0]['positives']} positives, {dense[0]['negatives']} negatives. Dense, mean: "
            f"FN {statistics.fmean(one['fn'] for one in dense):.1f}, "
            f"FP {statistics.fmean(one['fp'] for one in dense):.1f}, "
            f"AUC {statistics.fmean(one['auc'] for one in dense):.3f}.",
            "",
            bytes_table(mine),
            "",
            members_table(mine),
            "",
        ]
    write(out / "ladder.md", text)


def main() -> None:
    parser = command_line(__doc__)
    parser.set_defaults(seeds=[41, 42, 43])
    given = parser.parse_args()
    one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
        return
    run_missing(
        given.data,
        given.runs,
        [("ladder", seed) for seed in given.seeds],
        lambda arm, seed: run_one(arm, given.data, given.root, seed, given.runs),
        summed_up,
    )


if __name__ == "__main__":
    main()
