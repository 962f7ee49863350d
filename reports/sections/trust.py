"""Trust region: radius, acceptance, bounds, predicted against actual reduction, and passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..parts import Block, Listing, Part, Pictures, Prose
from ..table import Table, Value, name, number
from ..trust import figures, judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context
    from ..trust.judged import Tally

Line = tuple[int, str, "Tally"]
"""N, the optimizer's label, and its sums."""


def part(context: Context) -> Part | None:
    """Builds the section; None where no optimizer judges its steps."""
    lines: list[Line] = []
    pictures: list[Block] = []
    for group in context.groups:
        rows = judged.frame(group)
        if rows.empty:
            continue
        lines += [(group.ranks, str(label), judged.tally(mine))
                  for label, mine in rows.groupby("optimizer", sort=False)]
        drawn = figures.figures(context, group, rows)
        if drawn:
            pictures.append(Pictures(tuple(drawn), f"N = {group.ranks}"))
    if not lines:
        return None
    alarms = [Prose(line) for line in _alarms(lines)]
    return Part("trust", "Trust region", _finding(lines),
                (*alarms, *pictures, Listing(_table(context, lines), folded=False)), legend=True,
                drawn=tuple(dict.fromkeys(label for _, label, _ in lines)))


def _finding(lines: Sequence[Line]) -> str:
    """Says of each optimizer, at the largest N, how often it kept a step and where it ended."""
    most = max(ranks for ranks, _, _ in lines)
    parts = []
    for ranks, label, tally in lines:
        if ranks == most:
            count = f"{'' if tally.judged is None else f'{tally.judged:,} '}judged steps"
            parts.append(f"{label} kept {units.percent(tally.share, 0)} of its {count} and ended "
                         f"at a radius of {units.digits(tally.radius)} (median of "
                         f"{units.plural(tally.seeds, 'seed')})")
    return f"At N = {most}, {'; '.join(parts)}."


def _alarms(lines: Sequence[Line]) -> list[str]:
    found = []
    for ranks, label, tally in lines:
        if tally.at_bound is not None and tally.at_bound >= judged.STUCK:
            found.append(
                f"Stuck: at N = {ranks} the radius of {label} lay at one of its bounds after "
                f"{units.percent(tally.at_bound, 0)} of the judged steps. The bound decides "
                "there, not the method; set it wider, or look at the predictions.")
        if tally.idle:
            found.append(
                f"At a standstill: at N = {ranks} {label} kept no step over the last quarter of "
                f"the training in {tally.idle} of {units.plural(tally.seeds, 'seed')}.")
    return found


def _table(context: Context, lines: Sequence[Line]) -> Table:
    rows: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for ranks, label, tally in lines:
        if ranks != previous:
            breaks.add(len(rows))
            previous = ranks
        rows.append((
            name(label, suite=context.suite.name), number(str(ranks), ranks=ranks),
            number(units.digits(tally.radius), final_radius=_plain(tally.radius)),
            _count("judged", tally.judged, f"of {tally.steps:,}"),
            _count("accepted", tally.accepted, units.percent(tally.share)),
            _count("rejected", None if tally.judged is None or tally.accepted is None
                   else tally.judged - tally.accepted),
            number(units.NONE if math.isnan(tally.ratio) else units.digits(tally.ratio),
                   acceptance_ratio=_plain(tally.ratio)),
            Value("not recorded" if tally.at_bound is None else units.percent(tally.at_bound),
                  numbers={"share_at_bound": tally.at_bound}),
            _count("local_passes", tally.local),
            _count("other_passes", None if tally.local is None else tally.passes - tally.local),
            number(str(tally.seeds), seeds=tally.seeds, steps=tally.steps,
                   accepted_share=_plain(tally.share))))
    return Table(
        "trust-region", "Steps of the trust-region methods",
        "Sums over the seeds' whole trainings. Accepted: of the judged steps. Ratio: actual over "
        "predicted reduction of the last judged step before each evaluation, median; methods "
        "that predict none are judged by the change of the loss on fresh samples. At a bound: "
        "share of judged steps after which the radius lay at its smallest or largest value. "
        "Local passes: forward and backward passes of steps that a rank takes alone; global: all "
        "others, whose result all ranks share. Not recorded: run by an earlier bench-apts.",
        (("Optimizer", ""), ("N", "ranks"), ("Radius", "at the end"), ("Judged", "steps"),
         ("Accepted", "steps"), ("Rejected", "steps"), ("Ratio", "median"),
         ("At a bound", "of judged steps"), ("Local", "passes"), ("Global", "passes"),
         ("Seeds", "")),
        tuple(rows), frozenset(breaks))


def _count(column: str, value: int | None, detail: str = "") -> Value:
    """A count, or that the records were made before it was told."""
    if value is None:
        return Value("not recorded", detail if detail.endswith("%") else "", {column: None})
    return Value(units.count(value), detail, {column: value})


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
