"""What happens in the course of training: the data of all curves, and how they are drawn."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench_apts.core import units
from bench_apts.stats.bands import band, kept, stride
from bench_apts.stats.costs import costs_along, hit_bracket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes

    from bench_apts.core.currency import Currency

    from ..cells import Group
    from ..drawing.style import Look


class Against(NamedTuple):
    """One horizontal axis: the column, its name in file names and in words, its format.

    Attributes:
        column: Of ``frame``.
        slug: In file names.
        words: Below the axis.
        form: Formats its numbers.
        currency: The cost that it shows.
        noun: What stands behind a number in a sentence, with a space in front.
    """

    column: str
    slug: str
    words: str
    form: Callable[[float], str]
    currency: Currency
    noun: str = ""


AXES = (
    Against("train_s", "seconds", "training time", units.seconds, "train_s"),
    Against("samples", "samples", "samples, all ranks together", units.count, "samples",
            " samples"),
    Against("backwards", "gradients", "gradient evaluations of the busiest rank", units.count,
            "gradient_evaluations", " gradient evaluations"),
    Against("wire_bytes", "bytes", "ideal wire bytes sent per rank", units.size, "wire_bytes",
            " sent per rank"),
)


SINGLE = 10
"""Seeds of an optimizer that are drawn one by one; the band and the median are of all."""


@dataclass(frozen=True)
class Course:
    """One optimizer's seeds over the evaluations of a thinned curve.

    Attributes:
        label: The optimizer.
        runs: The evaluations of the first ``SINGLE`` seeds, rows of ``frame``.
        shared: By column, values at the evaluations that all seeds have, shape
            ``(evaluations, seeds)``; beyond, a median would say more about who is left.
    """

    label: str
    runs: tuple[pd.DataFrame, ...]
    shared: dict[str, np.ndarray[Any, np.dtype[np.float64]]]


def frame(groups: tuple[Group, ...]) -> pd.DataFrame:
    """Returns every evaluation of every seed, one row each: the data of all curves."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        for cell in group.cells:
            for record in cell.seeds:
                found, sent = hit_bracket(record), costs_along(record, "wire_bytes")
                for index, event in enumerate(record.evals):
                    rows.append({
                        "suite": group.suite.name, "ranks": group.ranks,
                        "optimizer": cell.label, "seed": record.trial.repetition,
                        "run_id": record.header.run_id, "evaluation": index, "step": event.step,
                        "samples": event.samples, "train_s": event.train_s,
                        "wire_bytes": sent[index], "forwards": event.forwards,
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


def courses(data: pd.DataFrame, labels: Iterable[str], metric: str,
            columns: Sequence[str]) -> tuple[list[Course], int]:
    """Thins the curves of one suite and N, and finds what all seeds of an optimizer have.

    Args:
        data: Rows of ``frame``.
        labels: Optimizers, in order.
        metric: Column that must be known; evaluations without it are left out.
        columns: What ``shared`` is to hold.

    Returns:
        A course of each optimizer with data, and the k of every k-th evaluation that was kept,
        besides first hits and ends; 1 where curves are whole.
    """
    data = data.dropna(subset=[metric])
    # Places in arrays: a data frame for each seed would take a second of a large study.
    seeds = pd.factorize(data["run_id"])[0]
    runs = np.split(np.argsort(seeds, kind="stable"), np.flatnonzero(np.diff(np.sort(seeds))) + 1)
    step = stride(max(map(len, runs)))
    optimizers, evaluations = data["optimizer"].to_numpy(), data["evaluation"].to_numpy(int)
    hits, values = data["hit"].to_numpy(bool), {c: data[c].to_numpy(float) for c in columns}
    found = []
    for label in labels:
        mine = [run for run in runs if len(run) and optimizers[run[0]] == label]
        if not mine:
            continue
        common = functools.reduce(np.intersect1d, [evaluations[run] for run in mine])
        grid = common[(common % step == 0) | (common == common[-1:])]
        aligned = [run[np.searchsorted(evaluations[run], grid)] for run in mine]
        found.append(Course(
            label,
            tuple(data.iloc[run[kept(evaluations[run], hits[run], step)]]
                  for run in mine[:SINGLE]),
            {column: np.column_stack([values[column][rows] for rows in aligned])
             for column in columns}))
    return found, step


def draw(axes: Axes, course: Course, x: str, y: str, look: Look, *,
         positive: bool = False) -> None:
    """Draws each seed thin, their band, and their median.

    Args:
        axes: Where.
        course: One optimizer.
        x: Column across; the band stands at its median over seeds.
        y: Column upwards.
        look: The optimizer's.
        positive: Leave out evaluations at which ``x`` is zero, as a logarithmic axis must.
    """
    # One path with gaps: a path for each seed would make the page several times as heavy.
    gap = np.full((1, 2), np.nan)
    lines = [part for run in course.runs
             for part in (np.column_stack([run[x].to_numpy(float), run[y].to_numpy(float)]), gap)]
    points = np.concatenate(lines)
    points = points[~(points[:, 0] <= 0)] if positive else points
    axes.plot(points[:, 0], points[:, 1], color=look.color, linewidth=0.6, alpha=0.3)
    across, values = np.median(course.shared[x], axis=1), band(course.shared[y])
    shown = across > 0 if positive else np.full(len(across), True)
    if values.middle.size and course.shared[y].shape[1] > 1:
        axes.fill_between(across[shown], values.low[shown], values.high[shown],
                          color=look.color, alpha=0.1, linewidth=0)
    axes.plot(across[shown], values.middle[shown], color=look.color, linestyle=look.dashes,
              marker=look.marker, markersize=4, markeredgewidth=0,
              markevery=max(1, int(shown.sum()) // 6), zorder=3)


def ends(axes: Axes, course: Course, x: str, y: str, look: Look, limits: tuple[float, float], *,
         positive: bool = False) -> None:
    """Rings each seed's first hit, and crosses the last evaluation of a seed without one.

    The cross of a seed whose metric lies beyond the axis stands at the axis' end.
    """
    hits: list[tuple[float, float]] = []
    misses: list[tuple[float, float]] = []
    for run in course.runs:
        across, values = run[x].to_numpy(float), run[y].to_numpy(float)
        hit = run["hit"].to_numpy(bool)
        if hit.any():
            hits += zip(across[hit], values[hit], strict=True)
        else:
            misses.append((across[-1], min(max(values[-1], limits[0]), limits[1])))
    for points, marker, size, edge in ((hits, look.marker, 8, 1.3), (misses, "x", 7, 1.7)):
        shown = [point for point in points if point[0] > 0 or not positive]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker=marker, markersize=size, linestyle="",
                      markerfacecolor="none", markeredgecolor=look.color, markeredgewidth=edge,
                      zorder=4, clip_on=marker != "x")
