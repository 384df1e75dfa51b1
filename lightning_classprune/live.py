"""The live view: a progress bar that says how the run stands, on a terminal and nowhere else."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch.callbacks as lightning_callbacks
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard.verdict import confidence_text
from lightning_classprune.rounds.status import ClassStatus, Status

if TYPE_CHECKING:
    _ProgressBar = lightning_callbacks.ProgressBar
else:
    # A Trainer of `pytorch_lightning` takes a progress bar of its own class only for one.
    try:
        import pytorch_lightning.callbacks

        class _ProgressBar(lightning_callbacks.ProgressBar, pytorch_lightning.callbacks.ProgressBar):
            pass

    except ImportError:
        _ProgressBar = lightning_callbacks.ProgressBar

_SECONDS_BETWEEN = 0.1
_NAME = 16  # columns of a class' name where there is no room


class LiveView(_ProgressBar):
    """Takes the place of Lightning's progress bar; above the batches one line says how the pruning stands.

    Writes to standard error, and only where that is a terminal and only in the first process: elsewhere the message
    that ends each round is all there is. Leaves nothing behind. Messages and prints of others appear above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._live: Live | None = None
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._drawn = -math.inf

    # -- what Lightning asks of a progress bar --

    @property
    def is_enabled(self) -> bool:
        """Whether it may show anything; `LightningModule.print` asks."""
        return self._enabled

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False
        self._stop()

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the view."""
        print(*args, **kwargs)

    # -- events --

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self._start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A training batch is done."""
        self._show("train", batch_idx + 1, self.total_train_batches)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, where validation is all that is done."""
        if not trainer.sanity_checking:
            self._start()

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """A validation batch is done."""
        self._show_evaluation("validation", trainer.num_val_batches, *args, **kwargs)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """There is a new recall."""
        if trainer.state.fn == "validate":
            self._stop()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self._start()

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """A test batch is done."""
        self._show_evaluation("test", trainer.num_test_batches, *args, **kwargs)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self._start()

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """A batch is predicted."""
        self._show_evaluation("predict", trainer.num_predict_batches, *args, **kwargs)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal to the traceback."""
        self._stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the terminal as it was."""
        self._stop()

    # -- the terminal --

    def _start(self) -> None:
        if not self._enabled or self._live is not None or not sys.stderr.isatty():
            return
        console = Console(stderr=True, force_jupyter=False)
        if not console.is_terminal or console.is_dumb_terminal:
            return
        before = (sys.stdout, sys.stderr)
        # Drawn between batches, by the process that trains: no thread, so nothing is read while it changes.
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._live.start()
        # Log handlers hold on to the stream that they were made with; left so, they would write into the view.
        for old, new in zip(before, (sys.stdout, sys.stderr), strict=True):
            for handler in _stream_handlers():
                if handler.stream is old and new is not old:
                    self._moved.append((handler, handler.setStream(new)))

    def _stop(self) -> None:
        if self._live is None:
            return
        live, self._live = self._live, None
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        live.update(Text(), refresh=True)
        live.stop()

    def _show_evaluation(
        self,
        what: str,
        batches: list[int | float],
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self.trainer.sanity_checking:
            self._show(what, batch_idx + 1, batches[dataloader_idx])

    def _show(self, what: str, done: int, total: int | float) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _SECONDS_BETWEEN:
            self._drawn = now
            self._live.update(self._picture(what, done, total), refresh=True)

    def _picture(self, what: str, done: int, total: int | float) -> RenderableType:
        rows: list[RenderableType] = []
        trainer: Any = self.trainer
        pruning = next((c for c in trainer.callbacks if isinstance(c, ClassAwarePruningCallback)), None)
        if pruning is not None and (status := pruning.status()) is not None:
            rows.append(line(status, None if self._live is None else self._live.console.width))
        known = math.isfinite(total)
        batches = Table.grid(padding=(0, 1))
        batches.add_row(
            Text(f"{what} {done}/{total if known else '-'}"),
            ProgressBar(total=max(total, 1) if known else None, completed=done, width=30),
            Text(self._metrics(), style="italic", no_wrap=True, overflow="ellipsis"),
        )
        return Group(*rows, batches)

    def _metrics(self) -> str:
        shown = self.get_metrics(self.trainer, self.trainer.lightning_module)
        return "  ".join(
            f"{name} {value if isinstance(value, str) else format(float(value), '.4g')}"  # type: ignore[arg-type]
            for name, value in shown.items()
            if not name.startswith("classprune/")  # in the line already
        )


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from (h for h in logger.handlers if isinstance(h, logging.StreamHandler))


# -- the line --


def line(status: Status, width: int | None = None) -> Text:
    """Say it in one line without control characters; what is not known yet is `-`.

    Args:
        status: To be said.
        width: Columns that there are; the line leaves out what is of least use until it fits. None: everything is said.
    """
    said = _line(status, details=3)
    for details in (2, 1, 0):
        if width is None or said.cell_len <= width:
            return said
        said = _line(status, details)
    said.truncate(width or said.cell_len, overflow="ellipsis")
    return said


def _line(status: Status, details: int) -> Text:
    """The line with everything (3), without false alarms (2), with recalls and counts (1), or with one class (0)."""
    attempt = f".{status.attempt}" if status.attempt > 1 else ""
    classes = status.classes
    if not details:
        classes = tuple(replace(one, name=_short(one.name)) for one in sorted(classes, key=_slack)[:1])
    others = len(status.classes) - len(classes)
    parts = [
        Text(f"round {status.round}{attempt}", style="bold"),
        Text(f"{status.unit} {_place(status)}"),
        Text(_sparsity(status)),
        *(_class_text(one, details) for one in classes),
        *([Text(f"{others} more")] if others else []),
        *([Text(_budget(status, details))] if details else []),
        *(
            []
            if status.epochs_left is None or not details
            else [Text(_count(status.epochs_left, "epoch left", "epochs left"))]
        ),
        Text(f"{_clock(status.seconds_left)} left"),
    ]
    return Text(" | ").join(parts)


def _slack(one: ClassStatus) -> float:
    """How far the recall is above what is allowed; a class of which that is not known comes last."""
    if one.recall is None or one.dense is None or one.tolerance is None:
        return math.inf
    return -math.inf if math.isnan(one.recall) else one.recall - (one.dense - one.tolerance)


def _short(name: str) -> str:
    text = Text(name)
    text.truncate(_NAME, overflow="ellipsis")
    return text.plain


def _place(status: Status) -> str:
    if status.length is None:
        return f"{status.done + 1}"
    return f"{min(status.done + 1, status.length)}/{status.length}"


def _sparsity(status: Status) -> str:
    if status.shrunk is None:
        return f"sparsity {status.sparsity:.1%}"
    return f"sparsity {status.shrunk:.1%} of {status.sparsity:.1%}"


def _class_text(one: ClassStatus, details: int) -> Text:
    known = one.recall is not None and one.dense is not None and one.tolerance is not None
    # Colour only hints: the guard's evidence decides, not the validation's recall.
    low = known and not one.recall >= one.dense - one.tolerance  # type: ignore[operator]
    style = ("yellow" if low else "green") if known else ""
    text = Text(f"recall {one.name} ")
    text.append(_number(one.recall, ".3f"), style=style)
    tolerance = f", tolerance {_number(one.tolerance, '.3g')}" if details > 1 else ""
    text.append(f" (dense {_number(one.dense, '.3f')}{tolerance})")
    if one.dense_alarms is not None and details > 2:
        limit = "not guarded" if one.max_fp_rise is None else f"may rise {one.max_fp_rise:.3g}"
        text.append(f", false alarms dense {one.dense_alarms:.3f} ({limit})")
    return text


def _budget(status: Status, details: int) -> str:
    if not status.tests_left:
        return "no test left"
    level = "point rule" if status.level is None else f"confidence {confidence_text(status.level)}"
    confidence = f"{level}, " if details > 1 else ""
    if status.kept is not None:
        return f"{confidence}{status.kept} kept{' for the guard' * (details > 1)}"
    retries = f", {_count(status.retries_left, 'retry', 'retries')}" if status.retries_left else ""
    return f"{confidence}{_count(status.tests_left, 'test', 'tests')}{retries}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
