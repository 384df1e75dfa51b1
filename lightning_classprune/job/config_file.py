"""Configuration files of a folder that somebody else may have made: read as plain text, nothing in them is resolved.

What a job writes is resolved already. So `${...}` in a file is text: it reads no environment and no other file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

#: Bytes; a job's own file has a few thousand, and a line for each class.
LARGEST = 8_000_000
# Numbers as OmegaConf reads them: YAML itself takes 1e-3 for text.
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values only, each written out: an alias can make gigabytes of a hundred bytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "it holds an alias", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


_Plain.yaml_implicit_resolvers = {
    key: [
        (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("float", "timestamp")
    ]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789.")
)


def read_config(path: Path) -> DictConfig:
    """The configuration in a file, with all text as it stands there.

    Raises:
        ValueError: It is no configuration; names the file.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: it holds no keys; was it cut short?")
    config = OmegaConf.create(literal(content))
    assert isinstance(config, DictConfig)
    return config


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain values.

    Raises:
        ValueError: It cannot be read; names the file.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)
    except (ValueError, yaml.YAMLError, TypeError, RecursionError, OSError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read ({told[:200]}); was it cut short?") from error


def literal(value: Any) -> Any:
    """Plain values that OmegaConf gives back as they are, whatever their text looks like."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda found: rf"{found[1] * 2}\${{", value)
    return value
