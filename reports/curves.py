"""Figures over the course of training: the validation metric, and a trust region's radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import seaborn as sns

from bench_apts.records import train_bytes
from bench_apts.stats.costs import hit_bracket

from . import units
from .canvas import Figure, finish, heading, panel, scale
from .style import INK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.axes import Axes

    from .cells import Cell, Group
    from .style import Look


class Against(NamedTuple):
    """One horizontal axis: the column, its name in file names and in words, its format."""

    column: str
    slug: str
    words: str
    form: Callable[[float], str]


AXES = (
    Against("train_s", "seconds", "training seconds", units.seconds),
    Against("samples", "samples", "samples, all ranks together", units.count),
    Against("wire_bytes", "bytes", "ideal wire bytes sent per rank", units.size),
)


def frame(groups: tuple[Group, ...]) -> pd.DataFrame:
    """Returns every evaluation of every seed, one row each: the data of all curves."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        for cell in group.cells:
            for record in cell.seeds:
                found = hit_bracket(record)
                for index, event in enumerate(record.evals):
                    rows.append({
                        "suite": group.suite.name, "ranks": group.ranks,
                        "optimizer": cell.label, "seed": record.trial.repetition,
                        "run_id": record.header.run_id, "evaluation": index, "step": event.step,
                        "samples": event.samples, "train_s": event.train_s,
                        "wire_bytes": train_bytes(event.comm), "forwards": event.forwards,
                        "backwards": event.backwards, "train_loss": event.train_loss,
                        "validation": event.validation.get(group.suite.target.metric),
                        "hit": found is not None and found[1] == index,
                        "radius": event.diagnostics.get("radius"),
                        "accepted": event.diagnostics.get("accepted"),
                    })
    return pd.DataFrame(rows, columns=[
        "suite", "ranks", "optimizer", "seed", "run_id", "evaluation", "step", "samples",
        "train_s", "wire_bytes", "forwards", "backwards", "train_loss", "validation", "hit",
        "radius", "accepted"])


def metric_curves(group: Group, name: str, data: pd.DataFrame, looks: Mapping[str, Look],
                  mark: str) -> list[Figure]:
    """Draws the validation metric of one group against time, samples and bytes.

    Args:
        group: Suite, N and optimizers.
        name: Prefix of the figures' names.
        data: The rows of ``frame`` that belong to the group.
        looks: Each optimizer's look.
        mark: ``" †"`` where the times measure the machine, else empty.
    """
    figures = []
    target = group.suite.target
    data = data.dropna(subset=["validation"])
    for against in AXES:
        if data.empty or (against.column == "wire_bytes" and not data["wire_bytes"].any()):
            continue
        shown, log = data, False
        if against.column == "wire_bytes":
            most = data.groupby("optimizer")["wire_bytes"].max()
            most = most[most > 0]
            log = most.max() > 8 * most.min()
            shown = data[data["wire_bytes"] > 0] if log else data
        drawing, axes = panel()
        axes.axhline(target.value, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
        low, high = _limits(group, data)
        for label, look in looks.items():
            mine = shown[shown["optimizer"] == label]
            _draw(axes, mine, against.column, "validation", look)
            _ends(axes, mine, against.column, look, (low, high))
        scale(axes, "y", (lambda value: units.percent(value, 0)) if target.metric == "accuracy"
              else units.digits, limits=(low, high))
        hidden = [label for label in _present(data, looks) if not data.loc[
            data["optimizer"] == label, "validation"].between(low, high).any()]
        low, high = shown[against.column].min(), shown[against.column].max()
        scale(axes, "x", against.form, log=log,
              limits=(low / 1.15, high * 1.15) if log else (0, (high or 1.0) * 1.03))
        axes.set_xlabel(against.words + (mark if against.column == "train_s" else ""))
        heading(axes, f"validation {target.metric}")
        figures.append(finish(
            drawing, f"{name}-{target.metric}-{against.slug}",
            f"{group.suite.name}, N = {group.ranks}: validation {target.metric} against "
            f"{against.words}",
            _first(group, against) + (f" Beyond the axis: {units.listing(hidden)}."
                                      if hidden else ""), _present(data, looks)))
    return figures


def trust_region(group: Group, name: str, data: pd.DataFrame,
                 looks: Mapping[str, Look]) -> list[Figure]:
    """Draws radius and share of accepted steps against samples, where there is a radius."""
    figures = []
    for column, words in (("radius", "trust-region radius"),
                          ("accepted", "share of steps accepted")):
        shown = data.dropna(subset=[column])
        if column == "radius":
            shown = shown[shown["radius"] > 0]
        shown = shown[shown["optimizer"].isin(
            data.dropna(subset=["radius"])["optimizer"].unique())]
        if shown.empty:
            continue
        drawing, axes = panel()
        present = _present(shown, looks)
        for label, look in present.items():
            _draw(axes, shown[shown["optimizer"] == label], "samples", column, look)
        scale(axes, "x", units.count, limits=(0, shown["samples"].max() * 1.03))
        if column == "radius":
            low, high = shown["radius"].min(), shown["radius"].max()
            scale(axes, "y", units.digits, log=True, limits=(low / 1.4, high * 1.4))
        else:
            scale(axes, "y", lambda value: units.percent(value, 0), limits=(-0.03, 1.03))
        axes.set_xlabel("samples, all ranks together")
        heading(axes, words)
        last = shown.sort_values("evaluation").groupby(["optimizer", "run_id"])[column].last()
        ends = [f"{label} {_level(column, last[label].median())}" for label in present]
        figures.append(finish(
            drawing, f"{name}-{column}",
            f"{group.suite.name}, N = {group.ranks}: {words} against samples",
            f"At the end (median over seeds): {units.listing(ends)}.", present))
    return figures


def _level(column: str, value: float) -> str:
    return units.digits(value) if column == "radius" else units.percent(value, 0)


def _draw(axes: Axes, data: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """Draws each seed thin, and the median over seeds for as long as all of them run.

    Beyond, the median of those that are left would say more about who is left.
    """
    if data.empty:
        return
    sns.lineplot(data=data, x=x, y=y, units="run_id", estimator=None, ax=axes, color=look.color,
                 linewidth=0.8, alpha=0.4, legend=False, sort=False)
    seeds = data["run_id"].nunique()
    middle = data.groupby("evaluation").agg(
        x=(x, "median"), y=(y, "median"), seeds=("run_id", "nunique"))
    middle = middle[middle["seeds"] == seeds]
    axes.plot(middle["x"], middle["y"], color=look.color, linestyle=look.dashes,
              marker=look.marker, markersize=4, markeredgewidth=0,
              markevery=max(1, len(middle) // 6), zorder=3)


def _ends(axes: Axes, data: pd.DataFrame, x: str, look: Look,
          limits: tuple[float, float]) -> None:
    """Rings each seed's first hit, and crosses the last evaluation of a seed without one.

    The cross of a seed whose metric lies beyond the axis stands at the axis' end.
    """
    for _, run in data.groupby("run_id"):
        hit = run[run["hit"]]
        if len(hit):
            axes.plot(hit[x], hit["validation"], marker=look.marker, markersize=8, color="none",
                      markeredgecolor=look.color, markeredgewidth=1.4, zorder=4)
        elif not run["hit"].any():
            last = run.iloc[[-1]]
            axes.plot(last[x], last["validation"].clip(*limits), marker="x", markersize=7,
                      color=look.color, markeredgewidth=1.8, zorder=4, clip_on=False)


def _limits(group: Group, data: pd.DataFrame) -> tuple[float, float]:
    """Returns limits that cut off the start, so that differences near the target can be seen."""
    target, values = group.suite.target, data["validation"]
    if target.direction == "max":
        top = max(values.max(), target.value)
        low = max(values.min(), 0.6 * target.value)
    else:
        top = min(values.max(), 3 * target.value)
        low = min(values.min(), target.value)
    room = 0.06 * ((top - low) or 1.0)
    return low - room, top + room


def _first(group: Group, against: Against) -> str:
    """Says which optimizer's median seed reaches the target first on this axis."""
    found: list[tuple[float, Cell]] = []
    for cell in group.cells:
        middle = cell.to_target(against.column)  # type: ignore[arg-type]
        if middle.seeds and middle.median != float("inf"):
            found.append((middle.median, cell))
    if not found:
        return "No optimizer's median seed reaches the target."
    value, cell = min(found, key=lambda pair: pair[0])
    return (f"First to the target (median seed): {cell.label}, after {against.form(value)}"
            f"{' samples' if against.column == 'samples' else ''}.")


def _present(data: pd.DataFrame, looks: Mapping[str, Look]) -> dict[str, Look]:
    there = set(data["optimizer"])
    return {label: look for label, look in looks.items() if label in there}
