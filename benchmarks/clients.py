"""Who runs what leaves: every file of an export through every client that is here, as its own users call it.

    python -m benchmarks.clients [--runs outputs/deploy] [--out benchmarks/results]

Trains the default network, once more with files declared, and once with whole channels, on the
solar cells (a finished run is not trained again), exports each for every purpose, those of eight bits too, and writes
clients.md and clients.json: decisions that differ from the module's and from ONNX Runtime's on the same file, misses
and false alarms on the test split, bytes, and CPU time to load and to decide all of it; the C files beside them. Then
it times the dense and the fastest file alone and beside four processes that keep the machine busy.

Clients that are not here are told: `pip install openvino opencv-python-headless tract MNN`. MNN and the JavaScript
runtimes run in processes of their own: MNN's converter starts pip, which is given no index to install from; node finds
`onnxruntime-node` and `onnxruntime-web` in NODE_PATH (`npm install --ignore-scripts` there).
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray

from benchmarks.support import command_line, markdown, one_thread, write
from lightning_classprune.export.c_library import CLibrary
from lightning_classprune.export.checks import BATCHES
from lightning_classprune.export.environment import environment
from lightning_classprune.export.latency import conditions, interleaved
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.job.export_run import export_run
from lightning_classprune.job.run_folder import RunFolder

Array = NDArray[Any]


def onnxruntime(path: Path, x: Array) -> Array:
    import onnxruntime

    return _array(onnxruntime.InferenceSession(path).run(["decision"], {"input": x})[0])


def reference(path: Path, x: Array) -> Array:
    """The standard's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    return _array(ReferenceEvaluator(str(path)).run(["decision"], {"input": x})[0])


def openvino(path: Path, x: Array) -> Array:
    import openvino

    # Its default on some CPUs is bfloat16.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _array(compiled(x)["decision"])


def opencv(path: Path, x: Array) -> Array:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(x, "input")
    return _array(network.forward(["scores", "decision"])[1]).reshape(-1)


def tract(path: Path, x: Array) -> Array:
    import tract

    runnable = tract.onnx().load(str(path)).into_model().into_runnable()
    return _array(runnable.run([x])[1].to_numpy())


def mnn(path: Path, x: Array) -> Array:
    script = """
import sys, numpy, MNN.nn, MNN.expr as F
from MNN.tools import mnnconvert
x = numpy.load(sys.argv[3])
kind = F.uint8 if x.dtype == numpy.uint8 else F.float
sys.argv[1:] = ["-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "x"]
folder = sys.argv[6]
mnnconvert.main()
network = MNN.nn.load_module_from_file(folder, ["input"], ["scores", "decision"])
found = network.forward([F.const(x, list(x.shape), F.NCHW, kind)])[1].read()
numpy.save(folder + ".npy", numpy.array(found).reshape(-1))
"""
    with tempfile.TemporaryDirectory() as folder:
        given, converted = Path(folder) / "x.npy", Path(folder) / "converted.mnn"
        np.save(given, x)
        offline = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder}
        command = [sys.executable, "-c", script, str(path.resolve()), str(converted), str(given)]
        _run(command, offline, folder)  # which takes what the converter leaves where it runs
        return _array(np.load(f"{converted}.npy"))


def node(path: Path, x: Array) -> Array:
    return _javascript("onnxruntime-node", path, x)


def web(path: Path, x: Array) -> Array:
    """WebAssembly, as in a browser."""
    return _javascript("onnxruntime-web", path, x)


CLIENTS: dict[str, Callable[[Path, Array], Array]] = {
    "ONNX Runtime": onnxruntime,
    "onnx.reference": reference,
    "OpenVINO": openvino,
    "OpenCV": opencv,
    "tract": tract,
    "MNN": mnn,
    "onnxruntime-node": node,
    "onnxruntime-web": web,
}
_MODULES = {"ONNX Runtime": "onnxruntime", "onnx.reference": "onnx", "OpenVINO": "openvino", "OpenCV": "cv2"}
_MODULES |= {"tract": "tract", "MNN": "MNN"}


def absent(client: str) -> str | None:
    """Return why a client is not here, None if it is; nothing of it is imported."""
    module = _MODULES.get(client)
    if module is not None:
        return None if importlib.util.find_spec(module) else f"the module {module} is not installed"
    if shutil.which("node") is None:
        return "node is not installed"
    places = os.environ.get("NODE_PATH", "").split(os.pathsep)
    if any((Path(place) / client).is_dir() for place in places if place):
        return None
    return f"the npm package {client} is not in NODE_PATH"


def _javascript(package: str, path: Path, x: Array) -> Array:
    script = """
const ort = require(process.argv[1]), fs = require("fs");
const [file, raw, type, shape] = process.argv.slice(2);
const bytes = fs.readFileSync(raw);
const whole = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const data = type == "uint8" ? new Uint8Array(whole) : new Float32Array(whole);
const options = package => package.endsWith("web") ? { executionProviders: ["wasm"] } : {};
ort.InferenceSession.create(fs.readFileSync(file), options(process.argv[1])).then(async session => {
  const found = await session.run({ input: new ort.Tensor(type, data, JSON.parse(shape)) });
  console.log(JSON.stringify(Array.from(found.decision.data, Number)));
  process.exit(0);
});
"""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "x.bin"
        given.write_bytes(np.ascontiguousarray(x).tobytes())
        command = ["node", "-e", script, package, str(path), str(given), str(x.dtype), json.dumps(x.shape)]
        return np.array(json.loads(_run(command, dict(os.environ)).splitlines()[-1]))


def _run(command: list[str], environment: dict[str, str], folder: str | None = None) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it says nothing"]
        raise RuntimeError(f"its process ends with {done.returncode}: {said[-1].strip()}")
    return done.stdout


def _array(found: Any) -> Array:
    return np.asarray(found)


# -- the table --


def matrix(folder: RunFolder) -> dict[str, Any]:
    """One run: its exports for every purpose through every client."""
    data = instantiate(folder.config().data)
    data.setup("test")
    batches = [(data.raw(x).numpy(), y.numpy()) for x, y in data.test_dataloader()]
    x, target = (np.concatenate(part) for part in zip(*batches, strict=True))
    protected = data.class_names.index(next(iter(folder.config().protect)))
    exports = {
        purpose: export_run(
            folder.path, folder.path / f"export-{purpose}", purpose=purpose, dense=True, int8=purpose == "all"
        )
        for purpose in ("all", "latency", "mcu")
    }
    truth = onnxruntime(folder.path / "export-all" / "plain.onnx", x)
    missed, alarms = counts(truth, target, protected)
    module = exports["all"]["test"]["module"][data.class_names[protected]]
    assert (missed, alarms) == (module["fn"], module["fp"])
    rows = []
    for facts in exports.values():
        for name, entry in facts["artefacts"].items():
            if not name.endswith(".onnx") or any(row["file"] == name for row in rows):
                continue  # what the guard judged is in every export, bit for bit
            own = onnxruntime(Path(facts["folder"]) / name, x)
            for client, decide in CLIENTS.items():
                row: dict[str, Any] = {"file": name, "bytes": entry["bytes"], "client": client}
                rows.append(
                    row | run_once(decide, Path(facts["folder"]) / name, x, truth, own, target, protected)
                )
    eight = next(name for name in exports["all"]["artefacts"] if name.startswith("int8"))
    of_eight = onnxruntime(folder.path / "export-all" / eight, x)
    in_eight = export_run(folder.path, folder.path / "export-mcu-int8", purpose="mcu", dense=True, int8=True)
    c = [
        {"numbers": numbers, **in_c(facts, x, truth, of_eight, target, protected)}
        for numbers, facts in (("floats", exports["mcu"]), ("bytes", in_eight))
    ]
    paths = {"dense": "export-all/plain.onnx", "fast.onnx": "export-latency/fast.onnx"}
    sessions = {name: OnnxFile(folder.path / path) for name, path in paths.items()}
    return {
        "claim": exports["all"]["claim"],
        "advice": {purpose: facts["advice"] for purpose, facts in exports.items()},
        "samples": len(x),
        "module": {"missed": missed, "false alarms": alarms},
        "rows": rows,
        "c": c,
        "widths_multiple_of": exports["latency"]["artefacts"]["fast.onnx"].get("widths_multiple_of"),
        "latency": busy_and_not(sessions, torch.from_numpy(x)),
    }


def in_c(
    facts: dict[str, Any], x: Array, truth: Array, of_eight: Array, target: Array, protected: int
) -> dict[str, Any]:
    """What the C file costs and decides."""
    name, entry = next(one for one in facts["artefacts"].items() if one[0].endswith(".c"))
    found = CLibrary(Path(facts["folder"]) / name, len(np.unique(target)))(torch.from_numpy(x))[1].numpy()
    missed, alarms = counts(found, target, protected)
    return {
        **{key: entry[key] for key in ("flash", "ram", "multiplications")},
        "changed": int((found != truth).sum()),
        "unlike the int8 file": int((found != of_eight).sum()),
        "missed": missed,
        "false alarms": alarms,
        "ms": facts["latency"]["1"][name],
    }


def run_once(
    decide: Callable[[Path, Array], Array],
    path: Path,
    x: Array,
    truth: Array,
    own: Array,
    target: Array,
    protected: int,
) -> dict[str, Any]:
    """What a client decides, beside the module and ONNX Runtime on the file, and CPU seconds of all that it starts."""
    client = next(name for name, one in CLIENTS.items() if one is decide)
    if why := absent(client):
        return {"error": why}
    start = cpu_seconds()
    try:
        found = decide(path, x)
    except Exception as error:  # every client has its own
        return {"error": f"refuses: {str(error).strip().splitlines()[0][:120]}"}
    missed, alarms = counts(found, target, protected)
    spent = cpu_seconds() - start
    changed = {"changed": int((found != truth).sum()), "unlike ONNX Runtime": int((found != own).sum())}
    return changed | {"missed": missed, "false alarms": alarms, "CPU s": spent}


def counts(decided: Array, target: Array, protected: int) -> tuple[int, int]:
    """Misses and false alarms of the protected class."""
    is_it, called = target == protected, decided == protected
    return int((is_it & ~called).sum()), int((~is_it & called).sum())


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def busy(processes: int = 4) -> Iterator[None]:
    """Others that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def busy_and_not(sessions: dict[str, OnnxFile], x: torch.Tensor) -> list[dict[str, Any]]:
    """How many times faster the second is than the first, by the card's clock and by medians of the wall clock."""
    rows = []
    for size in BATCHES:
        batch = x[torch.arange(size) % len(x)]
        calls = {name: partial(run, batch) for name, run in sessions.items()}
        for others in (0, 4):
            with busy(others):
                load = conditions()["load_average"]
                cpu = interleaved(calls)
                wall = medians(calls)
            first, second = sessions
            rows.append(
                {
                    "batch": size,
                    "busy processes": others,
                    "load before": load,
                    "dense ms": cpu[first],
                    "fast ms": cpu[second],
                    "times faster": cpu[first] / cpu[second],
                    "by medians of the wall clock": wall[first] / wall[second],
                }
            )
    return rows


def medians(calls: dict[str, Callable[[], object]], rounds: int = 25) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def page(found: dict[str, dict[str, Any]], about: dict[str, Any]) -> list[str]:
    lines = [
        "# Who runs what leaves",
        "",
        "`python -m benchmarks.clients`: trained tickets, solar cells 64x64, seed 1, the whole test split. *Changed*",
        "counts decisions that are not the module's, *unlike ONNX Runtime* those that are not its on the same file;",
        "*CPU s* is of all threads and processes, to load the file and to decide the split once.",
        "",
    ]
    for name, one in found.items():
        lines += [f"## {name}", "", one["claim"], ""]
        lines += [f"* `--for {purpose}`: {said}" for purpose, said in one["advice"].items()]
        module = one["module"]
        lines += [
            "",
            f"The module misses {module['missed']} and raises {module['false alarms']} false alarms of "
            f"{one['samples']} images.",
            "",
            markdown([told(row) for row in one["rows"]]),
            "",
            "C99, compiled by `cc -std=c99 -Wall -Wextra -Werror -pedantic -O2`:",
            "",
            markdown([{key: short(value) for key, value in row.items()} for row in one["c"]]),
            "",
            f"`fast.onnx`: widths in multiples of {one['widths_multiple_of'] or '- (no channel is gone)'}.",
            "Dense against it, alone and beside four processes that never rest:",
            "",
            markdown([{key: short(value) for key, value in row.items()} for row in one["latency"]]),
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return [*lines, f"{about['cpu']}, {about['platform']}, {about['cores']} cores; {versions}."]


_COLUMNS = ("changed", "unlike ONNX Runtime", "missed", "false alarms", "CPU s")


def told(row: dict[str, Any]) -> dict[str, str]:
    known = {"file": row["file"], "kB": f"{row['bytes'] / 1000:,.1f}", "client": row["client"]}
    if "error" in row:
        return known | {"changed": row["error"]} | dict.fromkeys(_COLUMNS[1:], "")
    return known | {key: short(row[key]) for key in _COLUMNS}


def short(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else f"{value:,}"


def main() -> None:
    from benchmarks.deploy import NETWORKS, trained

    parser = command_line(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/deploy"))
    options = parser.parse_args()
    one_thread()
    names = (
        "default network",
        "default network, 85%, files declared",
        "default network, whole channels",
    )
    found = {name: matrix(trained(name, NETWORKS[name], options.runs)) for name in names}
    about = {key: value for key, value in environment().items() if key not in ("command", "folder")}
    about["cpu"] = conditions()["cpu"]
    write(options.out / "clients.json", [json.dumps({"networks": found, "made_with": about}, indent=1)])
    write(options.out / "clients.md", page(found, about))


if __name__ == "__main__":
    main()
