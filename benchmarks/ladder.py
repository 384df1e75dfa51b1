"""A ladder in one file, and switching between its tickets: bytes, milliseconds, and misses and false alarms of each.

    python -m benchmarks.ladder RUN_DIR ... [--out benchmarks/results]

of finished runs of the ready-made job, such as those that `benchmarks.deploy` leaves. The ladder of each is read
(`read_ladder`), measured (`measure_ladder`), written to one file (`save_ladder`), read and written again, which must
give the same bytes, and walked (`switch_ticket`); milliseconds are CPU time of one thread, the shortest of nine.

"One value set" is what a ladder of nested masks would be: the same masks over the weights of the densest pruned ticket,
as they are, and after a joint training of 8 epochs, at a tenth of the job's learning rate, in which each step adds the
losses of all members (as in slimmable networks, Yu et al. 2019); both with BatchNorm measured anew for each on the
training data. Nothing judged those. Misses, false alarms and AUC are of the test split, which nothing else reads.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.func import functional_call

from benchmarks.search.both_sides import WithOffset
from benchmarks.search.runs import on_test, quieten
from benchmarks.support import command_line, markdown, one_thread, write
from lightning_classprune import measure_ladder, read_ladder, save_ladder, switch_ticket
from lightning_classprune.export.folding import estimate_batchnorm
from lightning_classprune.export.latency import interleaved
from lightning_classprune.job import app
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.tickets.joint import JointLadder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.trainer.names import named_parameters

EPOCHS = 8  # of the joint training
OWN, AS_THEY_ARE, TOGETHER = "its own", "one value set, as it is", "one value set, trained together"


def measured(run: Path) -> dict[str, Any]:
    """What there is to say of the ladder of one run."""
    cfg = RunFolder(run).config()
    data = instantiate(cfg.data)
    data.setup()
    module, protected = app.build_module(cfg).eval(), cfg.facts.protected[0]
    batches = [x for x, _ in data.train_dataloader()]
    ladder = measure_ladder(read_ladder(run / "tickets", module), module, batches[0])
    with tempfile.TemporaryDirectory() as folder:
        file, again = Path(folder) / "ladder.safetensors", Path(folder) / "again.safetensors"
        size = save_ladder(file, ladder)
        save_ladder(again, read_ladder(file, module))
        if again.read_bytes() != file.read_bytes():
            raise AssertionError("the same ladder made two files")
        read = interleaved({"read": partial(read_ladder, file, module)}, rounds=9)["read"]
        switch = {
            str(one.round): partial(switch_ticket, module, ladder, max_bytes=one.bytes)
            for one in ladder.members
        }
        took = max(interleaved(switch, rounds=9).values())
        names = list(cfg.facts.class_names)
        networks = [held(module, ladder, number) for number in range(len(ladder.members))]
        tests = {
            OWN: [
                on_test(cast(Any, WithOffset(network, member.offsets, names)), data, protected)
                for network, member in zip(networks, ladder.members, strict=True)
            ]
        }
        masks = [ladder.network(number)[1] for number in range(1, len(ladder.members))]
        sizes = {OWN: size}
        if len(masks) > 1:
            together = copy.deepcopy(networks[1])
            train_together(together, masks, data, cfg.optimizer.lr / 10, cfg.seed)
            for name, network in ((AS_THEY_ARE, networks[1]), (TOGETHER, together)):
                home = Path(folder) / name
                sizes[name], found = one_value_set(network, masks, batches, data, protected, home)
                tests[name] = [tests[OWN][0], *found]
    return {"name": run.name, "ladder": ladder, "sizes": sizes, "tests": tests, "switch": took, "read": read}


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
) -> tuple[int, list[dict[str, Any]]]:
    """Bytes of one file of the networks that the masks make of one set of weights, and what they decide."""
    found = []
    for number, mask in enumerate(masks):
        twin = copy.deepcopy(module).eval()
        apply_masks(mask, named_parameters(twin))
        estimate_batchnorm(twin, batches)
        found.append(on_test(twin, data, protected))
        row = {"round": number, "sparsity": 0.0, "verdict": "unproven", "classes": {}}
        Ladder(folder).add(row, twin.state_dict(), mask, {"verdict": row})
    return save_ladder(folder / "one", read_ladder(folder)), found


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


def table(found: Mapping[str, Any]) -> str:
    """Each ticket with its own values, and with those that it would share."""
    rows = []
    for number, member in enumerate(found["ladder"].members):
        for values, tests in found["tests"].items():
            if number == 0 and values != OWN:
                continue
            test = tests[number]
            rows.append(
                {
                    "weights": f"{1 - member.verdict['sparsity']:.2%}",
                    "values": values,
                    "verdict": member.verdict["verdict"] if values == OWN else "not judged",
                    "ticket, bytes": f"{member.bytes:,}" if values == OWN else "-",
                    "multiplications": f"{member.multiplications:,}",
                    "ms": member.ms if values == OWN else "-",
                    "FN": f"{test['fn']} of {test['positives']}",
                    "FP": f"{test['fp']} of {test['negatives']}",
                    "AUC": f"{test['auc']:.3f}",
                }
            )
    return markdown(rows)


def section(found: Mapping[str, Any]) -> list[str]:
    members, sizes = found["ladder"].members, found["sizes"]
    separate, pruned = sum(one.bytes for one in members), sum(one.bytes for one in members[1:])
    text = [
        f"## {found['name'].replace('_', ' ').strip()}",
        "",
        f"Separate tickets {separate:,} bytes, one file {sizes[OWN]:,} ({sizes[OWN] / separate:.2f}x). A switch takes "
        f"{found['switch']:.2g} ms, reading and verifying the file {found['read']:.2g} ms.",
        "",
    ]
    if TOGETHER in sizes:
        nested, densest = sizes[TOGETHER], members[1].bytes
        text += [
            f"Pruned tickets alone: separate {pruned:,} bytes, the densest of them {densest:,}; one value set for all, "
            f"in one file, {nested:,} ({nested / pruned:.2f}x of the separate ones).",
            "",
        ]
    return [*text, table(found), ""]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    given = parser.parse_args()
    one_thread()
    quieten()
    text = [
        "# A ladder in one file",
        "",
        "`python -m benchmarks.ladder --help` explains how this was made. One run each, seed 1, test split of the",
        "solar cells. Milliseconds of the tables: a forward of one training batch in PyTorch.",
        "",
    ]
    for run in given.runs:
        text += section(measured(run.absolute()))
    write(given.out / "ladder.md", text)


if __name__ == "__main__":
    main()
