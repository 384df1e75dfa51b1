"""Ladders of three tickets, with weights of their own and with one set of weights: bytes, switching, FN, FP and AUC.

    python -m benchmarks.ladder run --runs outputs/ladder --seeds 1 2 3
    python -m benchmarks.ladder report --runs outputs/ladder

The ready-made job on the solar cells with candidates of 20%, 10% and 5% of the weights; "nested" adds the round in
which they come to share their weights (`Files(nested=True)`), and is otherwise the same run. The guard judges once,
so a ladder holds the dense network and those of the three that it accepted. It is read (`read_ladder`), measured
(`measure_ladder`), written to one file (`save_ladder`), read and written again, which must give the same bytes, and
walked (`switch_ticket`); milliseconds are CPU time of one thread, the shortest of nine. Misses, false alarms and AUC
are of the test split, which nothing else reads, with each ticket's own decision offset. A run leaves one JSON and is
skipped where that exists.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate

from benchmarks.search.both_sides import WithOffset, mean_interval, told
from benchmarks.search.runs import command_line, on_test, quieten, run_missing
from benchmarks.support import job_config, markdown, one_thread, read_runs, write
from lightning_classprune import measure_ladder, read_ladder, save_ladder, switch_ticket
from lightning_classprune.export.latency import interleaved
from lightning_classprune.job import app
from lightning_classprune.job.run_folder import RunFolder

DENSITIES = (0.2, 0.1, 0.05)
ARMS = {
    "own": ("weights of their own", []),
    "nested": ("one set of weights", ["callbacks.classprune.files.nested=true"]),
}


def trained(arm: str, seed: int, runs: Path) -> RunFolder:
    """The finished run of an arm, from before or trained now."""
    folder = RunFolder((runs / f"{arm}-{seed}").absolute())
    if folder.status()["state"] != "finished":
        densities = f"search.densities=[{','.join(map(str, DENSITIES))}]"
        always = [f"run_dir='{folder.path}'", f"seed={seed}", "trainer.enable_progress_bar=false", densities]
        app.run(job_config([*always, *ARMS[arm][1]]), resume=folder.config_file.is_file())
    return folder


def measured(arm: str, seed: int, runs: Path) -> dict[str, Any]:
    """What there is to say of the ladder of one run."""
    run = trained(arm, seed, runs)
    cfg = run.config()
    data = instantiate(cfg.data)
    data.setup()
    module, protected = app.build_module(cfg).eval(), cfg.facts.protected[0]
    example = next(iter(data.train_dataloader()))[0]
    ladder = measure_ladder(read_ladder(run.path / "tickets", module), module, example)
    with tempfile.TemporaryDirectory() as folder:
        file, again = Path(folder) / "ladder.safetensors", Path(folder) / "again.safetensors"
        size = save_ladder(file, ladder)
        save_ladder(again, read_ladder(file, module))
        if again.read_bytes() != file.read_bytes():
            raise AssertionError("the same ladder made two files")
        read = interleaved({"read": partial(read_ladder, file, module)}, rounds=9)["read"]
        up_to = [
            save_ladder(again, replace(ladder, members=ladder.members[: n + 1], parts=ladder.parts[: n + 1]))
            for n in range(len(ladder.members))
        ]
    switch = {
        str(one.round): partial(switch_ticket, module, ladder, max_bytes=one.bytes) for one in ladder.members
    }
    names, members = list(cfg.facts.class_names), []
    for number, one in enumerate(ladder.members):
        twin = copy.deepcopy(module)
        twin.load_state_dict(ladder.network(number)[0])
        test = on_test(cast(Any, WithOffset(twin.eval(), one.offsets, names)), data, protected)
        said = {key: one.verdict[key] for key in ("round", "sparsity", "verdict")}
        said |= {"bytes": one.bytes, "in_the_file": up_to[number] - (up_to[number - 1] if number else 0)}
        members.append(said | {"multiplications": one.multiplications, "ms": one.ms, "test": test})
    return {
        "arm": arm,
        "seed": seed,
        "file": size,
        "read_ms": read,
        "switch_ms": max(interleaved(switch, rounds=9).values()),
        "members": members,
        "ledger": [
            {key: row.get(key) for key in ("round", "sparsity", "verdict", "nested")} for row in run.ledger()
        ],
    }


def summed_up(result: Mapping[str, Any]) -> str:
    tickets = [f"{one['sparsity']:.0%} AUC {one['test']['auc']:.3f}" for one in result["members"]]
    return f"{result['file']:,} bytes; {', '.join(tickets)}"


# -- the report --


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Every ticket of every run."""
    return markdown(
        [
            {
                "weights": ARMS[result["arm"]][0] if one["sparsity"] else "dense",
                "seed": result["seed"],
                "kept": f"{1 - one['sparsity']:.0%}",
                "ticket, bytes": f"{one['bytes']:,}",
                "adds to the file": f"{one['in_the_file']:,}",
                "multiplications": f"{one['multiplications']:,}",
                "ms": one["ms"],
                "FN": f"{one['test']['fn']} of {one['test']['positives']}",
                "FP": f"{one['test']['fp']} of {one['test']['negatives']}",
                "AUC": f"{one['test']['auc']:.3f}",
            }
            for result in results
            for one in result["members"]
        ]
    )


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """An arm a line: how many were accepted, and what the pruned ones take beside the densest of them."""
    rows = []
    for arm, (name, _) in ARMS.items():
        mine = [result for result in results if result["arm"] == arm]
        shares = [
            sum(one["in_the_file"] for one in result["members"][1:])
            / sum(one["bytes"] for one in result["members"][1:])
            for result in mine
            if len(result["members"]) > 2
        ]
        beside = [
            sum(one["in_the_file"] for one in result["members"][1:]) / result["members"][1]["bytes"]
            for result in mine
            if len(result["members"]) > 2
        ]
        accepted = [len(result["members"]) - 1 for result in mine]
        rows.append(
            {
                "weights": name,
                "accepted": f"{sum(accepted)} of {len(DENSITIES) * len(mine)}",
                "one file, of separate tickets": _share(shares),
                "one file, of the densest ticket": _share(beside),
                "switch, ms": max(result["switch_ms"] for result in mine),
                "read the file, ms": max(result["read_ms"] for result in mine),
            }
        )
    return markdown(rows)


def _share(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ", ".join(f"{value:.3f}" for value in values) or "-"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(values))


def paired(results: Sequence[Mapping[str, Any]]) -> str:
    """Nested against weights of their own, by seed and density where both were accepted."""
    found = {
        (result["arm"], result["seed"], round(1 - one["sparsity"], 3)): one["test"]
        for result in results
        for one in result["members"]
    }
    rows = []
    for density in DENSITIES:
        pairs = [
            (now, found["own", seed, density])
            for (arm, seed, kept), now in found.items()
            if arm == "nested" and kept == density and ("own", seed, density) in found
        ]
        if len(pairs) > 1:
            rows.append(
                {
                    "kept": f"{density:.0%}",
                    "seeds": len(pairs),
                    "FN": told([(now["fn"] - own["fn"]) / now["positives"] for now, own in pairs]),
                    "FP": told([(now["fp"] - own["fp"]) / now["negatives"] for now, own in pairs]),
                    "AUC": told([now["auc"] - own["auc"] for now, own in pairs]),
                }
            )
    return markdown(rows) if rows else "Too few seeds for an interval."


def report(runs: Path, out: Path) -> None:
    """Write ladder.md and ladder.json of all runs that there are."""
    results = read_runs(runs / "elpv", "*.json")
    order = list(ARMS)
    results.sort(key=lambda result: (order.index(result["arm"]), result["seed"]))
    text = [
        "# Ladders: tickets with weights of their own, and with one set of weights",
        "",
        "`python -m benchmarks.ladder --help` explains how this was made. Solar cells, test split. *One file* counts",
        "the pruned tickets, without the dense network; mean and Student's 95% interval of several seeds.",
        "",
        summary(results),
        "",
        "One set of weights against weights of their own, paired by seed, where both were accepted:",
        "",
        paired(results),
        "",
        "Milliseconds of the tickets: a forward of one training batch in PyTorch, which multiplies by zeros too.",
        "",
        table(results),
    ]
    write(out / "ladder.md", text)
    write(out / "ladder.json", [json.dumps(results, indent=1)])


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.set_defaults(seeds=[1, 2, 3])
    given = parser.parse_args()
    one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
        return
    run_missing(
        "elpv",
        given.runs,
        [(arm, seed) for seed in given.seeds for arm in given.arms],
        lambda arm, seed: measured(arm, seed, given.runs),
        summed_up,
    )


if __name__ == "__main__":
    main()
