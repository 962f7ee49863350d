"""Fills the page's template, and writes the policy that lets nothing but it style and script."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from bench_apts.core import units

from ..drawing.style import LOOKS
from ..parts import Boxes, Listing, Pictures, Prose
from ..table import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..drawing.canvas import Figure
    from ..table import Table

def page(*, symbols: dict[str, str], template: str = "report.html.j2", **context: Any) -> str:
    """Returns the HTML of a report.

    Args:
        symbols: Each optimizer's legend mark, an SVG symbol.
        template: Its file in ``templates/``.
        **context: What the template names.
    """
    folder = resources.files("bench_apts.reports") / "templates"
    style = (folder / "report.css").read_text(encoding="utf-8") + _palette()
    script = (folder / "sort.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=_joined)
    environment.globals.update(units=units, svg=Markup, most_rows=MOST_ROWS, shared=_shared)
    environment.tests.update(
        {kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
         for kind in (Boxes, Listing, Pictures, Prose)})
    policy = (f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
              "img-src data:; base-uri 'none'; form-action 'none'")
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=Markup(policy),
        symbols=Markup("".join(symbols.values())), **context) + "\n"


def _joined(value: Any) -> Any:
    """Keeps a percent sign on the line of its number; what is markup already stays as it is."""
    return (re.sub(r"(?<=\d) %", f"{units.THIN}%", value)
            if isinstance(value, str) and not isinstance(value, Markup) else value)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shared(figures: Sequence[Figure]) -> Table | None:
    """Returns the table that several figures side by side were all drawn from."""
    first = figures[0].data
    return first if len(figures) > 1 and all(f.data is first for f in figures) else None


def _palette() -> str:
    """Returns the CSS that recolours the optimizers' colours in dark mode."""
    light = "".join(f"--{look.slot}:{look.color};" for look in LOOKS)
    dark = "".join(f"--{look.slot}:{look.dark};" for look in LOOKS)
    names = ["ink", "muted", "grid", *(look.slot for look in LOOKS)]
    rules = "".join(f".f-{n}{{fill:var(--{n})}}.s-{n}{{stroke:var(--{n})}}" for n in names)
    return (f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark)"
            f"{{:root{{{dark}}}}}\n{rules}\n")
