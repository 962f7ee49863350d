"""``bench-apts list``: suites, optimizers and tasks, their origins and availability."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from bench_apts.cli import session

if TYPE_CHECKING:
    from bench_apts.core.spec import Suite
    from bench_apts.plugins.backend import Backend

Row = dict[str, Any]
"""What is known of one, by the keys of ``--json`` (docs/formats.md)."""


class Listed(StrEnum):
    """What to list."""

    suites = "suites"
    optimizers = "optimizers"
    tasks = "tasks"


def command(
    what: Annotated[Listed | None, Argument(help="Only these.")] = None,
    json: Annotated[bool, Option(
        "--json", help="Print all that is declared, as JSON.")] = False,
) -> None:
    """List suites, optimizers and tasks, and which are unavailable."""
    found = {kind: rows() for kind, rows in (
        ("suites", _suites), ("optimizers", _optimizers), ("tasks", _tasks))
        if what is None or what.value == kind}
    if json:
        from json import dumps

        print(dumps(found, indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    console = session.table_console()
    for kind, rows in found.items():
        table = Table("name", "origin", "summary", title=kind, title_justify="left", box=None)
        for row in rows:
            summary = row["summary"] + (", tuning-free" if row.get("tuning_free") else "")
            table.add_row(row["name"], row["origin"], summary if row["available"]
                          else f"unavailable ({row['reason']})")
        console.print(table)


def _row(name: str, origin: str, reason: str | None, summary: str = "", **more: Any) -> Row:
    return {"name": name, "origin": origin, "summary": summary, "available": not reason,
            "reason": reason, **more}


def _suites() -> list[Row]:
    from bench_apts.core.errors import UserError
    from bench_apts.plugins import registry, suite_file

    rows = []
    for suite in registry.suite_names():
        origin = registry.suite_origin(suite)
        try:
            rows += [_suite(found.name, origin, found)
                     for found in suite_file.load_all(registry.suite_path(suite))]
        except UserError as error:  # a broken file must not hide the others
            rows.append(_suite(suite, origin, None, str(error)))
    return rows + [_suite(entry, origin, None, reason)
                   for entry, origin, reason in registry.unavailable_suites()]


def _suite(name: str, origin: str, suite: Suite | None, reason: str | None = None) -> Row:
    if suite is None:
        return _row(name, origin, reason, "", **dict.fromkeys((
            "data", "model", "task", "batch_size", "budget_samples", "metric", "direction",
            "target")))
    target = suite.target
    return _row(name, origin, reason, suite.summary, data=suite.data.name, model=suite.model.name,
                task=suite.task.name or suite.task.source if suite.task else "classification",
                batch_size=suite.batch_size, budget_samples=suite.budget.samples,
                metric=target.metric, direction=target.direction, target=target.value)


def _optimizers() -> list[Row]:
    from bench_apts.core.errors import UserError
    from bench_apts.plugins import registry

    rows = []
    for name in registry.optimizer_names():
        try:
            plugin = registry.optimizer(name)
        except UserError as error:  # a broken plug-in must not hide the others
            rows.append(_optimizer(name, registry.optimizer_origin(name), None, str(error)))
            continue
        rows.append(_optimizer(name, plugin.origin, plugin.backend, plugin.backend.unavailable()))
    return rows


def _optimizer(name: str, origin: str, backend: Backend | None, reason: str | None) -> Row:
    from bench_apts.plugins.selection import GROUPS

    if backend is None:
        return _row(name, origin, reason, "", **dict.fromkeys((
            "tuning_free", "family", "groups", "requires", "install", "min_ranks", "follows",
            "presets", "traffic", "developed_on")))
    return _row(name, origin, reason, backend.summary, tuning_free=backend.tuning_free,
                family=backend.family,
                groups=[group for group, belongs in GROUPS.items() if belongs(backend)],
                requires=backend.requires, install=backend.install, min_ranks=backend.min_ranks,
                follows=backend.follows, presets=[*backend.presets],
                traffic=backend.traffic and f"{backend.traffic.words} a {backend.traffic.unit}",
                developed_on=backend.developed_on)


def _tasks() -> list[Row]:
    from bench_apts.core.errors import UserError
    from bench_apts.tasks import named_tasks

    rows = []
    for name in named_tasks.names():
        try:
            text = (named_tasks.load(name).value.__doc__ or "").strip().partition("\n")[0]
            rows.append(_row(name, named_tasks.origin(name), None, text))
        except UserError as error:
            rows.append(_row(name, named_tasks.origin(name), str(error)))
    return rows
