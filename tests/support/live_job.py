"""A DDP fit of two processes with the live view: `python live_job.py FOLDER`.

The second process gets a terminal of its own, and what appears there is kept in `FOLDER/rank-1.txt`.
"""

from __future__ import annotations

import os
import pty
import sys
import threading
import time
import warnings
from pathlib import Path


def own_terminal(path: Path) -> None:
    """From now on this process writes to a terminal whose content goes to a file."""
    master, slave = pty.openpty()
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    file = path.open("wb", buffering=0)

    def copy() -> None:
        while data := os.read(master, 4096):
            file.write(data)

    threading.Thread(target=copy, daemon=True).start()


def main() -> None:
    import lightning.pytorch as L

    from lightning_classprune import LiveView
    from tests.support.kit import QUIET
    from tests.support.witness import Classifier, pruning_callback, train_data, val_data

    warnings.simplefilter("ignore")
    quiet = {name: value for name, value in QUIET.items() if name != "enable_progress_bar"}
    view = LiveView()
    trainer = L.Trainer(
        devices=2, strategy="ddp", max_epochs=1, callbacks=[pruning_callback(), view], **quiet
    )
    trainer.fit(Classifier(), train_data(), val_data())


if __name__ == "__main__":
    if os.environ.get("LOCAL_RANK") == "1":
        own_terminal(Path(sys.argv[1]) / "rank-1.txt")
    main()
    time.sleep(0.2)  # for the copy of the second terminal
