"""Where a run comes from: its command, its machine and versions, as the report's page shows them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def command_line(environment: Mapping[str, Any] | None) -> str:
    """The command that began the run, to be pasted; empty where it is not known."""
    if not environment or not environment["command"]:
        return ""
    program, *arguments = environment["command"]
    name = PurePath(program).name
    start = ["python", "-m", "lightning_classprune"] if name == "__main__.py" else [name]
    return shlex.join([*start, *arguments])


def facts(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """When, where and with what the run began, as far as it is known."""
    if not environment:
        return []
    git = environment["git"]
    machine = environment["accelerators"] or [f"CPU, {environment['cores']} cores"]
    pairs = {
        "started": environment["started"],
        "folder": environment["folder"],
        "commit": f"{git['commit'][:12]}{', with changes' if git['dirty'] else ''}" if git else None,
        "machine": ", ".join(machine),
        "platform": environment["platform"],
        "threads": environment["threads"],
        "python": environment["python"],
        **environment["versions"],
    }
    return [(key, str(value)) for key, value in pairs.items() if value is not None]
