"""The core of the tests under other versions of Python, torch and Lightning, each in an environment of its own.

    python -m benchmarks.versions FOLDER [--cases NAME ...] [--pythons PATH ...] [--out benchmarks/results]

An environment is made below FOLDER with pip where there is none: of the Python that runs this, with its packages in
sight and another Lightning before them; or of another Python (`python3.10` and the like on the path, or `--pythons`),
with packages of its own, which takes gigabytes. In each run the tests of rounds, roll-back, resuming, both package
names, two processes (DDP, FSDP2), the ready-made job and ONNX. What is known of a case is kept in FOLDER and not made
twice: delete its .json, or a part in it, to have it again. Writes versions.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import command_line, markdown, write

ROOT = Path(__file__).parents[1]
CORE = {
    "rounds": "integration/test_fit.py trainer/test_versions.py",
    "roll-back": "integration/test_rewind_identity.py",
    "resume": "integration/test_resume.py",
    "other callbacks": "trainer/test_other_callbacks.py",
    "both names": "integration/test_packages.py",
    "DDP": "integration/test_distributed.py",
    "FSDP2": "integration/test_fsdp2.py",
    "job": "job/test_resume_run.py",
    "ONNX": "export/test_onnx_export.py",
}
OTHERS = (
    "torchmetrics", "hydra-core", "scipy", "rich", "safetensors", "jinja2", "matplotlib", "pillow", "pandas", "pytest",
    "hypothesis", "pytest-timeout", "pytest-xdist", "tensorboard", "jsonargparse[signatures]", "scikit-learn",
    "setuptools", "onnx", "onnxscript", "onnxruntime", "torch-pruning",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One environment.

    Attributes:
        lightning: Its version; None for the one that is installed.
        python: Its version; None for the one that runs this.
        torch: Versions of torch and torchvision; None for those that are installed.
    """

    lightning: str | None = None
    python: str | None = None
    torch: tuple[str, str] | None = None


CASES = {
    "as installed": Case(),
    "oldest Lightning": Case(lightning="2.4.0"),
    "Lightning between": Case(lightning="2.5.6"),
    "oldest of all": Case(lightning="2.4.0", python="3.10", torch=("2.4.1", "0.19.1")),
    "Python 3.12": Case(lightning="2.5.6", python="3.12", torch=("2.9.1", "0.24.1")),
    "Python 3.13": Case(lightning="2.6.6", python="3.13", torch=("2.14.1", "0.29.1")),
}


def environment(case: Case, folder: Path, pythons: dict[str, Path]) -> Path | None:
    """The interpreter of a case's environment, made if it is not there; None where its Python is not to be had.

    Args:
        case: Another version of Python, or of torch, has all packages of its own.
        folder: Of the environment.
        pythons: Interpreters by version.
    """
    if case == Case():
        return Path(sys.executable)
    base = pythons.get(case.python) if case.python else Path(sys.executable)
    if base is None:
        return None
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", folder], check=True)
        wanted = [f"{name}=={case.lightning}" for name in ("lightning", "pytorch-lightning")]
        if case.torch is None:  # the packages of this interpreter come behind those of the environment
            (site,) = (folder / "lib").glob("python*/site-packages")
            (site / "zz_behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
        else:
            wanted += [f"torch=={case.torch[0]}", f"torchvision=={case.torch[1]}", *OTHERS]
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-cache-dir", *wanted], check=True)
        (folder / "made").touch()
    return python


def measure(python: Path, folder: Path, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Versions in an environment, and how the tests of each part end there, as they become known.

    Args:
        python: Its interpreter.
        folder: Of the environment.
        found: What is known already.
    """
    path = os.pathsep.join((str(ROOT), str(ROOT / "lightning_classprune" / "job" / "_hydra")))
    given = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    names = "import platform, torch, lightning as L; print(platform.python_version(), torch.__version__, L.__version__)"
    told = subprocess.run([python, "-c", names], env=given, capture_output=True, text=True, check=True)
    found = dict(zip(("Python", "torch", "Lightning"), told.stdout.split(), strict=True)) | found
    for part, files in CORE.items():
        if part in found:
            continue
        log, xml = beside(folder, "log"), beside(folder, "xml")
        arguments = ["-n", "0", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={xml}"]
        command = [python, "-m", "pytest", *arguments, *(f"tests/{name}" for name in files.split())]
        with log.open("a") as output:
            code = subprocess.run(command, cwd=ROOT, env=given, stdout=output, stderr=output).returncode
        found[part] = counted(xml) if code in (0, 1) else f"pytest ended with {code}"
        print(folder.name, part, found[part], flush=True)
        yield found


def beside(folder: Path, ending: str) -> Path:
    """A file of an environment's name, beside its folder."""
    return folder.with_name(f"{folder.name}.{ending}")


def counted(xml: Path) -> str:
    """What pytest's own file says of its tests, such as `57 passed`."""
    ends: Counter[str] = Counter()
    for test in ElementTree.parse(xml).getroot().iter("testcase"):
        kinds = {one.tag for one in test}
        failed = kinds & {"failure", "error"}
        ends["failed" if failed else "skipped" if "skipped" in kinds else "passed"] += 1
    return ", ".join(f"{ends[end]} {end}" for end in ("passed", "failed", "skipped") if ends[end])


def pythons_of(given: list[Path]) -> dict[str, Path]:
    """Interpreters by version: those that are given, else those on the path."""
    found = {}
    names = [shutil.which(f"python3.{minor}") for minor in range(10, 15)]
    for path in (*(Path(name) for name in names if name), *given):
        asked = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        told = subprocess.run(asked, capture_output=True, text=True)
        if told.returncode == 0:  # a name on the path may stand for a Python that is switched off
            found[told.stdout.strip()] = path
    return found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, help="of the environments")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--pythons", nargs="+", type=Path, default=[], help="interpreters beside those on the path"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pythons = pythons_of(given.pythons)
    rows = []
    for name in given.cases:
        folder = given.folder.resolve() / name.replace(" ", "-")
        kept = beside(folder, "json")
        known = json.loads(kept.read_text()) if kept.exists() else {}
        if not known.keys() >= CORE.keys():
            python = environment(CASES[name], folder, pythons)
            if python is None:
                print(f"{name}: Python {CASES[name].python} is not to be had; name one with --pythons")
                continue
            for found in measure(python, folder, known):
                write(kept, [json.dumps(found, indent=1)])
                known = found
        rows.append(
            {"environment": name} | {key: known[key] for key in ("Python", "torch", "Lightning", *CORE)}
        )
    if not rows:
        return
    text = [
        "# Versions",
        "",
        "`python -m benchmarks.versions --help` explains how this was made: tests in each environment.",
        "Skipped is what a version lacks: weight averaging comes with Lightning 2.6, going on inside an epoch with",
        "2.5, and ONNX files with a free batch size with torch 2.5. The Rich bar of Lightning 2.4 needs a rich older",
        "than 14.1, with this package or without.",
        "",
        markdown(rows),
    ]
    write(given.out / "versions.md", text)
    print("\n".join(text))


if __name__ == "__main__":
    main()
