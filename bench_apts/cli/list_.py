"""``bench-apts list``: suites, optimizers and tasks, their origins and availability."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from typer import Argument

from bench_apts.cli import session


class Listed(StrEnum):
    """What to list."""

    suites = "suites"
    optimizers = "optimizers"
    tasks = "tasks"


def command(
    what: Annotated[Listed | None, Argument(help="Only these.")] = None,
) -> None:
    """List suites, optimizers and tasks, and which are unavailable."""
    from rich.table import Table

    console = session.table_console()
    for kind, rows in (("suites", _suites), ("optimizers", _optimizers), ("tasks", _tasks)):
        if what is None or what.value == kind:
            table = Table("name", "origin", "summary", title=kind, title_justify="left", box=None)
            for row in rows():
                table.add_row(*row)
            console.print(table)


def _suites() -> list[tuple[str, str, str]]:
    from bench_apts.core.errors import UserError
    from bench_apts.plugins import registry

    rows = []
    for suite in registry.suite_names():
        try:
            found = [(name, registry.suite(name).summary)
                     for name in (suite, *registry.variant_names(suite))]
        except UserError as error:  # a broken file must not hide the others
            found = [(suite, f"unavailable ({error})")]
        rows += [(name, registry.suite_origin(name), summary) for name, summary in found]
    return rows + [(entry, origin, f"unavailable ({reason})")
                   for entry, origin, reason in registry.unavailable_suites()]


def _optimizers() -> list[tuple[str, str, str]]:
    from bench_apts.core.errors import UserError
    from bench_apts.plugins import registry

    rows = []
    for name in registry.optimizer_names():
        try:
            plugin = registry.optimizer(name)
        except UserError as error:  # a broken plug-in must not hide the others
            rows.append((name, registry.optimizer_origin(name), f"unavailable ({error})"))
            continue
        reason = plugin.backend.unavailable()
        summary = plugin.backend.summary + (", tuning-free" if plugin.backend.tuning_free else "")
        rows.append((name, plugin.origin, f"unavailable ({reason})" if reason else summary))
    return rows


def _tasks() -> list[tuple[str, str, str]]:
    from bench_apts.core.errors import UserError
    from bench_apts.tasks import named_tasks

    rows = []
    for name in named_tasks.names():
        try:
            summary = (named_tasks.load(name).value.__doc__ or "").strip().partition("\n")[0]
        except UserError as error:
            summary = f"unavailable ({error})"
        rows.append((name, named_tasks.origin(name), summary))
    return rows
