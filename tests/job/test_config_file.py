"""Configurations of strangers: text stays text, and no file makes more of itself than it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_classprune.job.config_file import LARGEST, literal, read_config, read_yaml

TEXT = st.text(alphabet="\\${}ab:.\n' \"-#1e", max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(PLAIN)
@example("${oc.env:HOME}")
@example("\\${")
@example("\\\\${a}\\")
@example(1e-05)
@example("1e-05")
@example("yes")
@example("2020-01-01")
def test_what_a_job_writes_is_read_as_it_was(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(literal({"value": value})), resolve=True))
        config = read_config(path)
        assert OmegaConf.to_container(config, resolve=True) == {"value": value}
        again = Path(folder) / "again.yaml"
        again.write_text(OmegaConf.to_yaml(config, resolve=True))
        assert again.read_text() == path.read_text()


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "${seed}", "${oc.create:{a: 1}}", "${hydra:runtime.cwd}"]
)
def test_nothing_is_looked_up(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    path = tmp_path / "config.yaml"
    path.write_text(f"seed: 3\nfacts:\n  class_names: ['{text}']\n")
    assert list(read_config(path).facts.class_names) == [text]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nfacts: {class_names: [a,", "while parsing a flow"),
        ("", "holds no keys"),
        ("- 1\n", "holds no keys"),
        ("a: *b\n", "alias"),
        (BOMB, "alias"),
        ("a: " + "[" * 400, "recursion"),
        ("!!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("a: \x00", "special characters"),
        ("? [1]\n: 2\n", r"unhashable|hashable"),
    ],
)
def test_a_file_that_is_none_is_named_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml cannot be read") as raised:
        read_config(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=message):
        read_config(path)


def test_other_encodings_and_sizes_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        read_yaml(path)
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ValueError, match="more than 8,000,000 bytes"):
        read_yaml(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_yaml(tmp_path / "nothing.yaml")
