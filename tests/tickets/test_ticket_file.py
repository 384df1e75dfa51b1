"""Ticket files hold what was saved, prove it, and load into the model that they fit and into no other."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_classprune import load_ticket, save_ticket
from lightning_classprune.tickets.ticket_file import digest, read_ticket
from tests.support.compare import assert_same, weights

CARD = {
    "class_names": ["intact", "crack"],
    "threshold": 0.25,
    "verdict": {"recall": 0.9375, "upper_bound": None},
    "ledger": [{"round": 0}, {"round": 1}],
}


def network(width: int = 16, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3))


def pruned(model: nn.Module, density: float = 0.1) -> dict[str, torch.Tensor]:
    """Masks of its convolutions, which are applied."""
    masks = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                masks[name] = torch.rand(parameter.shape) < density
                parameter.masked_fill_(~masks[name], 0)
    return masks


@pytest.fixture
def saved(tmp_path):
    model = network()
    masks = pruned(model)
    path = tmp_path / "ticket.safetensors"
    size = save_ticket(path, model.state_dict(), masks, card=CARD)
    return path, model, masks, size


def test_a_ticket_comes_back_whole(saved):
    path, model, masks, size = saved
    assert size == path.stat().st_size
    assert os.listdir(path.parent) == [path.name]
    ticket = read_ticket(path)
    assert_same(ticket.state, weights(model))
    assert list(ticket.state) == list(model.state_dict())
    assert_same(ticket.masks, masks)
    assert ticket.card == CARD
    assert ticket.path == path
    other = network(seed=1)
    loaded = load_ticket(str(path), other)
    assert_same(weights(other), weights(model))
    assert (loaded.card, loaded.sha256) == (CARD, ticket.sha256)


def test_parameters_stay_the_objects_that_an_optimizer_holds(saved):
    path, model, _, _ = saved
    other = network(seed=1)
    held = list(other.parameters())
    load_ticket(path, other)
    assert all(a is b for a, b in zip(held, other.parameters(), strict=True))
    assert torch.equal(held[0], model[0].weight)


def test_the_file_is_plain_safetensors(saved):
    path, _, _, _ = saved
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        card = zlib.decompress(file.get_tensor("card").numpy().tobytes())
    assert metadata["format"] == "classprune-ticket"
    assert metadata["version"] == "1"
    assert json.loads(card) == CARD
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())


def test_the_hash_is_of_the_content_not_of_the_bytes(saved, tmp_path):
    path, model, masks, _ = saved
    sha256 = read_ticket(path).sha256
    again = tmp_path / "again.safetensors"
    backwards = dict(reversed(list(model.state_dict().items())))
    save_ticket(again, backwards, masks)
    assert read_ticket(again).sha256 == sha256
    assert digest(model.state_dict(), masks) == sha256

    one = {name: t.clone() for name, t in model.state_dict().items()}
    one["1.running_mean"][0] += 1
    assert digest(one, masks) != sha256
    assert digest(model.state_dict(), {"0.weight": masks["0.weight"]}) != sha256
    more = {name: mask.clone() for name, mask in masks.items()}
    more["0.weight"].view(-1)[int((~masks["0.weight"]).flatten().nonzero()[0])] = True
    assert digest(model.state_dict(), more) != sha256
    renamed = {name.replace("3.bias", "3.bios"): t for name, t in model.state_dict().items()}
    assert digest(renamed, masks) != sha256
    shaped = dict(model.state_dict()) | {"3.bias": model[3].bias.detach().reshape(2, 2)}
    assert digest(shaped, masks) != sha256
    typed = dict(model.state_dict()) | {"3.bias": model[3].bias.detach().view(torch.int32)}
    assert digest(typed, masks) != sha256


@pytest.mark.parametrize("values", ["fp16", "bf16"])
def test_a_cast_ticket_loads_in_the_same_model(values, tmp_path):
    model = network()
    masks = pruned(model)
    path = tmp_path / "half.safetensors"
    save_ticket(path, model.state_dict(), masks, values=values)
    other = network(seed=1)
    ticket = load_ticket(path, other)
    assert other[0].weight.dtype == torch.float32
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[values]
    assert torch.equal(other[0].weight, model[0].weight.to(dtype).float())
    assert torch.equal(other[1].running_var, model[1].running_var)
    assert_same(ticket.masks, masks)
    # what was loaded is what would be saved, without a further loss
    assert save_ticket(tmp_path / "b", other.state_dict(), masks) > 0
    assert read_ticket(tmp_path / "b").sha256 == ticket.sha256


def test_a_half_precision_network_stays_as_it_is(tmp_path):
    model = network().to(torch.bfloat16)
    masks = pruned(model)
    save_ticket(tmp_path / "t", model.state_dict(), masks)
    other = network(seed=1).to(torch.bfloat16)
    load_ticket(tmp_path / "t", other)
    assert_same(weights(other), weights(model))


def test_a_compiled_model_takes_and_gives_the_same_ticket(saved, tmp_path):
    path, model, _, _ = saved
    compiled = torch.compile(network(seed=1), backend="eager")
    load_ticket(path, compiled)
    assert_same(weights(compiled._orig_mod), weights(model))


def test_what_state_dict_holds_beside_tensors_stays(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            raise AssertionError("there is none in the file")

    model = Extra(3, 2)
    with pytest.raises(ValueError, match=r"state\['_extra_state'\] is a dict"):
        save_ticket(tmp_path / "t", model.state_dict(), {})
    save_ticket(tmp_path / "t", dict(model.named_parameters()), {})
    other = Extra(3, 2)
    load_ticket(tmp_path / "t", other)
    assert torch.equal(other.weight, model.weight)


@pytest.mark.parametrize(
    ("other", "differences"),
    [
        (
            network(width=8),
            [
                r"0\.weight is float32 \[16, 3, 3, 3\] in the file and float32 \[8, 3, 3, 3\] in the model",
                "and 2 more",
            ],
        ),
        (network().double(), ["0.weight is float32 .* and float64"]),
        (
            nn.Sequential(*network(), nn.Linear(2, 2)),
            ["4.weight is missing in the file; 4.bias is missing in the file"],
        ),
        (network()[:2], ["3.weight is missing in the model; 3.bias is missing in the model"]),
        (nn.Sequential(network()), ["0.0.weight is missing in the file", "and 13 more"]),
    ],
)
def test_a_model_that_does_not_fit_is_refused_untouched(saved, other, differences):
    before = weights(other)
    for difference in differences:
        with pytest.raises(ValueError, match=f"does not fit the model: .*{difference}"):
            load_ticket(saved[0], other)
    assert_same(weights(other), before)


def rewritten(path: Path, **changes: str) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    save_file(load_file(path), path, metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pt"}, "not a ticket file"),
        ({"version": "2"}, "version 2; this package reads 1"),
        ({"sha256": "0" * 64}, "SHA-256 of its network"),
        ({"card_sha256": "0" * 64}, "SHA-256 of its card"),
    ],
)
def test_another_file_is_refused(saved, changes, message):
    path = saved[0]
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        read_ticket(path)


@pytest.mark.parametrize(
    ("card", "message"), [(b'{"threshold": 0.5}', "SHA-256 of its card"), (b"{", "damaged")]
)
def test_another_card_is_refused(saved, card, message):
    path = saved[0]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    other = torch.frombuffer(bytearray(zlib.compress(card)), dtype=torch.uint8)
    save_file(load_file(path) | {"card": other}, path, metadata)
    with pytest.raises(ValueError, match=message):
        read_ticket(path)


def test_a_file_without_metadata_and_one_that_is_none(saved, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "plain")
    with pytest.raises(ValueError, match="not a ticket file"):
        read_ticket(tmp_path / "plain")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_ticket(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_ticket(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        load_ticket(tmp_path / "nothing", network())


def test_a_blob_that_is_left_out_is_missed(saved):
    path = saved[0]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    blobs = load_file(path)
    for name in blobs:
        save_file({k: v for k, v in blobs.items() if k != name}, path, metadata)
        with pytest.raises(ValueError, match="damaged"):
            read_ticket(path)


def test_no_cut_and_no_flipped_bit_goes_unnoticed(saved):
    """A ValueError wherever the file is cut or changed, or, in bytes that mean nothing, the very same content."""
    path, model, masks, size = saved
    whole = path.read_bytes()
    assert size < 6000
    for end in range(0, size, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"ticket\.safetensors"):
            read_ticket(path)
    unnoticed = 0
    for place in range(0, size, 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            ticket = read_ticket(path)
        except ValueError:
            continue
        unnoticed += 1
        assert_same(ticket.state, weights(model))
        assert_same(ticket.masks, masks)
        assert ticket.card == CARD
    assert unnoticed < 20


def bomb(path: Path, kind: str) -> Path:
    """A small file that claims, or expands to, gigabytes."""
    table = [["w", "float32", [2**28 if kind == "shape" else 2**14], "float32", True]]
    blobs = {
        "tensors": json.dumps(table).encode(),
        "index": b"",
        "values.float32": b"",
        "card": b"{}",
    }
    if kind == "index":
        blobs["index"] = bytes(40 * 2**20)
    elif kind == "card":
        blobs["card"] = b"[" + b"[]," * (40 * 2**20 // 3) + b"[]]"
    elif kind == "card text":
        blobs["card"] = b" " * (40 * 2**20)
    elif kind == "table":
        blobs["tensors"] = b"[" + b"[]," * (40 * 2**20 // 3) + b"[]]"
    elif kind == "values":
        blobs["values.float32"] = bytes(48 * 2**20)
    metadata = {"format": "classprune-ticket", "version": "1", "sha256": "0" * 64, "card_sha256": "0" * 64}
    packed = {name: np.frombuffer(zlib.compress(blob, 1), np.uint8) for name, blob in blobs.items()}
    save_numpy(packed, path, metadata)
    return path


@pytest.mark.parametrize("kind", ["shape", "index", "card", "card text", "table", "values"])
def test_a_file_that_claims_more_than_it_is_allocates_nothing(kind, tmp_path):
    path = bomb(tmp_path / "bomb.safetensors", kind)
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2**14))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bomb\.safetensors is damaged"):
            read_ticket(path)
        with pytest.raises(ValueError, match=r"bomb\.safetensors (is damaged|does not fit)"):
            load_ticket(path, model)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 45e6, f"{peak / 1e6:.0f} MB"


def test_a_large_network_of_a_small_file_is_read_where_the_model_is_known(tmp_path, monkeypatch):
    """A million weights of which one is kept, in less than six kilobytes."""
    monkeypatch.setattr("lightning_classprune.tickets.ticket_file.LARGEST_UNKNOWN", 2**20)
    state = {"w": torch.zeros(2**10, 2**10 * 2)}
    state["w"][7, 7] = 3.0
    path = tmp_path / "t"
    assert save_ticket(path, state, {"w": state["w"] != 0}) < 6000
    with pytest.raises(ValueError, match=r"claims a network of .* give the model that it is of"):
        read_ticket(path)
    assert torch.equal(read_ticket(path, like=state).state["w"], state["w"])


def test_the_same_network_makes_the_same_bytes(saved, tmp_path):
    path, model, masks, _ = saved
    for number in range(4):
        again = tmp_path / f"again-{number}"
        save_ticket(again, model.state_dict(), masks, card=dict(reversed(CARD.items())))
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("card", [{"recall": float("nan")}, {"w": torch.ones(1)}, {(1, 2): 3}])
def test_a_card_that_is_not_json_is_refused_and_the_old_file_stays(saved, card):
    path, model, masks, _ = saved
    before = path.read_bytes()
    with pytest.raises(ValueError, match="card must be JSON"):
        save_ticket(path, model.state_dict(), masks, card=card)
    assert path.read_bytes() == before


def test_nothing_is_left_of_a_file_that_could_not_be_written(saved, monkeypatch):
    import lightning_classprune.tickets.ticket_file as module

    path, model, masks, _ = saved
    before = path.read_bytes()

    def fails(part, blobs, metadata):
        Path(part).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "write_blobs", fails)
    with pytest.raises(OSError, match="No space"):
        save_ticket(path, model.state_dict(), masks)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.processes
def test_a_file_can_be_read_without_this_package(saved):
    """The description in `packing` is enough: safetensors, numpy, zlib, json."""
    path, model, _, _ = saved
    script = """
import json, sys, zlib
import numpy as np
from safetensors.numpy import load_file
blobs = {k: zlib.decompress(v.tobytes()) for k, v in load_file(sys.argv[1]).items()}
table = json.loads(blobs["tensors"])
stream = np.frombuffer(blobs["index"], np.uint8)
ends = np.flatnonzero(stream != 255)
kept = np.zeros(sum(int(np.prod(r[2])) for r in table if r[4]), bool)
kept[np.cumsum(stream.astype(int))[ends] + np.arange(len(ends))] = True
values = {k[7:]: np.frombuffer(v, np.uint8).reshape(np.dtype(k[7:]).itemsize, -1).T.copy().view(k[7:])[:, 0]
          for k, v in blobs.items() if k.startswith("values.")}
total = 0.0
for name, dtype, shape, stored, masked in table:
    size = int(np.prod(shape))
    tensor = np.zeros(size, dtype)
    mask = kept[:size] if masked else np.ones(size, bool)
    kept = kept[size:] if masked else kept
    tensor[mask], values[stored] = values[stored][: mask.sum()], values[stored][mask.sum() :]
    total += float(tensor.sum())
assert "torch" not in sys.modules
print(total)
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(sum(float(t.sum()) for t in weights(model).values()), rel=1e-5)
