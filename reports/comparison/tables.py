"""Tables of a comparison: every measure, the ratios behind a figure, where A and B come from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..provenance import cards
from ..table import Table, Value, name, number, words
from . import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..gather import Gathered
    from ..table import Plain
    from .compared import Row

_KINDS = {"worse": "number missed", "better": "number best"}


def measures(rows: Sequence[Row], where: str) -> Table:
    """Every measure of every optimizer of one suite at one N.

    Args:
        rows: In the order of A's study.
        where: Names suite and N.
    """
    lines: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for row in rows:
        texts = text.entries(row)
        if id(row.match) != previous:
            breaks.add(len(lines))
            previous = id(row.match)
        a, b, effect = _numbers(row)
        lines.append((
            _name(row), words(texts[0], measure=texts[0]), a, b, effect,
            words(texts[5], trials=texts[5]),
            words(texts[6], f"p = {units.digits(row.adjusted, 2)}" if row.adjusted < 1 else "",
                  verdict=row.verdict)))
    return Table(
        "compared", f"A and B, {where}",
        "B to A: ratio of costs and counts, or difference of shares and accuracies, with its 95 % "
        "interval. Worse or better: by the rule of docs/statistics.md, with all comparisons of "
        "the page as one family.",
        (("Optimizer", ""), ("Measure", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval"),
         ("Trials", ""), ("Verdict", "of B")), tuple(lines), frozenset(breaks))


def ratios(rows: Sequence[Row], where: str) -> Table:
    """What a figure of ratios is drawn from: rows of the same file, by one measure.

    Args:
        rows: Those of one measure.
        where: Names measure, suite and N.
    """
    return Table(
        "compared", f"Ratios, {where}", "B over A, with its 95 % interval.",
        (("Optimizer", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval")),
        tuple((_name(row), *_numbers(row)) for row in rows))


def provenance(first: Gathered, second: Gathered) -> Table:
    """Where the numbers of A and of B come from, what differs first."""
    sides = [{(card.title, key): value for card in cards(study) for key, value in card.items}
             for study in (first, second)]
    keys = sorted(dict.fromkeys((*sides[0], *sides[1])),
                  key=lambda key: sides[0].get(key) == sides[1].get(key))
    return Table(
        "compared-provenance", "Where A and B come from", "What differs stands first.",
        (("What", ""), ("A", ""), ("B", ""), ("A and B", "")),
        tuple(_origin(key, sides[0].get(key), sides[1].get(key)) for key in keys))


def _origin(key: tuple[str, str], one: str | None, two: str | None) -> tuple[Value, ...]:
    group, what = key
    same = one == two
    return (Value(what, kind="name", numbers={"group": group, "what": what}),
            Value(one or units.NONE, numbers={"a": one or ""}, kind="long"),
            Value(two or units.NONE, numbers={"b": two or ""}, kind="long"),
            words("equal" if same else "differ", equal=same))


def _name(row: Row) -> Value:
    return name(row.match.second.label, suite=row.match.first.suite.name,
                ranks=row.match.first.ranks)


def _numbers(row: Row) -> tuple[Value, Value, Value]:
    """A, B, and the effect with its interval."""
    measure, texts = row.measure, text.entries(row)
    low, high = ((measure.interval.low, measure.interval.high) if measure.interval
                 else (math.nan, math.nan))
    return (number(texts[1], a=_finite(measure.values[0])),
            number(texts[2], b=_finite(measure.values[1])),
            Value(texts[3], texts[4] if texts[4] != units.NONE else "",
                  {"effect": _finite(measure.effect), "low": _finite(low), "high": _finite(high)},
                  _KINDS.get(row.verdict, "number")))


def _finite(value: float) -> Plain:
    return value if math.isfinite(value) else None
