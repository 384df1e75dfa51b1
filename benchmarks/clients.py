"""Who runs an exported ONNX file: every client that is installed here, called as its own users call it.

Missing clients are told, not hidden: `absent` says why one is not here. MNN and the JavaScript runtimes run in
processes of their own: MNN's converter starts pip, which is given no index to install from; node finds `onnxruntime-node` and
`onnxruntime-web` in NODE_PATH.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        _run([sys.executable, "-c", script, str(path), str(converted), str(given)], offline)
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


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-500:]}")
    return done.stdout


def _array(found: Any) -> Array:
    return np.asarray(found)
