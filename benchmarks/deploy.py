"""What leaves, measured on trained tickets: bytes, load time, latency and output difference of every artefact.

    python -m benchmarks.deploy --runs outputs/deploy [--only NAME ...] [--out benchmarks/results]

Trains networks on the solar cells (the package elpv-dataset): the default one as it ships, once at 85% with its int8,
fp16 and folded files declared, once at 98% and once with whole channels, and two large ones. Exports each with
`classprune-export`, and writes deploy.md and deploy.json. Those at 98% and 99% are not guarded, for their size is what
is measured here. A finished run is not trained again, and with `--only` what is known of the others stays. Times
are CPU time of one thread, the shortest of calls in turns. Who runs the files is in benchmarks/clients.py.

Of eight bits, three calibrations are counted on the guard split against the dense network, beside the files that a run
declared: p is the larger of the tests of misses and false alarms as if a file were the only candidate.
"""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from hydra.utils import instantiate
from safetensors.torch import load, save
from torch import Tensor, nn

from benchmarks.packed_size import limit_bytes
from benchmarks.support import command_line, job_config, markdown, one_thread, write
from lightning_classprune import export_onnx, load_ticket, save_ticket
from lightning_classprune.export.artefact import NOT_DECLARED
from lightning_classprune.export.checks import BATCHES, compared, in_memory
from lightning_classprune.export.compact import compact
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.environment import environment
from lightning_classprune.export.guard_split import GuardSplit
from lightning_classprune.export.int8_format import int8_file
from lightning_classprune.export.latency import interleaved
from lightning_classprune.export.onnx_export import make_graph, write_graph
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.export.quantization import CALIBRATION
from lightning_classprune.guard.statistics import exact_p_value
from lightning_classprune.job import app
from lightning_classprune.job.export_run import Delivered, export_run, read_delivered
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.trainer.eval_mode import in_eval_mode

UNGUARDED = [
    "callbacks.classprune.guard.judging=round",
    "callbacks.classprune.guard.offset=none",
    "callbacks.classprune.guard.confidence=null",
    "callbacks.classprune.guard.max_fp_rise=null",
    "protect.defective=1.0",
]
TO_99 = [
    *UNGUARDED,
    "search=fixed",
    "search.rewind=lr",
    "search.fraction=0.8",
    "callbacks.classprune.target_sparsity=0.99",
    "optimizer.lr=1.0e-3",
]
NETWORKS = {
    "default network": [],
    "default network, 85%, files declared": [
        "search.densities=[0.15]",
        "callbacks.classprune.files.judged=[int8,fp16,folded]",
    ],
    "default network, 98%, unguarded": ["search.densities=[0.02]", *UNGUARDED],
    "default network, whole channels": ["callbacks=[default,channel]"],
    "paper's AlexNet, 99%": [
        "model=paper_alexnet",
        "model.dropout=0.0",
        "trainer.max_epochs=12",  # after fewer its dense network calls everything defective
        *TO_99,
    ],
    "ResNet-18, 99%": [
        "model=torchvision",
        "model.name=resnet18",
        "trainer.max_epochs=3",
        *TO_99,
    ],
}


def trained(name: str, overrides: list[str], runs: Path) -> RunFolder:
    """The finished run of a network, from before or trained now."""
    folder = RunFolder((runs / re.sub(r"\W+", "_", name)).absolute())
    if folder.status()["state"] != "finished":
        always = [f"run_dir='{folder.path}'", "trainer.enable_progress_bar=false"]
        app.run(job_config([*always, *overrides]), resume=folder.config_file.is_file())
    return folder


def measure(folder: RunFolder) -> dict[str, Any]:
    """All artefacts of one run, as one row each, and what they share."""
    facts = export_run(folder.path, dense=True, int8=True)
    found = read_delivered(folder.accepted, app.build_module(folder.config()), dense=True)
    network, masks = found.network.eval(), found.masks
    data = instantiate(folder.config().data)
    data.setup()
    example = torch.cat([data.raw(x) for x, _ in data.test_dataloader()])[:64]
    rule = Deployed(network, data.normalization, {})
    export = folder.path / "export"
    sessions = {"dense ONNX": export_dense(network, folder, example, data)}
    sessions |= {n: export / n for n in ("model.onnx", "compact.onnx") if (export / n).exists()}
    direct = used_directly(network, rule.normalize(example[:2]))
    if direct is not None:
        path = folder.path / "direct.onnx"
        export_onnx(direct, path, example, normalization=data.normalization, thresholds={}, packed=False)
        sessions["Torch-Pruning directly, half of the channels"] = path
    rows = [*stored(network, masks, folder, rule, example), *run_by_onnxruntime(sessions, rule, example)]
    return {
        "low_precision": low_precision(folder, found, rule, data, facts),
        "sparsity": facts["sparsity"],
        "claim": facts["claim"],
        "limit": limit_bytes(network.state_dict(), masks),
        "test": facts["test"],
        "compact": facts["compact"],
        "rows": rows,
    }


SEEDS = (1, 2, 3)


def low_precision(
    folder: RunFolder, found: Delivered, rule: Deployed, data: Any, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Files of 32, 16 and 8 bits, the last by three calibrations, and those that the run's guard judged."""
    with in_eval_mode(rule), torch.no_grad():
        guard = [(data.raw(x), y) for x, y in data.guard_dataloader()]
        test = torch.cat([data.raw(x) for x, _ in data.test_dataloader()])
        train = data.splits.parts["train"]
        smaller = compact(found.network, rule.normalize(test[:2]), found.masks)
        before, after = smaller.report["parameters"]
        network = rule.around(smaller.model) if after < before else rule
        graph = make_graph(network, test[:64])
        decided = rule(test)[1]
    scratch = folder.path / "low_precision"
    scratch.mkdir(exist_ok=True)
    files = {"fp32": scratch / "fp32.onnx", "fp16": scratch / "fp16.onnx"}
    for values, path in files.items():
        write_graph(graph, path, values=values, metadata={})
    for seed in SEEDS:
        drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
        samples = data.raw(train.__getitems__(drawn.tolist())[0])
        files[f"int8, calibration {seed}"] = scratch / f"int8-{seed}.onnx"
        int8_file(graph, scratch / f"int8-{seed}.onnx", samples, {})
    verdicts = dict.fromkeys(files, NOT_DECLARED) | {"fp32": facts["verdict"]["verdict"]}
    for name, entry in facts["artefacts"].items():
        if entry.get("declared"):
            files[f"{name}, declared"] = folder.path / "export" / name
            verdicts[f"{name}, declared"] = entry["verdict"]
    sessions = {name: OnnxFile(path) for name, path in files.items()}
    times = {
        n: interleaved({name: partial(run, test[:n]) for name, run in sessions.items()}, rounds=200)
        for n in BATCHES
    }
    return [
        {
            "file": name,
            "bytes": path.stat().st_size,
            "smaller": files["fp32"].stat().st_size / path.stat().st_size,
            **{f"batch_{n}_ms": times[n][name] for n in BATCHES},
            "changed": int((sessions[name](test)[1] != decided).sum()),
            "of": len(test),
            **on_guard(guard, found, sessions[name]),
            "verdict": verdicts[name],
        }
        for name, path in files.items()
    ]


def on_guard(guard: list[tuple[Tensor, Tensor]], found: Delivered, read: OnnxFile) -> dict[str, Any]:
    """Counts against the dense network, and the larger p of misses (+0.05) and false alarms (+0.10)."""
    assert found.dense is not None
    split = GuardSplit(guard, found.dense)
    counts = split.counts(split.decided(read), ["defective"])["defective"]
    misses = (counts["newly_missed"], counts["newly_found"], counts["support"], 0.05)
    alarms = (counts["new_alarms"], counts["gone_alarms"], counts["negatives"], 0.10)
    return counts | {"p": max(exact_p_value(*misses), exact_p_value(*alarms))}


def export_dense(network: nn.Module, folder: RunFolder, example: Tensor, data: Any) -> Path:
    path = folder.path / "dense.onnx"
    export_onnx(network, path, example, normalization=data.normalization, thresholds={}, packed=False)
    return path


def stored(
    network: nn.Module, masks: dict[str, Tensor], folder: RunFolder, rule: Deployed, example: Tensor
) -> list[dict[str, Any]]:
    """Files that PyTorch loads: bytes, milliseconds to load into the network, difference."""
    state = network.state_dict()
    dense = save({name: tensor.contiguous() for name, tensor in state.items()})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dense", dense)
    csr = io.BytesIO()
    torch.save({n: as_csr(t) if n in masks and t.ndim > 1 else t for n, t in state.items()}, csr)
    half = folder.path / "half.safetensors"
    save_ticket(half, state, masks, values="fp16")
    ticket = folder.path / "export" / "ticket.safetensors"
    loads = {
        "dense safetensors": partial(load_dense, network, dense),
        "ticket": partial(load_ticket, ticket, network),
        "ticket, fp16": partial(load_ticket, half, network),
    }
    times = interleaved(loads, rounds=9)
    rounded = in_memory(rule)(example)
    load_ticket(ticket, network)
    differs = compared(lambda _: rounded, in_memory(rule), example)
    sizes = {
        "dense safetensors": len(dense),
        "dense, zipped": len(packed.getvalue()),
        "CSR, int32": len(csr.getvalue()),
        "ticket": ticket.stat().st_size,
        "ticket, fp16": half.stat().st_size,
    }
    return [
        {"artefact": name, "bytes": size, "smaller": len(dense) / size, "load_ms": times.get(name)}
        | (differs if name == "ticket, fp16" else {"max_difference": 0.0, "changed_decisions": 0})
        for name, size in sizes.items()
    ]


def load_dense(network: nn.Module, content: bytes) -> None:
    network.load_state_dict(load(content))


def as_csr(weight: Tensor) -> dict[str, Tensor]:
    sparse = weight.flatten(1).to_sparse_csr()
    return {
        "crow": sparse.crow_indices().int(),
        "col": sparse.col_indices().int(),
        "values": sparse.values(),
    }


def run_by_onnxruntime(files: dict[str, Path], rule: Deployed, example: Tensor) -> list[dict[str, Any]]:
    """Files that stock ONNX Runtime runs: bytes, milliseconds to load and of a batch, difference."""
    loads = interleaved({name: partial(OnnxFile, path) for name, path in files.items()}, rounds=5)
    sessions = {name: OnnxFile(path) for name, path in files.items()}
    batches = {n: example[torch.arange(n) % len(example)] for n in BATCHES}
    times = {
        n: interleaved({name: partial(run, batch) for name, run in sessions.items()})
        for n, batch in batches.items()
    }
    dense = files["dense ONNX"].stat().st_size
    return [
        {
            "artefact": name,
            "bytes": path.stat().st_size,
            "smaller": dense / path.stat().st_size,
            "load_ms": loads[name],
            **{f"batch_{n}_ms": times[n][name] for n in BATCHES},
            **compared(sessions[name], in_memory(rule), example),
        }
        for name, path in files.items()
    ]


def used_directly(network: nn.Module, example: Tensor) -> nn.Module | None:
    """Half of the channels gone by Torch-Pruning's own pruner, without the retraining that would follow."""
    smaller = copy.deepcopy(network)
    head = [m for m in smaller.modules() if isinstance(m, nn.Linear)][-1]
    torch_pruning.pruner.MetaPruner(
        smaller,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[head],
    ).step()
    return smaller.eval()


def page(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> list[str]:
    lines = [
        "# What leaves",
        "",
        "`python -m benchmarks.deploy`: trained tickets, solar cells 64x64, seed 1. Times are CPU time of one thread,",
        "the shortest of calls in turns. *Difference* and *changed* are of 64 test images",
        "against the PyTorch module (Torch-Pruning's row: half of the channels without retraining, so its outputs",
        "are meant to differ).",
        "",
    ]
    for name, one in found.items():
        lines += [
            f"## {name}: {one['sparsity']:.1%} of the weights gone",
            "",
            one["claim"],
            "",
            markdown([told(row) for row in one["rows"]]),
        ]
        if "low_precision" in one:
            lines += ["", markdown([low_precision_row(row) for row in one["low_precision"]])]
        else:
            lines += [
                "",
                "Of an earlier version of this benchmark: no files of 8 bits, and times are medians.",
            ]
        before, after = one["compact"]["parameters"]
        macs_before, macs_after = one["compact"]["macs"]
        ticket = next(row["bytes"] for row in one["rows"] if row["artefact"] == "ticket")
        lines += [
            "",
            f"Ticket: {ticket / one['limit']:.2f} of the information-theoretic limit, {one['limit'] / 1000:,.1f} kB",
            f"(entropy of the places and raw values). Compact: parameters {before:,} -> {after:,}, multiplications",
            f"{macs_before:,} -> {macs_after:,}; effective sparsity {one['compact']['effective_sparsity']:.2%}.",
            "",
        ]
        tests = [
            {"test, through": through, "class": label, "missed": f"{c['fn']}/{c['support']}"}
            | {"false alarms": c["fp"]}
            for through, classes in one["test"].items()
            for label, c in classes.items()
        ]
        lines += [markdown(tests), ""]
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v)
    return [*lines, f"{about['platform']}, {about['cores']} cores; {versions}."]


def told(row: dict[str, Any]) -> dict[str, str]:
    """One artefact for the table."""
    return {
        "artefact": row["artefact"],
        "kB": f"{row['bytes'] / 1000:,.1f}",
        "times smaller": f"{row['smaller']:.1f}",
        "load ms": number(row.get("load_ms")),
        "batch 1 ms": number(row.get("batch_1_ms")),
        "batch 32 ms": number(row.get("batch_32_ms")),
        "difference": f"{row['max_difference']:.1e}",
        "changed": str(row["changed_decisions"]),
    }


def low_precision_row(row: dict[str, Any]) -> dict[str, str]:
    """One file for the table of precisions."""
    return {
        "weights, packed": row["file"],
        "kB": f"{row['bytes'] / 1000:,.1f}",
        "smaller than fp32": f"{row['smaller']:.2f}",
        "batch 1 ms": number(row["batch_1_ms"]),
        "batch 32 ms": number(row["batch_32_ms"]),
        "changed (test)": f"{row['changed']}/{row['of']}",
        "missed (guard)": f"{row['fn']}/{row['support']}, +{row['newly_missed']} -{row['newly_found']}",
        "false alarms": f"{row['fp']}/{row['negatives']}, +{row['new_alarms']} -{row['gone_alarms']}",
        "p": f"{row['p']:.2g}",
        "verdict": row["verdict"],
    }


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/deploy"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    options = parser.parse_args()
    one_thread()
    known = options.out / "deploy.json"
    earlier = json.loads(known.read_text())["networks"] if known.is_file() else {}
    measured = {name: measure(trained(name, NETWORKS[name], options.runs)) for name in options.only}
    about = {key: value for key, value in environment().items() if key not in ("command", "folder")}
    known_now = earlier | measured
    found = {name: known_now[name] for name in NETWORKS if name in known_now}
    write(options.out / "deploy.json", [json.dumps({"networks": found, "made_with": about}, indent=1)])
    write(options.out / "deploy.md", page(found, about))


if __name__ == "__main__":
    main()
