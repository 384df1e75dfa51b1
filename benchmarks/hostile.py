"""Damaged and hostile files through the loaders that users call: what comes of each, counted.

    python -m benchmarks.hostile [--mutants 1000] [--seed 0] [--out benchmarks/results]

A ticket, a ladder, a checkpoint, the folder of a finished job (report, row in a sweep's summary, export), an
archive and a folder of images are made once. Every mutant is a copy of one of them with a bit flipped, bytes set, cut,
repeated or inserted, a value of its JSON or YAML replaced, or a file of another kind in its place; the n-th mutant of a
seed is always the same. It is read in a forked process, a few in each, and ends as one of

    same               what was read is what was written
    refused            an error in one line that names the file, or a row of the summary that says so
    loaded             only data of the user's own, of which nobody knows what they were
    raw traceback      another error
    silent difference  something else was read, and nothing said
    code run           the file made a folder
    over the bound     more than 200 MB beside what the process had, or 20 s

Writes hostile.json and hostile.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch import nn

from benchmarks.support import command_line, markdown, named, one_thread, versions, write
from lightning_classprune import load_ticket, save_ticket
from lightning_classprune.job import app, export_run
from lightning_classprune.job.data.images import ImageFolderData
from lightning_classprune.job.data.npz import NpzData
from lightning_classprune.job.report.report_run import write_report
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.sweep.job_rows import read_jobs
from lightning_classprune.job.sweep.sweep import to_csv
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import read_ticket
from lightning_classprune.trainer.checkpoint_hashes import HashedCheckpointIO
from tests.support.app_job import LENIENT, config

BOUND, PATIENCE, BATCH = 200_000_000, 20, 20
BAD = ("raw traceback", "silent difference", "code run", "over the bound")
OUTCOMES = ("same", "refused", "loaded", *BAD)
MARK = "was-here"
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**70, 1e308, float("nan"), "", "x" * 100_000, "../../victim", "/etc/passwd", [], {},
    [[]] * 50, "${oc.env:HOME}", "${", {"a": {"a": {}}}, {"_target_": "os.mkdir", "path": MARK},
    {"_target_": "torch.nn.init.torch.load", "f": "payload.bin", "weights_only": False},
    {"_target_": "lightning_classprune.job.own_process.os.system", "command": f"mkdir {MARK}"},
)  # fmt: skip


class Payload:
    """A pickle that makes a folder when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


# -- good files --


def make(root: Path) -> None:
    """One of each kind, below `root`."""
    model = network()
    masks = {"0.weight": torch.rand(8, 3, 3, 3) < 0.3, "3.weight": torch.rand(4, 8, 3, 3) < 0.1}
    for name, mask in masks.items():
        model.get_parameter(name).data.masked_fill_(~mask, 0)
    (root / "ticket").mkdir(parents=True)
    save_ticket(
        root / "ticket" / "a.safetensors", model.state_dict(), masks, card={"class_names": ["a", "b"]}
    )
    for number in range(3):
        counts = {"crack": {"recall": 0.9 - number / 10, "fn": number, "support": 10}}
        row = {"round": number, "sparsity": number / 4, "verdict": "accepted", "classes": counts}
        model[0].bias.data += 1
        Ladder(root / "ladder").add(row, model.state_dict(), masks, {"verdict": row})
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        app.run(config(root / "sweep" / "run", *LENIENT))
    shutil.copytree(root / "sweep" / "run" / "checkpoints", root / "checkpoint")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 2
    (root / "archive").mkdir()
    np.savez_compressed(root / "archive" / "a.npz", x=x, y=y, classes=np.array(["a", "b"]))
    for number, picture in enumerate(x):
        path = root / "images" / "ab"[number % 2] / f"{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


# -- what users call --


def digest(*parts: Any) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else repr(part).encode())
    return sha.hexdigest()


def weights(state: dict[str, Any]) -> str:
    return digest(*((name, tensor.numpy().tobytes()) for name, tensor in state.items()))


def of_ticket(folder: Path) -> str:
    read = read_ticket(folder / "a.safetensors")
    load_ticket(folder / "a.safetensors", network())
    return digest(read.sha256, sorted(read.card.items()))


def of_ladder(folder: Path) -> str:
    picked = [
        load_ticket(folder, network(), **limits)
        for limits in ({}, {"min_recall": 0.75}, {"max_bytes": 10**6})
    ]
    Ladder(folder / "new").go_on([0, 1], folder)
    return digest([(one.path.name, one.sha256) for one in picked], Ladder(folder).entries())


def of_checkpoint(folder: Path) -> str:
    saved = HashedCheckpointIO(TorchCheckpointIO()).load_checkpoint(folder / "last.ckpt", weights_only=True)
    return digest(weights(saved["state_dict"]), sorted(saved["callbacks"]))


def of_report(folder: Path) -> str:
    return digest(write_report(RunFolder.open(folder / "run")).read_bytes())


def of_summary(folder: Path) -> str:
    text = to_csv(read_jobs(folder))
    if "unreadable" in text:
        raise ValueError("a row says that the folder is unreadable")
    return text


def of_export(folder: Path) -> str:
    facts = export_run.export_run(folder / "run")
    return str(facts["digest"])


def of_archive(folder: Path) -> str:
    data = NpzData(str(folder), "a")
    data.prepare_data()
    data.setup("fit")
    return digest([(x.numpy().tobytes(), y.tolist()) for x, y in data.val_dataloader()])


def of_images(folder: Path) -> str:
    data = ImageFolderData(str(folder), image_size=8)
    data.prepare_data()
    data.setup("fit")
    return digest([(x.numpy().tobytes(), y.tolist()) for x, y in data.val_dataloader()])


#: Kind -> the folder of the good ones, the reader, how often of a hundred.
KINDS: dict[str, tuple[str, Callable[[Path], str], int]] = {
    "ticket": ("ticket", of_ticket, 30),
    "ladder": ("ladder", of_ladder, 20),
    "checkpoint": ("checkpoint", of_checkpoint, 12),
    "run folder, report": ("sweep", of_report, 8),
    "run folder, summary": ("sweep", of_summary, 8),
    "run folder, export": ("sweep", of_export, 8),
    "archive": ("archive", of_archive, 8),
    "images": ("images", of_images, 6),
}
OWN_DATA = ("archive", "images")
READ = {  # files that a reader of the folder opens
    "checkpoint": ("last.ckpt", "last.ckpt.sha256"),
    "run folder, export": ("config.yaml", "status.json", "hashes.json", "accepted.ckpt", "accepted.ckpt.sha256"),
    "run folder, summary": ("config.yaml", "status.json", "hashes.json", "ledger.jsonl", "test.json"),
    "run folder, report": (
        "config.yaml", "status.json", "hashes.json", "ledger.jsonl", "test.json", "guard.npz", "scores.npz",
        "samples.csv", "layers.json", "environment.json",
    ),
}  # fmt: skip


# -- mutants --


def mutate(kind: str, folder: Path, rng: random.Random) -> str:
    """Damage one file of a copy; returns how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind in READ:
        files = [path for path in files if path.name in READ[kind] and ".hydra" not in path.parts]
    path = rng.choice(files)
    content = path.read_bytes()
    text = path.suffix in (".json", ".yaml", ".jsonl")
    how = rng.choice(
        (
            "bit",
            "byte",
            "cut",
            "zeros",
            "repeat",
            "insert",
            "kind",
            *(("value",) * 8 if text else ("bit",) * 4),
        )
    )
    if how == "value":
        content = _other_value(path, content, rng)
    elif how == "kind":
        content = rng.choice(
            (b"", b"PK\x03\x04", b"[" * 50_000, pickle.dumps(Payload()), b"\x93NUMPY", b"hello\n")
        )
    else:
        place = rng.randrange(max(len(content), 1))
        piece = content[place : place + rng.choice((1, 16, 500))]
        size = len(piece)
        if how == "bit":
            piece = bytes([piece[0] ^ 1 << rng.randrange(8)]) + piece[1:] if piece else b""
        elif how == "byte":
            piece = bytes([rng.randrange(256)]) + piece[1:]
        elif how == "zeros":
            piece = bytes(size)
        elif how == "repeat":
            piece = piece * rng.choice((2, 1000))
        elif how == "insert":
            piece = rng.randbytes(rng.choice((1, 100))) + piece
        content = content[:place] if how == "cut" else content[:place] + piece + content[place + size :]
    path.write_bytes(content)
    return f"{path.relative_to(folder)}: {how}"


def _other_value(path: Path, content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
    number = rng.randrange(len(lines))
    parse: Callable[[str], Any] = yaml.safe_load if path.suffix == ".yaml" else json.loads
    whole = parse(lines[number])
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(whole)
    if places:
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice(NASTY)
    lines[number] = yaml.safe_dump(whole) if path.suffix == ".yaml" else json.dumps(whole)
    return "\n".join(lines).encode()


# -- a process for some of them --


def _memory(what: str) -> int:
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(found.split()[1]) * 1024


def outcome(kind: str, folder: Path, expected: str) -> tuple[str, str]:
    """What comes of reading a mutant, and what it says."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    said, result = "", ""
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = KINDS[kind][1](folder)
        result = "same" if found == expected else "loaded" if kind in OWN_DATA else "silent difference"
    except (ValueError, FileNotFoundError, MisconfigurationException) as error:
        said = str(error)
        result = "refused" if said and len(said.splitlines()) < 4 else "raw traceback"
    except TimeoutError:
        result = "over the bound"
    except BaseException as error:
        said, result = f"{type(error).__name__}: {error}", "raw traceback"
    signal.alarm(0)
    if _memory("VmHWM") - before > BOUND:
        result = "over the bound"
    return ("code run" if Path(MARK).exists() else result), said[:300]


def batch(root: Path, numbers: list[int], seed: int, expected: dict[str, str]) -> list[dict[str, Any]]:
    """Read mutants in a process of their own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _read_all(root, numbers, seed, expected, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = [json.loads(line) for line in lines]
    os.waitpid(child, 0)
    done = [one for one in found if "outcome" in one]
    begun = [one for one in found if "outcome" not in one]
    if len(begun) > len(done):  # it died of this one
        done.append(begun[-1] | {"outcome": "over the bound", "said": "the process died"})
    return done


def _read_all(root: Path, numbers: list[int], seed: int, expected: dict[str, str], writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (6 * 2**30, 6 * 2**30))

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    warnings.simplefilter("ignore")
    for number in numbers:
        rng = random.Random(f"{seed}-{number}")
        kind = rng.choices(list(KINDS), [share for _, _, share in KINDS.values()])[0]
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            Path("payload.bin").write_bytes(pickle.dumps(Payload()))
            folder = Path(name) / "copy"
            shutil.copytree(root / KINDS[kind][0], folder)
            how = mutate(kind, folder, rng)
            one = {"number": number, "kind": kind, "how": how}
            os.write(writer, (json.dumps(one) + "\n").encode())
            result, said = outcome(kind, folder, expected[kind])
            os.write(writer, (json.dumps(one | {"outcome": result, "said": said}) + "\n").encode())
        os.chdir(root)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    one_thread()
    started = time.time()
    # The last step of an export, which reads no file, takes seconds.
    export_run.export = lambda network, *_, ledger, **__: {
        "digest": digest(weights(network.state_dict()), ledger)
    }
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "good"
        make(root)
        expected = {}
        for kind, (folder, read, _) in KINDS.items():
            copy = Path(name) / "copy"
            shutil.copytree(root / folder, copy)
            expected[kind] = read(copy)
            shutil.rmtree(copy)
        for start in range(0, given.mutants, BATCH):
            numbers = list(range(start, min(start + BATCH, given.mutants)))
            while numbers:
                done = batch(root, numbers, given.seed, expected)
                found += done
                numbers = [number for number in numbers if number > done[-1]["number"]]
            if start % 500 == 0:
                print(len(found), dict(Counter(one["outcome"] for one in found)), flush=True)
    report(found, given.seed, given.mutants, time.time() - started, given.out)


def report(found: list[dict[str, Any]], seed: int, mutants: int, seconds: float, out: Path) -> None:
    bad = [one for one in found if one["outcome"] in BAD]
    for one in bad:
        print(one)
    head = {"seed": seed, "mutants": len(found), "seconds": round(seconds), **versions()}
    counts = [
        {"kind": kind, "mutants": sum(one["kind"] == kind for one in found)}
        | {name: sum(one["kind"] == kind and one["outcome"] == name for one in found) for name in OUTCOMES}
        for kind in KINDS
    ]
    counts.append(
        {"kind": "all", "mutants": len(found)} | {n: sum(row[n] for row in counts) for n in OUTCOMES}
    )
    write(out / "hostile.json", [json.dumps(head | {"counts": counts, "bad": bad}, indent=1)])
    lines = [
        "# Damaged and hostile files",
        "",
        f"`python -m benchmarks.hostile --mutants {mutants} --seed {seed}`; its `--help` says what the columns mean. "
        f"{named(versions())}; {seconds:.0f} s.",
        "",
    ]
    write(out / "hostile.md", [*lines, markdown(counts)])


if __name__ == "__main__":
    main()
