"""The card of an exported network as a page: what is in the files, what it costs, and what is promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def markdown(facts: Mapping[str, Any]) -> str:
    """Return the card that `export` wrote to `card.json` as Markdown."""
    environment = Environment(
        loader=PackageLoader("lightning_classprune.export"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    environment.globals["kb"] = lambda size: f"{size / 1000:,.1f}"
    verdict = facts["verdict"] or {}
    dense: Mapping[str, Any] = next((row for row in facts["ledger"] if row["verdict"] == "baseline"), {})
    return environment.get_template("card.md.j2").render(
        facts,
        classes=verdict.get("classes", {}),
        dense=dense.get("classes", {}),
        corruptions=verdict.get("corruptions", {}),
        dense_corruptions=dense.get("corruptions", {}),
    )
