"""Training of one arm with one seed, and what it cost and came to."""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelPruning
from omegaconf import DictConfig
from torch import nn
from torchmetrics.functional.classification import binary_auroc

from benchmarks import support
from benchmarks.search.arms import ARMS, DATA, EPOCHS
from lightning_classprune import ClassAwarePruningCallback, FNTolerance, Guard, files
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.verdict import verdict_on
from lightning_classprune.job import app
from lightning_classprune.job.classifier import decide
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.ledger.rows import delivered_row
from lightning_classprune.rounds.options import Search

TOLERANCE, CONFIDENCE = 0.05, 0.95  # those of the ready-made job
FPR = 0.05


def command_line(description: str | None) -> argparse.ArgumentParser:
    """What this benchmark and that of its guard are asked."""
    parser = support.command_line(description)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--data", choices=list(DATA), default="elpv")
    parser.add_argument("--root", help="folder of the archives of derma and cracks")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    return parser


def quieten() -> None:
    """Keep warnings and the lines of single rounds off the screen."""
    app.quieten()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning_utilities.core.rank_zero").setLevel(logging.ERROR)


def composed(data: str, root: str | None, loss: str | None, scheduler: str | None, seed: int) -> DictConfig:
    overrides = [*DATA[data], "run_dir=.", f"seed={seed}", "callbacks=[]"]
    overrides += [f"data.root={root}"] if data == "derma" else []
    overrides += [f"loss={loss}"] if loss else []
    overrides += [f"scheduler={scheduler}", "optimizer.lr=5e-4"] if scheduler else []
    return support.job_config(overrides)


def trainer(epochs: int, *callbacks: Any) -> Trainer:
    return support.quiet_trainer(*callbacks, max_epochs=epochs, num_sanity_val_steps=0)


def prepared(data: str, root: str | None, loss: str | None, seed: int) -> tuple[DictConfig, SplitDataModule]:
    """The configuration with the data's facts, and the data; all is seeded."""
    cfg = composed(data, root, loss, None, seed)
    made: SplitDataModule = instantiate(cfg.data)
    made.setup("fit")
    cfg.facts = app.facts(made, cfg.protect)
    seed_everything(seed, workers=True, verbose=False)
    return cfg, made


def pruning_with(search: Search, cfg: DictConfig) -> ClassAwarePruningCallback:
    """The callback of an arm; misses alone are guarded, round by round, for an arm is a way to go and not to judge."""
    return ClassAwarePruningCallback(
        cfg.facts.num_classes,
        dict(cfg.protect),
        class_names=list(cfg.facts.class_names),
        target_sparsity=0.99,
        search=search,
        guard=Guard(max_fp_rise=None),
    )


def run_arm(name: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, Any]:
    """Train, prune and test one arm with one seed."""
    arm = ARMS[name]
    cfg, made = prepared(data, root, arm.loss, seed)
    epochs = arm.epochs
    if arm.as_long_as is not None:
        epochs = json.loads(file_of(runs, data, arm.as_long_as, seed).read_text())["epochs"]
    module, started = app.build_module(cfg), time.process_time()
    rows: Sequence[Mapping[str, Any]] = []
    if arm.gradual_to is not None:
        fine = composed(data, root, None, "none", seed)
        fine.facts = cfg.facts
        module, rows = gradual(module, app.build_module(fine), made, arm.gradual_to, cfg.facts)
    elif arm.search is not None:
        callback = pruning_with(arm.search, cfg)
        trainer(epochs, callback).fit(module, datamodule=made)
        rows = callback.ledger
    else:
        trainer(epochs).fit(module, datamodule=made)
    seconds = time.process_time() - started
    result = {"arm": name, "data": data, "seed": seed, "rows": rows, "all_seconds": round(seconds, 1)}
    result |= cost(rows, epochs, seconds) | on_test(module, made, cfg.facts.protected[0])
    result["parameters"] = sum(p.numel() for p in module.parameters())
    return result


def gradual(
    dense: LightningModule, pruned: LightningModule, data: SplitDataModule, sparsity: float, facts: DictConfig
) -> tuple[LightningModule, list[dict[str, Any]]]:
    """Train `dense`, go on in `pruned` while weights go, test once; the network that is delivered, and rows."""
    started = time.perf_counter()
    trainer(EPOCHS).fit(dense, datamodule=data)
    between = time.perf_counter()
    pruned.load_state_dict(dense.state_dict())
    trainer(EPOCHS, model_pruning(pruned, sparsity, EPOCHS - 3)).fit(pruned, datamodule=data)
    seconds = between - started, time.perf_counter() - between
    limits = Protected(facts.protected[0], str(facts.protected[0]), FNTolerance(rate=TOLERANCE))
    before, now = (on_guard(module, data, facts.num_classes) for module in (dense, pruned))
    pairs = {limits.name: now.pairs(before, limits.name)}
    verdict = verdict_on(pairs, (limits,), 1 - CONFIDENCE).outcome
    rows = [
        {"sparsity": share, "verdict": said, "epochs": EPOCHS, "seconds": spent}
        for share, said, spent in zip((0.0, sparsity), ("baseline", verdict), seconds, strict=True)
    ]
    return (pruned if verdict == "accepted" else dense), rows


def layers(module: nn.Module) -> list[nn.Module]:
    """Those whose weights are pruned without this package."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def model_pruning(module: nn.Module, sparsity: float, last: int) -> ModelPruning:
    """Lightning's callback along `cubic_share`, by magnitude over all layers, until after the epoch `last`."""
    return ModelPruning(
        "l1_unstructured",
        parameters_to_prune=[(layer, "weight") for layer in layers(module)],
        amount=lambda epoch: cubic_share(epoch, last, sparsity),
        apply_pruning=lambda epoch: epoch <= last,
        use_lottery_ticket_hypothesis=False,
    )


def cubic_share(epoch: int, last: int, sparsity: float) -> float:
    """Share of the remaining weights that goes after this epoch, so that a cubic reaches `sparsity` after `last`.

    s_t = s_f (1 - (1 - t / n)^3): Zhu & Gupta 2017 (arXiv 1710.01878), equation 1, from a dense network.
    """
    before, after = (sparsity * (1 - (1 - t / (last + 1)) ** 3) for t in (epoch, epoch + 1))
    return (after - before) / (1 - before)


@torch.no_grad()
def on_guard(module: LightningModule, data: SplitDataModule, num_classes: int) -> Decisions:
    module.eval()
    batches = [(decide(module(x)), y) for x, y in data.guard_dataloader()]
    decided, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return Decisions(y, decided, num_classes)


def cost(rows: Sequence[Mapping[str, Any]], epochs: int, seconds: float) -> dict[str, Any]:
    """Epochs and seconds up to the delivered round and in all, and the density that was reached."""
    final = delivered_row(rows)
    if final is None:
        return {
            "epochs": epochs,
            "seconds": round(seconds, 1),
            "all_epochs": epochs,
            "density": 1.0,
            "tests": 0,
        }
    until = rows[: rows.index(final) + 1]
    share = sum(row["seconds"] for row in until) / max(sum(row["seconds"] for row in rows), 1e-9)
    return {
        "epochs": sum(row["epochs"] for row in until),
        "seconds": round(seconds * share, 1),
        "all_epochs": sum(row["epochs"] for row in rows),
        "density": 1 - final["sparsity"],
        "tests": sum(row["verdict"] in ("accepted", "refused", "unproven") for row in rows),
    }


@torch.no_grad()
def on_test(module: LightningModule, data: SplitDataModule, protected: int) -> dict[str, Any]:
    """Misses and false alarms as decided, misses at the threshold of 5% false alarms, and the area under the curve."""
    module.eval()
    batches = [(module(x), y) for x, y in data.test_dataloader()]
    scores, y = torch.cat([s for s, _ in batches]), torch.cat([y for _, y in batches])
    positive, decided = y == protected, scores.argmax(1) == protected
    score = scores.softmax(1)[:, protected]
    negatives = score[~positive].sort(descending=True).values
    threshold = negatives[int(FPR * len(negatives))]
    return {
        "positives": int(positive.sum()),
        "negatives": len(negatives),
        "fn": int((positive & ~decided).sum()),
        "fp": int((~positive & decided).sum()),
        "fn_at_fpr": int((positive & (score <= threshold)).sum()),
        "auc": float(binary_auroc(score, positive.long())),
    }


def file_of(runs: Path, data: str, arm: str, seed: int) -> Path:
    name = "".join(c if c.isalnum() else "_" for c in arm)
    return runs / data / f"{name}-{seed}.json"


def run_missing(
    data: str,
    runs: Path,
    wanted: Iterable[tuple[str, int]],
    run: Callable[[str, int], dict[str, Any]],
    told: Callable[[Mapping[str, Any]], str],
) -> None:
    """Run each arm with its seed unless its file is there, and tell what it came to."""
    (runs / data).mkdir(parents=True, exist_ok=True)
    for arm, seed in wanted:
        file = file_of(runs, data, arm, seed)
        if not file.exists():
            result = run(arm, seed)
            files.write_text(file, json.dumps(result))
            print(f"{data} seed {seed} {arm}: {told(result)}", flush=True)


def run_all(data: str, root: str | None, seeds: Sequence[int], arms: Sequence[str], runs: Path) -> None:
    run_missing(
        data,
        runs,
        ((arm, seed) for seed in seeds for arm in arms),
        lambda arm, seed: run_arm(arm, data, root, seed, runs),
        lambda result: (
            f"density {result['density']:.4f} after {result['epochs']} epochs ({result['all_epochs']}), "
            f"{result['seconds']:.0f} s, test FN {result['fn']}"
        ),
    )


def answer(
    given: argparse.Namespace,
    run: Callable[[str, str | None, Sequence[int], Sequence[str], Path], None],
    report: Callable[[Path, Path], None],
) -> None:
    """Do what the command line asks for, on one thread."""
    support.one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
    else:
        run(given.data, given.root, given.seeds, given.arms, given.runs)
