"""The command line: what is made of it before Hydra reads it, and where a user's own modules are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_classprune.job import command, configuration
from lightning_classprune.job.command import lacking, open_protect, unreadable
from tests.support import ROOT, forked
from tests.support.app_job import config

DATA = sorted(file.stem for file in (configuration.conf_dir() / "data").glob("*.yaml"))


@pytest.mark.unit
@pytest.mark.parametrize("data", DATA)
def test_protect_names_a_class_of_any_data(data: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, f"data={data}", open_protect("protect.crack=0.05"), open_protect("protect.7=0.1"))
    assert (cfg.protect["crack"], cfg.protect["7"]) == (0.05, 0.1)


@pytest.mark.unit
def test_other_arguments_are_left_as_they_are() -> None:
    for argument in (
        "protect={a: 1}",
        "+protect.a=1",
        "~protect.a",
        "data.protect.a=1",
        "--help",
        "protect.a",
    ):
        assert open_protect(argument) == argument
    assert open_protect(open_protect("protect.a=1")) == "++protect.a=1"


@pytest.mark.unit
def test_what_hydra_cannot_read_is_told_with_what_it_can() -> None:
    quotes = "put quotes of its own around the value: "
    assert unreadable("data.root=größe") == f"""{quotes}'data.root="größe"'"""
    assert unreadable("hydra.run.dir=a (1)") == f"""{quotes}'hydra.run.dir="a (1)"'"""
    assert unreadable("protect.größe=0.2") == "name the class by its index: 'protect={0: 0.05}'"
    assert unreadable("protect={größe: 0.2}") == "name the class by its index: 'protect={0: 0.05}'"
    assert "hydra.cc" in str(unreadable("größe=1"))
    for argument in (
        'data.root="größe"',
        "data.root=my data",
        "protect.hot-spot=0.2",
        "~a",
        "--config-dir=ü",
        "data",
        "ü",
    ):
        assert unreadable(argument) is None


@pytest.mark.unit
def test_a_plugin_of_hydra_that_is_not_there_is_told_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = {
        "hydra/launcher=joblib": "joblib",
        "+hydra/launcher=submitit_slurm": "submitit",
        "hydra/sweeper=optuna": "optuna",
        "hparams_search=optuna_two": "optuna",
    }
    for there in ((), ("hydra_plugins",)):
        monkeypatch.setattr(command, "find_spec", lambda name, there=there: name if name in there else None)
        assert {argument: lacking(argument) for argument in asking} == asking
        for argument in (
            "hydra/launcher=basic",
            "hydra/launcher=ray",
            "seed=1",
            "--help",
            "joblib",
            "data=joblib",
        ):
            assert lacking(argument) is None
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    assert {lacking(argument) for argument in asking} == {None}


@pytest.mark.processes
def test_the_console_script_finds_what_lies_in_the_working_directory(tmp_path: Path) -> None:
    """As an installed script is started: its folder, and not the working directory, is first on the path."""
    (tmp_path / "my_data.py").write_text(
        "def mine(batch_size):\n    raise SystemExit(f'mine: {batch_size}')\n"
    )
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(
        "# @package _global_\nprotect: ???\ndata:\n  _target_: my_data.mine\n  batch_size: 64\n"
    )
    script = tmp_path / "bin" / "classprune"
    script.parent.mkdir()
    script.write_text("from lightning_classprune.job.command import main; main()")
    command = [
        sys.executable,
        str(script),
        "--config-dir",
        "conf",
        "data=mine",
        "protect.bad=0.2",
        "hydra.run.dir=out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "mine: 64" in done.stderr


@pytest.mark.unit
def test_the_working_directory_is_on_the_path_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/bin", "/lib"])
    for _ in range(2):
        configuration.see_working_directory()
        assert sys.path == [str(tmp_path), "/usr/bin", "/lib"]
    monkeypatch.setattr(sys, "path", ["", "/lib"])
    configuration.see_working_directory()
    assert sys.path == ["", "/lib"]


def test_an_error_of_ours_ends_a_job_in_one_line(tmp_path: Path) -> None:
    job = ("-m", "lightning_classprune", "data=breast_cancer", "protect.unknown=0.05")
    done = forked.run(*job, folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert [one for one in done.stderr.splitlines() if one.startswith("classprune: ") and "unknown" in one]
