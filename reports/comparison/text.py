"""A comparison in words: the table's entries, Markdown, plain numbers and the verdict."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.markdown import escaped, line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..table import Plain
    from .cells import Measure
    from .compared import Compared, Match, Row

HEAD = ("measure", "A", "B", "B to A", "95 % interval", "trials", "verdict")

_TOLD = 3  # rows that the verdict names


def entries(row: Row) -> tuple[str, ...]:
    """Returns the row's texts in the order of ``HEAD``."""
    m = row.measure
    interval = (f"{_effect(m, m.interval.low)} to {_effect(m, m.interval.high)}"
                if m.interval and row.verdict not in ("equal", "neither hit") else units.NONE)
    texts = (m.name, *m.texts, _effect(m, m.effect), interval, m.basis,
             row.verdict)
    return tuple(text.replace(units.THIN, " ") for text in texts)


def blocks(compared: Compared) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each pair of cells, with a title."""
    for _, group in itertools.groupby(compared.rows, lambda row: id(row.match)):
        rows = list(group)
        yield rows[0].match.where, rows


def markdown(compared: Compared) -> str:
    """The whole comparison as Markdown, verdict first."""
    a, b = map(escaped, compared.names)
    lines = [f"**{escaped(verdict(compared))}**", "", f"A: {a}, B: {b}"]
    for title, rows in blocks(compared):
        lines += ["", f"{escaped(title)}:", "", line(HEAD),
                  line(("---", "---:", "---:", "---:", "---:", "---", "---"))]
        lines += [line(tuple(map(escaped, entries(row)))) for row in rows]
    if compared.notes:
        lines += ["", *(f"* {escaped(note)}" for note in compared.notes)]
    return "\n".join(lines)


def numbers(compared: Compared) -> list[dict[str, Plain]]:
    """The rows as plain numbers in base units; what is infinite or unknown is left empty."""
    return [{
        "suite": row.match.first.suite.name, "ranks": row.match.first.ranks,
        "optimizer_a": row.match.first.label, "optimizer_b": row.match.second.label,
        "measure": row.measure.name, "kind": row.measure.kind,
        "a": _finite(row.measure.values[0]), "b": _finite(row.measure.values[1]),
        "effect": _finite(row.measure.effect),
        "low": _finite(row.measure.interval.low) if row.measure.interval else None,
        "high": _finite(row.measure.interval.high) if row.measure.interval else None,
        "p": row.measure.p, "p_holm": row.adjusted, "noise": _finite(row.measure.noise),
        "trials": row.measure.basis, "verdict": row.verdict,
    } for row in compared.rows]


def verdict(compared: Compared) -> str:
    """One line: what is worse in B, else what is better, else that nothing is."""
    if compared.worse:
        text = f"B is worse: {_told(compared.worse)}"
        return f"{text}; it is better elsewhere: {_told(compared.better)}" if (
            compared.better) else text
    if compared.better:
        return f"B is better: {_told(compared.better)}; nothing is worse beyond noise"
    if compared.blind and any(_apart(row) for row in compared.rows):
        return "too few trials to tell: there are differences, none of which they can prove"
    return "no difference beyond noise"


def _apart(row: Row) -> bool:
    """Whether a ratio's interval alone excludes 1, as that of a real difference would."""
    interval = row.measure.interval
    return (row.verdict == "cannot be told" and row.measure.kind == "ratio"
            and interval is not None and not interval.low <= 1 <= interval.high)


def _told(rows: Sequence[Row]) -> str:
    # What is counted exactly comes first: it is certain, and says most about the cause.
    ordered = sorted(rows, key=lambda row: row.measure.kind != "exact")
    parts = []
    for _, group in itertools.groupby(ordered[:_TOLD], lambda row: id(row.match)):
        told = list(group)
        parts.append(f"{_subject(told[0].match)} "
                     + units.listing([_said(row.measure) for row in told]))
    more = len(rows) - _TOLD
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def _subject(match: Match) -> str:
    return f"{match.second.label} on {match.first.suite.name} at N = {match.first.ranks}"


def _said(measure: Measure) -> str:
    if measure.kind in ("ratio", "exact") and math.isfinite(measure.effect) and measure.effect:
        return measure.verb.format(f"{_ratio(measure.effect)} times")
    a, b = (text.replace(units.THIN, " ") for text in measure.texts)
    if measure.kind in ("ratio", "exact"):
        return f"has {measure.name} of {b} instead of {a}"
    return measure.verb.format(b) + f" instead of {a}"


def _effect(measure: Measure, value: float) -> str:
    if math.isnan(value):
        return units.NONE
    if measure.kind in ("ratio", "exact"):
        return _ratio(value)
    if measure.kind == "share" or measure.points:
        return f"{100 * value:+.2f} points"
    return f"{value:+.3g}"


def _ratio(value: float) -> str:
    """Three digits, or as many as it takes not to look like 1."""
    if value == 1 or not math.isfinite(value) or abs(value - 1) >= 0.005:
        return units.digits(value)
    return units.digits(value, 2 - math.floor(math.log10(abs(value - 1))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
