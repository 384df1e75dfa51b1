"""What the commands say before there is work: at once, without the packages that do the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_classprune import __version__
from tests.support import ROOT

JOB, REPORT, EXPORT, SWEEP = (
    f"lightning_classprune{module}"
    for module in ("", ".job.report.report_app", ".job.export_app", ".job.sweep.sweep_app")
)
# Runs a module as `python -m` does, and tells on the last line of standard error what it has loaded.
PROBE = """
import atexit, runpy, sys
heavy = {"torch", "lightning", "scipy", "matplotlib", "hydra"}
atexit.register(lambda: print(*sys.modules.keys() & heavy, file=sys.stderr))
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def told(*arguments: str, folder: Path) -> tuple[int, str, str, set[str]]:
    """Exit status, standard output, standard error and what was loaded."""
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'lightning_classprune' / 'job' / '_hydra'}"}
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True, timeout=120)
    *errors, modules = done.stderr.splitlines()
    assert not list(folder.iterdir())
    return done.returncode, done.stdout, "\n".join(errors), set(modules.split())


@pytest.mark.parametrize("module", [JOB, REPORT, EXPORT, SWEEP])
def test_version(module: str, tmp_path: Path) -> None:
    status, said, errors, modules = told(module, "--version", folder=tmp_path)
    assert (status, said, errors) == (0, f"lightning-classprune {__version__}\n", "")
    assert modules <= {"hydra"}


@pytest.mark.parametrize("module", [JOB, REPORT, EXPORT, SWEEP])
def test_help(module: str, tmp_path: Path) -> None:
    status, said, _, modules = told(module, "--help", folder=tmp_path)
    assert status == 0
    assert ("== Config ==" if module == JOB else "usage: classprune-") in said
    assert modules <= {"hydra"}


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (JOB, ["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (JOB, ["seed"], "missing EQUAL"),
        (JOB, ["no_such=1"], "Key 'no_such' is not in struct"),
        (JOB, ["data=no_such"], "Could not find 'data/no_such'"),
        (JOB, ["resume=x", "seed=1"], "classprune: resume= goes on with the job's own configuration"),
        (REPORT, [], "the following arguments are required: RUN_DIR"),
        (EXPORT, ["x", "--values", "int3"], "invalid choice: 'int3'"),
        (EXPORT, ["x", "--max-fn-rate", "0.1"], "'0.1' is not CLASS=RATE"),
        (SWEEP, ["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_wrong_command_line(module: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    status, _, errors, modules = told(module, *arguments, folder=tmp_path)
    assert status != 0
    assert message in errors
    assert modules <= {"hydra"}


def test_the_configuration_is_shown_without_torch(tmp_path: Path) -> None:
    status, said, _, modules = told(JOB, "--cfg", "job", "seed=5", folder=tmp_path)
    assert status == 0
    assert "\nseed: 5\n" in f"\n{said}"
    assert modules == {"hydra"}
