"""Replayed tuning policies: figures of what they cost and of how often they hit, for one N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..drawing.style import INK, Look
from .replay import table
from .scene import SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .replay import Played
    from .scene import Scene

_ALL = Look("", INK, "", "D", (0, (1, 1)))
"""How a policy that tries one configuration of each optimizer looks."""


def replays(scene: Scene, policies: Sequence[Played]) -> list[Figure]:
    """Draws the mean cost of each policy, and its hits and false prunings.

    Args:
        scene: One N.
        policies: Those that were replayed there.
    """
    if not policies:
        return []
    numbers = table(policies, scene.view)
    looks = {played.cell.label: scene.context.looks[played.cell.label]
             for played in policies if played.cell}
    if any(played.cell is None for played in policies):
        looks["all optimizers"] = _ALL
    drawn: list[Figure] = []
    if any(math.isfinite(played.found.cost) for played in policies):
        drawing, axes = _rows(policies)
        _costs(axes, scene, policies)
        drawn.append(finish(
            drawing, scene.slug("policies"), scene.title("what tuning policies cost"),
            f"{_cheapest(scene, policies)} Replayed over 500 orders of the recorded trials, each "
            f"until its first hit; the mean over the orders that hit.{scene.followers}", looks,
            basis=scene.basis, data=numbers))
    drawing, axes = _rows(policies)
    _rates(axes, scene, policies)
    drawn.append(finish(
        drawing, scene.slug("policies-hits"), scene.title("how often tuning policies hit"),
        f"{_falsely(policies)} Filled: orders that hit. Open: of the trials that were pruned, "
        "those that would have hit.", looks, basis=scene.basis, data=numbers))
    return drawn


def _rows(policies: Sequence[Played]) -> tuple[Drawing, Axes]:
    names = list(dict.fromkeys(played.title for played in policies))
    drawing, axes = panel(SIZE[0], 0.36 * len(names) + 0.85, left=1.75, top=0.34, right=0.3)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return drawing, axes


def _places(scene: Scene, policies: Sequence[Played]) -> list[tuple[Played, float, Look]]:
    """Returns each policy with its height and look; optimizers stand above one another."""
    names = list(dict.fromkeys(played.title for played in policies))
    labels = list(dict.fromkeys(played.cell.label for played in policies if played.cell))
    step = min(0.16, 0.7 / len(labels)) if labels else 0.0
    found = []
    for played in policies:
        height, look = float(names.index(played.title)), _ALL
        if played.cell:
            look = scene.context.looks[played.cell.label]
            here = [p.cell.label for p in policies if p.policy == played.policy and p.cell]
            height += step * (here.index(played.cell.label) - (len(here) - 1) / 2)
        found.append((played, height, look))
    return found


def _costs(axes: Axes, scene: Scene, policies: Sequence[Played]) -> None:
    values = []
    for played, height, look in _places(scene, policies):
        if not math.isfinite(played.found.cost):
            continue
        values.append(played.found.cost)
        axes.plot([played.found.cost], [height], marker=look.marker, color=look.color,
                  markersize=6.5, markeredgewidth=0)
    scale(axes, "x", scene.axis, log=True, limits=(min(values) / 1.3, max(values) * 1.3), ticks=4)
    axes.grid(False, axis="y")
    heading(axes, f"mean cost until the first hit{scene.unit}")


def _rates(axes: Axes, scene: Scene, policies: Sequence[Played]) -> None:
    for played, height, look in _places(scene, policies):
        found = played.found
        axes.plot([found.hit_rate], [height], marker=look.marker, color=look.color,
                  markersize=6.5, markeredgewidth=0, clip_on=False)
        if math.isfinite(found.falsely_pruned):
            axes.plot([found.falsely_pruned], [height], marker=look.marker, color="none",
                      markersize=6.5, markeredgecolor=look.color, markeredgewidth=1.2,
                      clip_on=False)
    scale(axes, "x", lambda share: units.percent(share, 0), limits=(0, 1))
    axes.grid(False, axis="y")
    heading(axes, "orders that hit (filled), false prunings (open)")


def _cheapest(scene: Scene, policies: Sequence[Played]) -> str:
    best = min(policies, key=lambda played: played.found.cost)
    text = f"Cheapest: {best.title}{_of(best)}, {scene.view.show(best.found.cost)}"
    plain = next((played for played in policies if played.cell is best.cell
                  and played.policy == "sequential"), None)
    if plain and plain is not best and math.isfinite(plain.found.cost):
        text += f"; one trial after another, {scene.view.show(plain.found.cost)}"
    return f"{text}."


def _falsely(policies: Sequence[Played]) -> str:
    pruning = [played for played in policies if played.found.pruned]
    lost = min(policies, key=lambda played: played.found.hit_rate)
    text = (f"Fewest orders hit by {lost.title}{_of(lost)}: {units.percent(lost.found.hit_rate)}."
            if lost.found.hit_rate < 1 else "All policies hit in every order.")
    if pruning:
        worst = max(pruning, key=lambda played: played.found.falsely_pruned)
        text += (f" Most false prunings: {worst.title}{_of(worst)}, "
                 f"{units.percent(worst.found.falsely_pruned)} of what it prunes."
                 if worst.found.falsely_pruned else " None of what was pruned would have hit.")
    return text


def _of(played: Played) -> str:
    return f" of {played.cell.label}'s trials" if played.cell else ""
