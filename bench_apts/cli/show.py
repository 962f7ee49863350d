"""``bench-apts show``: all that an optimizer, a suite or a task declares."""

from __future__ import annotations

import inspect
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from typer import Argument

from bench_apts.cli import session
from bench_apts.core import units
from bench_apts.core.configuration import Choice, LogUniform, Uniform
from bench_apts.core.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from bench_apts.core.configuration import Distribution, Hyperparameter
    from bench_apts.plugins.backend import Backend
    from bench_apts.plugins.registry import Plugin


def command(
    name: Annotated[str, Argument(
        metavar="NAME|FILE", show_default=False,
        help="An optimizer, a suite (NAME@VARIANT too) or a task, or a .py or .toml file.")],
) -> None:
    """Show all that an optimizer, a suite or a task declares.

    A name of several kinds shows each.
    """
    from bench_apts.plugins import registry, suite_file
    from bench_apts.tasks import named_tasks

    console = session.table_console()
    kinds = {"optimizer": (registry.optimizer_names(), _optimizer),
             "suite": (registry.suite_names(), _suite), "task": (named_tasks.names(), _task)}
    if Path(name).suffix in (".py", ".toml"):
        shown = [kinds["optimizer" if name.endswith(".py") else "suite"][1]]
    else:
        base = suite_file.split(name)[0]
        shown = [show for kind, (names, show) in kinds.items()
                 if (base if kind == "suite" else name) in names]
    if not shown:
        raise unknown("optimizer, suite or task", name,
                      {each for names, _ in kinds.values() for each in names},
                      "See `bench-apts list`.")
    for index, show in enumerate(shown):
        if index:
            console.print()
        show(name, console)


def _print(console: Console, title: str, facts: Iterable[tuple[str, Any]]) -> None:
    """Print what there is of some facts, a line each."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for key, value in facts:
        text = value if isinstance(value, str) else ", ".join(map(str, value))
        if text:
            table.add_row(key, session.plain_text(text))
    console.print(title)
    console.print(table)


def _optimizer(name: str, console: Console) -> None:
    from bench_apts.plugins import registry, selection

    plugin = registry.optimizer(name)
    backend, source = plugin.backend, _source(plugin)
    traffic = backend.traffic
    _print(console, f"optimizer {backend.name} ({plugin.origin})", (
        ("summary", backend.summary),
        ("tuned", "no: its defaults are for everything" if backend.tuning_free else
         f"yes: {len(backend.ordered)} configurations in their order" if backend.ordered else
         ", ".join(backend.searched()) or "no: nothing has a search space"),
        ("groups", [group for group, belongs in selection.GROUPS.items() if belongs(backend)]),
        ("family", backend.family), ("follows", backend.follows),
        ("available", f"no: {reason}" if (reason := backend.unavailable()) else "yes"),
        ("requires", backend.requires),
        ("ranks", f"at least {backend.min_ranks}" if backend.min_ranks > 1 else ""),
        ("sends", f"{traffic.words} a {traffic.unit} (P: bytes of the parameters in float32, "
                  "f = (N − 1)/N)" if traffic else "no formula is known"),
        ("", traffic.note if traffic else ""), ("developed on", backend.developed_on),
        ("minibatch", "chosen by itself" if backend.batch_size else "the suite's"),
        ("source", source), ("code", plugin.reference),
        ("sha256", plugin.sha256)))
    if backend.hyperparameters:
        _print_knobs(console, backend)
    for preset, values in backend.presets.items():
        console.print(f"preset {preset}: "
                      + ", ".join(f"{key}={value}" for key, value in values.items()))
    for number, values in enumerate(backend.ordered, 1):
        console.print(f"configuration {number}: "
                      + ", ".join(f"{key}={value}" for key, value in values.items()))
    if text := _documentation(source):
        console.print(f"\n{text}", soft_wrap=True)


def _source(plugin: Plugin) -> str:
    """Return the file that declares an optimizer."""
    place = plugin.reference.partition(":")[0]
    return place if place.endswith(".py") else str(sys.modules[place].__file__)


def _documentation(source: str) -> str:
    """Return what a file says of itself: papers, and where its numbers are from."""
    import ast

    try:
        return ast.get_docstring(ast.parse(Path(source).read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def _print_knobs(console: Console, backend: Backend) -> None:
    from rich.table import Table

    wide = any(knob.wide for knob in backend.hyperparameters.values())
    table = Table("knob", "default", "meaning", "allowed", "search",
                  *(["wide search"] if wide else []), box=None)
    for name, knob in backend.hyperparameters.items():
        table.add_row(name, str(knob.default), knob.meaning, _allowed(knob), _drawn(knob.search),
                      *([_drawn(knob.wide or knob.search)] if wide else []))
    console.print()
    console.print(table)
    console.print()


def _allowed(knob: Hyperparameter) -> str:
    """Say which values a selector may give a hyperparameter."""
    if knob.allowed:
        return ", ".join(map(str, knob.allowed))
    limits = ((f"from {knob.least:g}", knob.least), (f"above {knob.above:g}", knob.above),
              (f"below {knob.below:g}", knob.below))
    given = " and ".join(words for words, limit in limits if math.isfinite(limit))
    return f"{type(knob.default).__name__} {given}".strip()


def _drawn(search: Distribution | None) -> str:
    match search:
        case LogUniform(low, high):
            return f"{low:g} to {high:g}, logarithmic"
        case Uniform(low, high):
            return f"{low:g} to {high:g}"
        case Choice(options):
            return ", ".join(map(str, options))
    return "–"


def _suite(name: str, console: Console) -> None:
    from bench_apts.plugins import registry, suite_file

    suite, path = registry.suite(name), registry.suite_path(name)
    target, variant = suite.target, suite_file.split(name)[1]
    origin, task = target.provenance, suite.task
    _print(console, f"suite {suite.name} ({registry.suite_origin(name)})", (
        ("summary", suite.summary), ("version", str(suite.version)),
        ("data", _settings(suite.data)), ("model", _settings(suite.model)),
        ("task", _settings(task) if task else "name = classification"),
        ("minibatch", f"{suite.batch_size} samples, {suite.scaling} scaling"),
        ("budget", f"{suite.budget.samples:,} samples or {suite.budget.seconds:g} s"),
        ("evaluation", f"each {suite.evaluation.every_samples:,} samples; "
                       f"{suite.evaluation.consecutive} in a row make a hit"),
        ("target", f"{units.format_goal(target)} (version {target.version}); levels "
                   + ", ".join(f"{level:g}" for level in target.every_level)),
        ("its origin", origin.note or f"{origin.optimizer}, {origin.trials} trials, "
                                      f"{origin.seeds} seeds"),
        ("precision", suite.precision), ("compile", "yes" if suite.compile else ""),
        ("file", str(path)),
        ("variants", [] if variant else [f"{suite.name}@{each}"
                                         for each in suite_file.variant_names(path)])))


def _settings(table: msgspec.Struct) -> str:
    """Return what a table of a suite sets, leaving out what is empty."""
    return ", ".join(f"{key} = {value}" for key, value in msgspec.to_builtins(table).items()
                     if value not in ("", {}, None))


def _task(name: str, console: Console) -> None:
    from bench_apts.tasks import named_tasks

    kind = named_tasks.load(name).value
    try:
        metrics = [f"{each} ({metric.direction}{', ' + metric.unit if metric.unit else ''})"
                   for each, metric in kind().metrics.items()]
    except (TypeError, UserError):  # it needs arguments
        metrics = []
    _print(console, f"task {name} ({named_tasks.origin(name)})", (
        ("metrics", metrics), ("arguments", str(inspect.signature(kind))),
        ("source", inspect.getfile(kind))))
    console.print(f"\n{inspect.getdoc(kind) or ''}", soft_wrap=True)
