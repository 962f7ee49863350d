"""``bench-apts info``: the environment card."""

from __future__ import annotations

from bench_apts.cli import terminal


def command() -> None:
    """Show machine, versions and commit, as every record has them."""
    from rich.table import Table

    from bench_apts import environment

    table = Table(show_header=False, box=None)
    for key, value in environment.card().items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {item}" for name, item in value.items()) or "none"
        elif isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        else:
            text = "unknown" if value is None else str(value)
        table.add_row(key.replace("_", " "), text)
    terminal.console().print(table)
