"""A matplotlib figure as SVG inside an HTML page, in the page's own colours, so that it follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure


def inline_svg(figure: Figure, prefix: str, colors: Mapping[str, str]) -> Markup:
    """Return the `<svg>` element of `figure`, without fixed size, background or metadata; the same for the same figure.

    Args:
        figure: Drawn with matplotlib; text becomes paths, so no font is needed.
        prefix: Put before every id: ids must be unique in a page that holds several figures.
        colors: Hex colour (`#rrggbb`, lower case) -> what stands for it, such as `var(--ink)`.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\1{prefix}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colors.get(found[0], found[0]), text)
    return Markup(re.sub(r"\n\s*", "\n", text))
