"""What tuning costs, when it pays, and what other ways of tuning would have cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currency import headline

from ..findings import ranking
from ..parts import Listing, Part, Pictures, Prose
from ..tuning.amortised import amortised
from ..tuning.best import best_of_k
from ..tuning.bill import remarks, suite_bill
from ..tuning.cost_figures import bill as tuning_and_training
from ..tuning.cost_figures import expected_cost
from ..tuning.pays import crossings, first_to_pay, sentence
from ..tuning.pool import View, unlike
from ..tuning.replay_figures import replays
from ..tuning.restarts import restarts
from ..tuning.scene import Scene, reference
from ..tuning.width import width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.currency import Currency

    from ..cells import Group
    from ..context import Context
    from ..parts import Block


def part(context: Context) -> Part | None:
    """Builds the section from the suite's bill; None while nothing has been run."""
    device = context.gathered.device
    view = View(headline(device), 1.0, device)
    found = suite_bill(context.groups, view, context.replays)
    if not found.pools:
        return None
    scenes = [Scene(context, view, group.ranks, tuple(
        pool for pool in found.pools if pool.cell.ranks == group.ranks))
        for group in context.groups]
    blocks: list[Block] = []
    for group, scene in zip(context.groups, scenes, strict=True):
        figures = [expected_cost(group, scene.stem, context.looks, view, scene.basis),
                   tuning_and_training(group, scene.stem, context.looks, view,
                                       scene.basis),
                   best_of_k(scene), amortised(scene), width(scene), restarts(scene),
                   *replays(scene, [each for each in found.policies
                                    if each.ranks == scene.ranks])]
        drawn = tuple(figure for figure in figures if figure)
        if drawn:
            blocks.append(Pictures(drawn, context.size(group.ranks),
                                   context.noise(group.ranks), wide=True))
    blocks += [Listing(table) for table in found.tables]
    notes = [*found.notes, *remarks(context.gathered.file.study, context.groups, found.pools)]
    blocks += [Prose(f"{note[0].upper()}{note[1:]}.") for note in notes]
    return Part("tuning", "Tuning cost", _finding(context.groups, scenes, view.currency),
                tuple(blocks), legend=True)


def _finding(groups: Sequence[Group], scenes: Sequence[Scene], currency: Currency) -> str:
    """Says for each N from how many trainings on the first tuned optimizer pays, if told."""
    if not any(pool.cell.tune for scene in scenes for pool in scene.pools):
        found = [f"{ranked[0].label} at N = {group.ranks}" for group in groups
                 if (ranked := ranking([cell for cell in group.cells if cell.draws], currency))]
        return ("Nothing was tuned in this study; lowest expected cost: "
                f"{units.listing(found)}." if found else
                "Nothing was tuned in this study, and no trial reached the target.")
    said: dict[str, list[str]] = {}
    for scene in scenes:
        if scene.pools:
            said.setdefault(_pays(scene), []).append(f"N = {scene.ranks}")
    text = "; ".join(f"at {units.listing(places)} {what}" for what, places in said.items())
    return f"{text[0].upper()}{text[1:]}."


def _pays(scene: Scene) -> str:
    if apart := unlike(scene.pools, scene.view):
        return f"costs are not judged, as trials differ in {apart}"
    against = reference(scene.pools)
    found = crossings(scene.searches, [against] if against else [])
    if against is None:
        tuned = any(pool.cell.tune and pool.ert.hits for pool in scene.pools)
        return ("only what was tuned reached the target" if tuned
                else "no trial reached the target")
    first = first_to_pay(found)
    if first is None:
        return (f"when tuning pays against {against.cell.label} is not known"
                if any(pool.cell.tune and pool.ert.hits for pool in scene.pools)
                else f"only {against.cell.label}, without tuning, reached the target")
    if first.found.never:
        return f"tuning never pays against {against.cell.label}"
    return f"{sentence(first.tuned.cell.label, first.found)}, against {against.cell.label}"
