"""Folding beside taking channels out, without any retraining: misses, false alarms and AUC at equal multiplications.

    python -m benchmarks.folding run --data elpv --runs outputs/folding --dense outputs/both_sides
    python -m benchmarks.folding run --data derma --root FOLDER --runs outputs/folding --dense outputs/both_sides
    python -m benchmarks.folding run --data derma --root FOLDER --runs outputs/folding --network resnet
    python -m benchmarks.folding report --runs outputs/folding

The default network is the dense one that `benchmarks.search.both_sides run --arms now` left in its folder (`--dense`);
the residual one, a ResNet-18 of a quarter of the width, is trained here for 8 epochs, with the job's data and loss. Of
each group of coupled channels the same number stays in every arm, so that all have the same shapes: "removed" keeps
those of the largest weights (group magnitude, `ChannelUnits` by layer), "folded" merges by `compact(fold=...)`. "+ BN"
measures BatchNorm anew on the training data, once through. Nothing was tuned. All numbers are of the test split, which
nothing else reads. A run leaves one JSON and is skipped where that exists.
"""

from __future__ import annotations

import copy
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from benchmarks.search.both_sides import configured, dense_of, mean_interval, told
from benchmarks.search.runs import command_line, on_test, quieten, run_missing, trainer
from benchmarks.support import markdown, one_thread, read_runs, write
from lightning_classprune.export.compact import compact
from lightning_classprune.export.folding import estimate_batchnorm
from lightning_classprune.job import app
from lightning_classprune.pruning.channel_units import ChannelUnits
from lightning_classprune.pruning.channels import find_channels
from lightning_classprune.pruning.masks import Masks, full_masks
from lightning_classprune.pruning.slicing import slice_channels
from lightning_classprune.trainer.names import named_parameters

SHARES = (0.9, 0.75, 0.5)
NETWORKS = {"default": "default network", "resnet": "ResNet-18, a quarter of the width"}
EPOCHS = 8


def thin_resnet(in_channels: int, num_classes: int, width: int = 16, dropout: float = 0.0) -> nn.Sequential:
    """A ResNet-18 that begins with a 3x3 convolution of `width` channels at half of the size."""

    def block(fan_in: int, fan_out: int, stride: int) -> nn.Module:
        narrower = None
        if stride > 1:
            conv = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)
            narrower = nn.Sequential(conv, nn.BatchNorm2d(fan_out))
        made: nn.Module = BasicBlock(fan_in, fan_out, stride, narrower)
        return made

    widths = [width * 2**stage for stage in range(4)]
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(in_channels, width, 3, 2, 1, bias=False),
        "norm": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
    }
    for stage, (fan_in, fan_out) in enumerate(zip([width, *widths], widths, strict=False)):
        layers[f"stage{stage}"] = nn.Sequential(
            block(fan_in, fan_out, 1 if stage == 0 else 2), block(fan_out, fan_out, 1)
        )
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "drop": nn.Dropout(dropout)}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(widths[-1], num_classes)}))


def removed(module: LightningModule, example: Tensor, share: float) -> LightningModule:
    """The network with this share of the channels of each group, those of the largest weights."""
    smaller = copy.deepcopy(module)
    groups = find_channels(smaller, example).groups
    parameters = named_parameters(smaller)
    kept: Masks = {}
    for group in groups:
        units = ChannelUnits([group], parameters, "layer", by_layer=True)
        masks = full_masks(units.parameters)
        left = max(1, round(share * group.size))
        masks = units.shrink(masks, lambda name: parameters[name].detach().abs(), group.size - left)
        kept |= units._alive(masks)
    slice_channels(smaller, groups, kept)
    return smaller


def dense_network(
    network: str, data: str, root: str | None, seed: int, runs: Path, dense: Path
) -> tuple[LightningModule, Any, int]:
    """The trained network, its data, and the index of the protected class."""
    words = [] if network == "default" else ["model._target_=benchmarks.folding.thin_resnet"]
    with tempfile.TemporaryDirectory() as folder:
        cfg, made = configured(
            data, root, seed, folder, [*words, f"trainer.max_epochs={EPOCHS}"] if words else []
        )
    module = app.build_module(cfg)
    path = dense_of(dense, data, seed) if network == "default" else runs / data / f"resnet-{seed}.pt"
    if network != "default" and not path.exists():
        trainer(EPOCHS).fit(module, datamodule=made)
        torch.save(module.state_dict(), path)
    module.load_state_dict(torch.load(path))
    return module.eval(), made, cfg.facts.protected[0]


def run_one(network: str, data: str, root: str | None, seed: int, runs: Path, dense: Path) -> dict[str, Any]:
    module, made, protected = dense_network(network, data, root, seed, runs, dense)
    batches = [x for x, _ in made.train_dataloader()]
    example = batches[0][:2]
    rows = []
    for share in SHARES:
        folded = compact(module, example, fold=share)
        arms: dict[str, Any] = {"removed": removed(module, example, share), "folded": folded.model}
        for arm, smaller in arms.items():
            for measured in (False, True):
                if measured:
                    estimate_batchnorm(smaller, batches)
                row = {"share": share, "arm": arm + " + BN" * measured, "macs": folded.report["macs"]}
                rows.append(row | {"shapes": shapes(smaller), **on_test(smaller, made, protected)})
    for first, *others in ([r for r in rows if r["share"] == share] for share in SHARES):
        if any(row.pop("shapes") != first["shapes"] for row in others):
            raise AssertionError("the arms do not have the same shapes")
        first.pop("shapes")
    return {
        "network": network,
        "data": data,
        "seed": seed,
        "dense": on_test(module, made, protected),
        "rows": rows,
    }


def shapes(network: nn.Module) -> list[list[int]]:
    return [list(parameter.shape) for parameter in network.parameters()]


def summed_up(result: Mapping[str, Any]) -> str:
    found = {f"{row['arm']} {row['share']}": round(row["auc"], 3) for row in result["rows"]}
    return f"dense AUC {result['dense']['auc']:.3f}; {found}"


def table(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for share in SHARES:
        for arm in ("removed", "folded", "removed + BN", "folded + BN"):
            pairs = [
                (row, result["dense"])
                for result in results
                for row in result["rows"]
                if (row["share"], row["arm"]) == (share, arm)
            ]
            before, after = pairs[0][0]["macs"]
            rows.append(
                {
                    "channels left": f"{share:.0%}",
                    "multiplications": f"{after / before:.0%}",
                    "how": arm,
                    "FN": told([(now["fn"] - was["fn"]) / now["positives"] for now, was in pairs]),
                    "FP": told([(now["fp"] - was["fp"]) / now["negatives"] for now, was in pairs]),
                    "AUC": told([now["auc"] - was["auc"] for now, was in pairs]),
                    "FN at 5% FPR": told(
                        [(now["fn_at_fpr"] - was["fn_at_fpr"]) / now["positives"] for now, was in pairs]
                    ),
                }
            )
    return markdown(rows)


def against(results: Sequence[dict[str, Any]]) -> str:
    """AUC of folding against removal, paired."""
    found = []
    for share in SHARES:
        for more in ("", " + BN"):
            differences = []
            for result in results:
                auc = {row["arm"]: row["auc"] for row in result["rows"] if row["share"] == share}
                differences.append(auc["folded" + more] - auc["removed" + more])
            found.append(f"{share:.0%} left{more} {told(differences)}")
    return "; ".join(found)


def report(runs: Path, out: Path) -> None:
    """Write folding.md of all runs that there are."""
    results = read_runs(runs)
    text = [
        "# Folding beside taking channels out",
        "",
        "`python -m benchmarks.folding --help` explains how this was made. Nothing was trained again. Test split; rise",
        "over the dense network of the same seed, mean and Student's 95% interval over the seeds. FN and FP at the",
        "dense network's own threshold, without a decision offset. Multiplications: of the dense network's.",
        "",
    ]
    for data, network in sorted({(r["data"], r["network"]) for r in results}):
        mine = [r for r in results if (r["data"], r["network"]) == (data, network)]
        dense = [r["dense"] for r in mine]
        auc = mean_interval([one["auc"] for one in dense])[0]
        text += [
            f"## {data}, {NETWORKS[network]}",
            "",
            f"Seeds {', '.join(str(r['seed']) for r in sorted(mine, key=lambda r: r['seed']))}. Test: "
            f"{dense[0]['positives']} positives, {dense[0]['negatives']} negatives. Dense, mean: FN "
            f"{mean_interval([one['fn'] for one in dense])[0]:.1f}, FP "
            f"{mean_interval([one['fp'] for one in dense])[0]:.1f}, AUC {auc:.3f}.",
            "",
            table(mine),
            "",
            f"AUC of folding against removal, paired: {against(mine)}.",
            "",
        ]
    write(out / "folding.md", text)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--dense", type=Path, help="runs of benchmarks.search.both_sides (default: --runs)")
    parser.add_argument("--network", choices=list(NETWORKS), default="default")
    parser.set_defaults(seeds=[41, 42, 43, 44, 45])
    given = parser.parse_args()
    one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
        return
    run_missing(
        given.data,
        given.runs,
        [(given.network, seed) for seed in given.seeds],
        lambda network, seed: run_one(
            network, given.data, given.root, seed, given.runs, given.dense or given.runs
        ),
        summed_up,
    )


if __name__ == "__main__":
    main()
