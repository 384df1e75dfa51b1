"""The live view in real terminals, in pipes and in two processes."""

from __future__ import annotations

import importlib
import logging
import os
import pty
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest

from lightning_classprune import LiveView, live
from lightning_classprune.rounds.status import Status
from tests.support import SUPPORT, forked
from tests.support.kit import QUIET
from tests.support.witness import Classifier, classifier_of, pruning_callback, train_data, val_data

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def said(written: str) -> str:
    """Without control characters and carriage returns."""
    return CONTROL.sub("", written).replace("\r", "\n")


def reading(file: int) -> tuple[threading.Thread, list[bytes]]:
    """Read a file to its end in the background."""
    parts: list[bytes] = []

    def read() -> None:
        # EIO is Linux' way to say that nobody has the terminal open any more.
        with suppress(OSError):
            while data := os.read(file, 65536):
                parts.append(data)
        os.close(file)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, parts


@contextmanager
def streams(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Iterator[Callable[[], str]]:
    """Standard output and error are a terminal, or a pipe, and Lightning's messages go there as well.

    Gives a function that returns all that was written, once the block has ended.
    """
    master, slave = pty.openpty() if terminal else os.pipe()
    thread, parts = reading(master)
    rank_zero = [logging.getLogger(f"{name}.utilities.rank_zero") for name in PACKAGES]
    with os.fdopen(slave, "w", buffering=1) as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        patch.setattr(sys, "stderr", file)
        handler = logging.StreamHandler()
        for logger in rank_zero:
            patch.setattr(logger, "level", logging.INFO)
            patch.setattr(logger, "propagate", False)
            logger._cache.clear()  # type: ignore[attr-defined]
            logger.addHandler(handler)
        yield lambda: b"".join(parts).decode()
        for logger in rank_zero:
            logger.removeHandler(handler)
        assert sys.stdout is sys.stderr is handler.stream is file  # all that the view replaced is back
    thread.join()


class Prints(L.Callback):
    """Something of the user's own."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            print("a print of the user's")
            pl_module.print("a print of the module's")


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> None:
    """Three rounds of two epochs; every batch is drawn, and every epoch is kept."""
    monkeypatch.setattr(live, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    quiet = {name: QUIET[name] for name in ("accelerator", "logger", "enable_model_summary")}
    keep = L.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    pruning = pruning_callback(confidence=0.95, max_fp_rise=None)
    trainer = L.Trainer(max_epochs=2, callbacks=[pruning, LiveView(), keep, Prints()], **quiet)
    trainer.fit(Classifier(), train_data(), val_data(), **arguments)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the checkpoints of a fit, and what its terminal showed."""
    folder = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        with streams(patch, terminal=True) as written:
            fit(folder, patch)
    return folder, written()


def test_a_terminal_shows_where_the_run_stands(shown: tuple[Path, str]) -> None:
    lines = re.findall(r"round \d \|.* left", said(shown[1]))
    first, last = lines[0], lines[-1]
    assert re.fullmatch(
        r"round 0 \| epoch 1/2 \| sparsity 0\.0% \| recall 1 - \(dense -, tolerance -\) \| "
        r"confidence 95%, 2 tests \| \d:\d\d left",
        first,
    )
    assert re.fullmatch(
        r"round 2 \| epoch 2/2 \| sparsity 75\.0% \| recall 1 [01]\.\d{3} \(dense [01]\.\d{3}, tolerance 0\.5\), "
        r"false alarms dense [01]\.\d{3} \((not guarded|may rise [\d.]+)\) \| confidence 95%, 1 test \| \d:\d\d left",
        last,
    )
    assert len({line.split(" | recall")[0] for line in lines}) == 6  # three rounds of two epochs
    assert "train 4/4" in said(shown[1])
    assert "validation 2/2" in said(shown[1])


def test_messages_and_prints_appear_once_each_on_lines_of_their_own(shown: tuple[Path, str]) -> None:
    lines = [line.strip() for line in said(shown[1]).splitlines()]
    for number in range(3):
        assert sum(line.startswith(f"round {number}: sparsity") for line in lines) == 1
    assert lines.count("a print of the user's") == lines.count("a print of the module's") == 1


def test_the_terminal_is_left_as_it_was(shown: tuple[Path, str]) -> None:
    written = shown[1]
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor hidden, and back
    # What was drawn last is wiped out: its two lines are erased before the cursor comes back.
    ending = written[written.rindex(" left") :]
    assert ending.count("\x1b[2K") >= 2
    assert not CONTROL.sub("", ending[ending.rindex("\x1b[2K") :]).strip()


def test_a_resumed_run_shows_its_round_and_the_recall_that_it_had(
    shown: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with streams(monkeypatch, terminal=True) as written:
        fit(shown[0], monkeypatch, ckpt_path=shown[0] / "epoch=2.ckpt", weights_only=True)
    first = re.search(r"round \d \|.* left", said(written()))
    assert first is not None
    assert re.match(
        r"round 1 \| epoch 2/2 \| sparsity 50\.0% \| recall 1 [01]\.\d{3} \(dense [01]\.\d{3}", first[0]
    )


@pytest.mark.parametrize(("terminal", "kind"), [(False, "xterm"), (True, "dumb")])
def test_elsewhere_there_is_the_line_of_each_round_and_nothing_of_ours_else(
    terminal: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as many CI machines have it
    with streams(monkeypatch, terminal=terminal) as written:
        fit(tmp_path, monkeypatch)
    text = written().replace("\r\n", "\n")
    lines = [line.split(":")[0] for line in text.splitlines()]
    ours = [line for line in lines if line.startswith(("round", "pruning", "a print"))]
    prints = ["a print of the user's", "a print of the module's"]
    assert ours == [*prints, "round 0", "round 1", "round 2", "pruning ends"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)


def test_an_exception_leaves_the_terminal_to_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("out of paper")

    monkeypatch.setenv("TERM", "xterm")
    quiet = {name: value for name, value in QUIET.items() if name != "enable_progress_bar"}
    with streams(monkeypatch, terminal=True) as written:
        trainer = L.Trainer(max_epochs=1, callbacks=[pruning_callback(), LiveView(), Fails()], **quiet)
        with pytest.raises(RuntimeError, match="out of paper"):
            trainer.fit(Classifier(), train_data(), val_data())
    assert written().count("\x1b[?25l") == written().count("\x1b[?25h") == 1


@pytest.mark.processes
def test_the_second_process_of_a_ddp_job_prints_nothing(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    thread, parts = reading(master)
    job = (str(SUPPORT / "live_job.py"), str(tmp_path))
    done = forked.run(*job, folder=tmp_path, environment={"TERM": "xterm"}, terminal=os.ttyname(slave))
    assert done.returncode == 0
    os.close(slave)
    thread.join()
    first = said(b"".join(parts).decode())
    # Which rounds are seen depends on the clock: it draws at most ten times a second.
    assert re.search(r"round \d \| epoch 1/1 \| sparsity", first)
    told = [line for line in (tmp_path / "rank-1.txt").read_text().splitlines() if line]
    # Of torch's and Lightning's own.
    assert [line for line in told if not line.startswith(("[Gloo]", "Initializing distributed"))] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_it_takes_the_place_of_lightnings_own_bar(package: str) -> None:
    pl = importlib.import_module(package)
    view = LiveView()
    quiet = {k: v for k, v in QUIET.items() if k != "enable_progress_bar"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[pruning_callback(), view], **quiet)
    assert trainer.progress_bar_callback is view
    assert sum(isinstance(c, pl.callbacks.ProgressBar) for c in trainer.callbacks) == 1
    module = classifier_of(package)()
    trainer.fit(module, train_data(), val_data())
    trainer.validate(module, val_data(), verbose=False)


def test_status_is_there_in_training_only_and_forgets_the_recall_of_the_round_before() -> None:
    seen: list[tuple[str, Status | None]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(("start", pruning.status()))

        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(("end", pruning.status()))

    pruning = pruning_callback()
    assert pruning.status() is None
    L.Trainer(max_epochs=2, callbacks=[pruning, Watch()], **QUIET).fit(Classifier(), train_data(), val_data())
    assert pruning.status() is None
    places = [(s.round, s.done, s.classes[0].recall is None) for _, s in seen if s is not None]
    # Four batches an epoch; the recall is known from the first validation of the round on.
    assert places == [
        (round_, epoch + end, epoch == 0 and not end)
        for round_ in range(3)
        for epoch in range(2)
        for end in (0, 0, 0, 0, 1)
    ]
    dense = pruning.ledger[0]["classes"]["1"]["recall"]
    assert [s.classes[0].dense for _, s in seen if s is not None] == [None] * 10 + [dense] * 20


def test_lightnings_own_bar_shows_the_recall() -> None:
    trainer = L.Trainer(max_epochs=1, callbacks=[pruning_callback()], **QUIET)
    shown: list[set[str]] = []

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            shown.append({name for name in trainer.progress_bar_metrics if name.startswith("classprune/")})

    trainer.callbacks.append(Watch())
    trainer.fit(Classifier(), train_data(), val_data())
    assert shown == [{"classprune/recall/1"}] * 3
