"""``bench-apts info``: the environment card."""

from __future__ import annotations

from bench_apts.cli import session

_UNLIMITED = ("cpu_quota", "memory_limit_bytes", "address_space_bytes", "container")


def command() -> None:
    """Show machine, versions and commit, as every record has them."""
    from rich.table import Table

    from bench_apts.core import environment

    table = Table(show_header=False, box=None)
    card = environment.environment_card()
    unknown = card.pop("commit_unknown", "")
    for key, value in card.items():
        if key in ("commit", "dirty") and value is None:
            text = f"unknown: {unknown}"
        elif key in _UNLIMITED and value is None:
            text = "none"
        elif isinstance(value, dict):
            text = ", ".join(f"{name} {item}" for name, item in value.items()) or "none"
        elif isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        else:
            text = "unknown" if value is None else str(value)
        table.add_row(key.replace("_", " "), text)
    session.table_console().print(table)
