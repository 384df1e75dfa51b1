"""What an installation holds, from a wheel, an editable install and a plain source tree, seen from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = "lightning_classprune"
PLUGIN = "hydra_plugins/lightning_classprune_searchpath.py"

# A Hydra application that knows nothing of us, in the Lightning-Hydra template's convention.
FOREIGN = """
import sys
import hydra
from omegaconf import OmegaConf

@hydra.main(version_base="1.3", config_path="conf", config_name=sys.argv.pop(1))
def main(cfg):
    print(OmegaConf.to_yaml(cfg))
    print("torch loaded:", "torch" in sys.modules)

main()
"""


def python(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    """What git would hold of a folder, by relative path."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    checked(python("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder))
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    checked(
        python("-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    )
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An application with its own `config` and `callbacks/default`."""
    callbacks = tmp_path / "conf" / "callbacks"
    callbacks.mkdir(parents=True)
    (tmp_path / "foreign.py").write_text(FOREIGN)
    (tmp_path / "conf" / "mine.yaml").write_text("defaults: [_self_, callbacks: default]\nmodel: none\n")
    (callbacks / "default.yaml").write_text("early: {_target_: my.EarlyStopping}\n")
    return tmp_path


def test_wheel_holds_the_package_with_its_configuration_and_guide(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {PACKAGE, "hydra_plugins"}
    assert [name for name in names if name.startswith("hydra_plugins/")] == [PLUGIN]
    assert not [name for name in names if "_hydra/" in name or "__pycache__" in name]
    shipped = {name.removeprefix(f"{PACKAGE}/") for name in names if name.startswith(f"{PACKAGE}/")}
    package, conf = files(ROOT / PACKAGE), files(ROOT / "conf")
    assert shipped == {name for name in package if "_hydra/" not in name} | {f"conf/{name}" for name in conf}
    assert {"conf/config.yaml", "py.typed", "job/report/templates/report.css"} < shipped
    assert [name for name in shipped if name.startswith("guide/") and name.endswith(".md")]


def test_commands_lead_to_their_functions(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(archive.read(entries).decode())
    commands = dict(parser["console_scripts"])
    assert commands.keys() == {
        "classprune",
        "classprune-export",
        "classprune-judge",
        "classprune-power",
        "classprune-report",
        "classprune-sweep",
    }
    for target in commands.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_metadata_of_sdist_and_wheel(dist: Path, wheel: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        (folder,) = {name.split("/")[0] for name in archive.getnames()}
        held = {name.removeprefix(f"{folder}/") for name in archive.getnames()}
        member = archive.extractfile(f"{folder}/PKG-INFO")
        assert member is not None
        said = member.read().decode()
    wheels = zipfile.ZipFile(wheel)
    (inside,) = (name for name in wheels.namelist() if name.endswith(".dist-info/METADATA"))
    assert wheels.read(inside).decode() == said
    metadata = Parser().parsestr(said)
    assert metadata["Name"] == "lightning-classprune"
    assert metadata["Author"] == "The lightning-classprune authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert "License" not in metadata
    assert not [line for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    home = "https://github.com/lightning-classprune/lightning-classprune"
    assert dict(line.split(", ") for line in metadata.get_all("Project-URL", [])) == {
        "Homepage": home,
        "Source": home,
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    licence = f"{inside.split('/')[0]}/licenses/LICENSE"
    assert wheels.read(licence) == (ROOT / "LICENSE").read_bytes()
    for name in ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "tests/house/test_packaging.py"):
        assert name in held
    assert not [name for name in held if "__pycache__" in name]


def test_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    job = ("-m", "lightning_classprune", "--cfg", "job", "data=breast_cancer")
    shown = checked(python(*job, cwd=tmp_path, path=str(installed)))
    assert "lightning_classprune.job.models.mlp" in shown
    where = "from lightning_classprune.job.configuration import conf_dir; print(conf_dir())"
    found = checked(python("-c", where, cwd=tmp_path, path=str(installed))).strip()
    assert Path(found) == installed / "lightning_classprune" / "conf"


def test_source_tree_runs_from_another_folder(tmp_path: Path) -> None:
    shown = checked(python("-m", "lightning_classprune", "--cfg", "job", cwd=tmp_path, path=str(ROOT)))
    assert "ElpvData" in shown
    assert not list(tmp_path.iterdir())


def test_editable_install_runs_and_plugs_in(foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("editable")
    hook = (
        f"import os; os.chdir({str(ROOT)!r}); import hatchling.build as b; b.build_editable({str(folder)!r})"
    )
    checked(python("-c", hook, cwd=folder))
    (built,) = folder.glob("*.whl")
    site = folder / "site"
    checked(python("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(built), cwd=folder))
    # Before what the environment has: it may hold another installation of ours.
    prelude = f"import runpy, site, sys; others = sys.path[:]; site.addsitedir({str(site)!r}); "
    prelude += "sys.path[:] = [p for p in sys.path if p not in others] + others; "
    module = "sys.argv = ['x', '--cfg', 'job']; runpy.run_module('lightning_classprune', run_name='__main__')"
    assert "ElpvData" in checked(python("-c", prelude + module, cwd=foreign))
    script = "sys.argv = ['foreign.py', 'mine', 'callbacks=[default,classprune]']; "
    script += "runpy.run_path('foreign.py', run_name='__main__')"
    assert "ClassAwarePruningCallback" in checked(python("-c", prelude + script, cwd=foreign))


def test_any_hydra_app_gets_the_callback(installed: Path, foreign: Path) -> None:
    choice = ("callbacks=[default,classprune]", "callbacks.classprune.num_classes=2")
    protect = "callbacks.classprune.protect={1: 0.05}"
    shown = checked(python("foreign.py", "mine", *choice, protect, cwd=foreign, path=str(installed)))
    assert "_target_: my.EarlyStopping" in shown
    assert "_target_: lightning_classprune.ClassAwarePruningCallback" in shown
    assert "1: 0.05" in shown
    assert "torch loaded: False" in shown


def test_plugin_adds_the_callback_and_nothing_else(installed: Path, foreign: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return python("foreign.py", *arguments, cwd=foreign, path=str(installed))

    plain = checked(run("mine"))
    assert "my.EarlyStopping" in plain
    assert "classprune" not in plain
    assert "ElpvData" not in run("mine", "+data=elpv").stdout
    for arguments in (["config"], ["mine", "callbacks=model_checkpoint"]):
        done = run(*arguments)
        assert done.returncode != 0
        assert "Could not find" in done.stderr or "Cannot find primary config" in done.stderr
    (foreign / "conf" / "callbacks" / "classprune.yaml").write_text("own: {_target_: my.Own}\n")
    own = checked(run("mine", "callbacks=[default,classprune]"))
    assert "my.Own" in own
    assert "ClassAwarePruningCallback" not in own
