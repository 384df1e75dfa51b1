"""The ready-made job: whole jobs, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from torch import Tensor

from lightning_classprune import LiveView
from lightning_classprune.job import app
from lightning_classprune.job.data.small import BreastCancerData
from lightning_classprune.job.final_test import counted
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.rows import delivered_row
from lightning_classprune.ledger.text import achievement, read_jsonl
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import read_ticket
from tests.support import ROOT, forked
from tests.support.app_job import EACH_ROUND, config
from tests.support.compare import assert_same

FACTS = {
    "class_names": ["no", "yes"],
    "num_classes": 2,
    "class_counts": [30, 10],
    "in_channels": 1,
    "in_features": 4096,
    "protected": [1],
}
# A job of seconds: 569 tumours, five epochs a round, three rounds at most.
SHORT = [
    "data=breast_cancer",
    "trainer.max_epochs=5",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "search=fixed",
    "search.fraction=0.5",
    "search.max_rounds=3",
    *EACH_ROUND,
]


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "accepted.ckpt", weights_only=True)["state_dict"]
    return state


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_facts_resolve_names_and_refuse_unknown_ones() -> None:
    data = BreastCancerData()
    data.setup()
    assert app.facts(data, {"malignant": 0.1})["protected"] == [0]
    assert app.facts(data, {1: 0.1})["protected"] == [1]
    for wrong in ("melanoma", 2, -1, True):
        with pytest.raises(ValueError, match=r"protect: .*malignant"):
            app.facts(data, {wrong: 0.1})


@pytest.mark.unit
def test_a_missing_protect_says_what_to_write() -> None:
    asked = app.ask_for_protect(["fine", "crack"], [70, 12])
    assert "such as protect.crack=0.05; the classes are 0: 'fine' (70 for training), 1: 'crack' (12" in asked
    for name in ("T-shirt/top", "a b", "é", "a=b", "yes: no", "3D", "007", "1e5"):
        assert "such as 'protect={0: 0.05}'" in app.ask_for_protect([name, "fine"], [1, 2])
    for name in ("yes", "null", "1", "10", "_"):
        assert f"such as protect.{name}=0.05;" in app.ask_for_protect([name, "0"], [1, 2])
    parser = OverridesParser.create()
    for name in ("3D", "yes", "10"):
        said = app.ask_for_protect([name, "0"], [1, 2]).partition("such as ")[2].partition(";")[0]
        assert parser.parse_override(said.strip("'")).value() in ({0: 0.05}, 0.05)


# --- whole jobs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Run the short job once, with a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp("short")
    return folder, app.run(config(folder, *SHORT, "callbacks.model_checkpoint.save_top_k=-1"))


def test_job_leaves_everything_in_its_folder(short_job: tuple[Path, float]) -> None:
    folder, objective = short_job
    names = {path.name for path in folder.iterdir()}
    assert {"ledger.jsonl", "ledger.png", "accepted.ckpt", "test.json", "checkpoints", "metrics"} <= names
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert (folder / "metrics" / "version_0" / "metrics.csv").is_file()
    rows = read_jsonl(folder / "ledger.jsonl")
    assert rows[0]["verdict"] == "baseline"
    assert len(rows) > 1
    final = delivered_row(rows)
    assert final is not None
    assert objective == final["sparsity"]
    accepted = [row["round"] for row in rows if row["verdict"] in ("baseline", "accepted")]
    assert [entry["round"] for entry in Ladder(folder / "tickets").entries()] == accepted
    ticket = read_ticket(Ladder(folder / "tickets").pick())
    assert_same(ticket.state, dict(weights(folder)))
    assert ticket.card["class_names"] == ["malignant", "benign"]
    test = json.loads((folder / "test.json").read_text())
    assert list(test["classes"]) == ["malignant", "benign"]
    assert sum(counts["support"] for counts in test["classes"].values()) == test["samples"] > 80
    assert test["accuracy"] > 0.8
    assert list(test["dense"]) == ["malignant", "benign"]
    both = RunFolder(folder).scores()
    for split, row in (("test", None), ("guard", rows)):
        assert list(both[split]) == ["delivered", "dense"] or list(both[split]) == ["dense", "delivered"]
        delivered = counted(both[split]["delivered"].decisions)["classes"]["malignant"]
        expected = test["classes"]["malignant"] if row is None else final["classes"]["malignant"]
        assert (delivered["fn"], delivered["fp"]) == (expected["fn"], expected["fp"])
    assert (
        RunFolder(folder).hashes()["accepted.ckpt"]
        == sha256((folder / "accepted.ckpt").read_bytes()).hexdigest()
    )
    assert {split: len(its) for split, its in RunFolder(folder).samples().items()}["test"] == test["samples"]


def test_dense_network_is_tested_too(short_job: tuple[Path, float], tmp_path: Path) -> None:
    """Its counts are those of the job that never prunes."""
    app.run(config(tmp_path, *SHORT, "~callbacks.classprune"))
    plain = json.loads((tmp_path / "test.json").read_text())
    pruned = json.loads((short_job[0] / "test.json").read_text())
    assert pruned["dense"] == plain["classes"]
    assert "dense" not in plain


def test_accepted_checkpoint_is_the_delivered_network(short_job: tuple[Path, float]) -> None:
    folder, objective = short_job
    prefix = "network."
    network = {
        key.removeprefix(prefix): value for key, value in weights(folder).items() if key.startswith(prefix)
    }
    cfg = config(folder, *SHORT)
    cfg.facts = FACTS | {"in_features": 30}
    instantiate(cfg.model).load_state_dict(network)
    prunable = [value for value in network.values() if value.ndim > 1]
    zeros = sum(int((value == 0).sum()) for value in prunable) / sum(value.numel() for value in prunable)
    assert zeros == pytest.approx(objective, abs=1e-4)


@pytest.mark.job
def test_resumed_job_equals_the_uninterrupted_one(short_job: tuple[Path, float], tmp_path: Path) -> None:
    folder, _ = short_job
    middle = next((folder / "checkpoints").glob("epoch=7-*.ckpt"))
    app.run(config(tmp_path, *SHORT, f"ckpt_path='{middle}'"))
    again = read_jsonl(tmp_path / "ledger.jsonl")
    assert without_seconds(again) == without_seconds(read_jsonl(folder / "ledger.jsonl"))
    ours, theirs = weights(tmp_path), weights(folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (tmp_path / "test.json").read_text() == (folder / "test.json").read_text()
    # In another folder: the tickets of the rounds before the kill came along.
    assert Ladder(tmp_path / "tickets").entries() == Ladder(folder / "tickets").entries() != []


@pytest.mark.job
def test_strict_tolerance_delivers_the_dense_network_unchanged(tmp_path: Path) -> None:
    """Nothing may be missed more, ever: no step passes, and what is left is the run without the callback."""
    strict, plain = tmp_path / "strict", tmp_path / "plain"
    assert app.run(config(strict, *SHORT, "protect.malignant=0.0")) == 0.0
    assert app.run(config(plain, *SHORT, "~callbacks.classprune")) == 0.0
    rows = read_jsonl(strict / "ledger.jsonl")
    assert [row["verdict"] in ("refused", "unproven") for row in rows] == [False, True]
    ours, theirs = weights(strict), weights(plain)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert "delivered unchanged" in achievement(rows)
    assert not (plain / "ledger.jsonl").exists()


COMMAND = ("-m", "lightning_classprune", "hydra.run.dir=out")


def command(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(*COMMAND, *overrides, folder=cwd, environment={"COLUMNS": "100"})


@pytest.mark.job
def test_command_prints_the_ledger_and_the_sentence(tmp_path: Path) -> None:
    """In a new interpreter, as a user's command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    words = [sys.executable, *COMMAND, *SHORT]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "* delivered: round" in done.stdout
    assert "Dense and delivered" in done.stdout
    rows, said = read_jsonl(tmp_path / "out" / "ledger.jsonl"), " ".join(done.stdout.split())
    assert f"{achievement(rows)} {recommendation(rows)} Dense and delivered" in said
    assert "Tip:" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.job
def test_killed_job_goes_on_from_its_last_checkpoint(short_job: tuple[Path, float], tmp_path: Path) -> None:
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    process = forked.start(*COMMAND, *SHORT, folder=tmp_path).process
    try:
        while not last.is_file():
            assert process.exitcode is None
            time.sleep(0.02)
        time.sleep(0.5)
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "out" / "test.json").exists()
    done = command(*SHORT, "ckpt_path=out/checkpoints/last.ckpt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "out" / "ledger.jsonl")
    assert without_seconds(rows) == without_seconds(read_jsonl(short_job[0] / "ledger.jsonl"))
    ours, theirs = weights(tmp_path / "out"), weights(short_job[0])
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.job
def test_command_says_what_is_missing(tmp_path: Path) -> None:
    done = command("data=imagefolder", "protect={a: 0.1}", cwd=tmp_path)
    assert done.returncode != 0
    assert "data.root" in done.stderr


@pytest.mark.job
def test_two_processes_count_the_test_split_once(tmp_path: Path) -> None:
    once = ("trainer.max_epochs=1", "search.max_rounds=1")
    done = command(*SHORT, *once, "trainer=ddp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "out" / "test.json").read_text())
    data = BreastCancerData()
    data.setup()
    y = torch.cat([y for _, y in data.test_dataloader()])
    supports = [counts["support"] for counts in test["classes"].values()]
    assert supports == torch.bincount(y).tolist()
    assert done.stdout.count("* delivered") == 1


@pytest.mark.job
def test_default_job_on_solar_cells_starts_and_judges(tmp_path: Path) -> None:
    done = command("trainer.max_epochs=1", "search.max_rounds=1", "trainer.accelerator=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "out" / "ledger.jsonl")
    assert [row["epochs"] for row in rows] == [1, 1]
    assert rows[0]["classes"]["defective"]["support"] == 205
    assert rows[0]["validation_passes"] == 1
    judged = [row for row in rows[1:] if row["verdict"] != "abandoned"]  # at the end
    assert RunFolder(tmp_path / "out").status()["state"] == "finished"
    assert [row["classes"]["defective"]["support"] for row in judged] == [205] * len(judged)


# --- what a job says ------------------------------------------------------------------------------------------------


@pytest.mark.job
def test_the_log_file_has_the_messages_and_the_warnings_and_the_screen_has_them_once(tmp_path: Path) -> None:
    done = command(*SHORT, "protect.malignant=0.01", "trainer.enable_progress_bar=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "classprune.log").read_text()
    for said in (
        "round 0: sparsity 0.00%, baseline",
        "pruning ends: ",
        "by the share of positives on which the two differ",
    ):
        assert log.count(said) == 1
        assert done.stderr.count(said) == 1
        assert said not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # the live view is for terminals
    assert list((tmp_path / "out").glob("*.log")) == [tmp_path / "out" / "classprune.log"]


@pytest.mark.parametrize("shown", ["true", "false"])
def test_the_live_view_goes_with_the_trainers_bar(
    shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Any] = []
    monkeypatch.setattr(LiveView, "on_train_start", lambda _, trainer, __: trainers.append(trainer))
    arguments = [*SHORT, "trainer.max_epochs=1", "search.max_rounds=1"]
    app.run(config(tmp_path, *arguments, f"trainer.enable_progress_bar={shown}"))
    assert bool(trainers) == (shown == "true")
