"""A comparison in words: the table's entries, Markdown, plain numbers and the verdict.

Tables of a comparison: every measure, the ratios behind a figure, where A and B come from.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.units import escape_markdown, markdown_row
from bench_apts.reports.data_origin import provenance_cards
from bench_apts.reports.table import Table, Value, name, number, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.reports.compared_measures import Measure
    from bench_apts.reports.compared_studies import CellPair, ComparedRow, StudyComparison
    from bench_apts.reports.gather import Gathered
    from bench_apts.reports.table import Plain

HEAD = ("measure", "A", "B", "B to A", "95 % interval", "trials", "verdict")

_VERDICT_WORDS = 3  # rows that the verdict names


def row_entries(row: ComparedRow) -> tuple[str, ...]:
    """Returns the row's texts in the order of ``HEAD``."""
    m = row.measure
    interval = (f"{_effect(m, m.interval.low)} to {_effect(m, m.interval.high)}"
                if m.interval and row.verdict not in ("equal", "neither hit") else units.NONE)
    texts = (m.name, *m.texts, _effect(m, m.effect), interval, m.basis,
             row.verdict)
    return tuple(text.replace(units.THIN, " ") for text in texts)


def row_blocks(compared: StudyComparison) -> Iterator[tuple[str, list[ComparedRow]]]:
    """The rows of each pair of cells, with a title."""
    for _, group in itertools.groupby(compared.rows, lambda row: id(row.match)):
        rows = list(group)
        yield rows[0].match.where, rows


def comparison_markdown(compared: StudyComparison) -> str:
    """The whole comparison as Markdown, verdict first."""
    a, b = map(escape_markdown, compared.names)
    lines = [f"**{escape_markdown(verdict_line(compared))}**", "", f"A: {a}, B: {b}"]
    for title, rows in row_blocks(compared):
        lines += ["", f"{escape_markdown(title)}:", "", markdown_row(HEAD),
                  markdown_row(("---", "---:", "---:", "---:", "---:", "---", "---"))]
        lines += [markdown_row(tuple(map(escape_markdown, row_entries(row)))) for row in rows]
    if compared.notes:
        lines += ["", *(f"* {escape_markdown(note)}" for note in compared.notes)]
    return "\n".join(lines)


def plain_rows(compared: StudyComparison) -> list[dict[str, Plain]]:
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


def verdict_line(compared: StudyComparison) -> str:
    """One line: what is worse in B, else what is better, else that nothing is."""
    if compared.worse:
        text = f"B is worse: {_verdict_words(compared.worse)}"
        return f"{text}; it is better elsewhere: {_verdict_words(compared.better)}" if (
            compared.better) else text
    if compared.better:
        return f"B is better: {_verdict_words(compared.better)}; nothing is worse beyond noise"
    if compared.blind and any(_apart(row) for row in compared.rows):
        return "too few trials to tell: there are differences, none of which they can prove"
    return "no difference beyond noise"


def _apart(row: ComparedRow) -> bool:
    """Whether a ratio's interval alone excludes 1, as that of a real difference would."""
    interval = row.measure.interval
    return (row.verdict == "cannot be told" and row.measure.kind == "ratio"
            and interval is not None and not interval.low <= 1 <= interval.high)


def _verdict_words(rows: Sequence[ComparedRow]) -> str:
    # What is counted exactly comes first: it is certain, and says most about the cause.
    ordered = sorted(rows, key=lambda row: row.measure.kind != "exact")
    parts = []
    for _, group in itertools.groupby(ordered[:_VERDICT_WORDS], lambda row: id(row.match)):
        told = list(group)
        parts.append(f"{_subject(told[0].match)} "
                     + units.listing([_row_sentence(row.measure) for row in told]))
    more = len(rows) - _VERDICT_WORDS
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def _subject(match: CellPair) -> str:
    return f"{match.second.label} on {match.first.suite.name} at N = {match.first.ranks}"


def _row_sentence(measure: Measure) -> str:
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


_KINDS = {"worse": "number missed", "better": "number best"}


def measures_table(rows: Sequence[ComparedRow], where: str) -> Table:
    """Every measure of every optimizer of one suite at one N.

    Args:
        rows: In the order of A's study.
        where: Names suite and N.
    """
    lines: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for row in rows:
        texts = row_entries(row)
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


def ratios_table(rows: Sequence[ComparedRow], where: str) -> Table:
    """What a figure of ratios is drawn from: rows of the same file, by one measure.

    Args:
        rows: Those of one measure.
        where: Names measure, suite and N.
    """
    return Table(
        "compared", f"Ratios, {where}", "B over A, with its 95 % interval.",
        (("Optimizer", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval")),
        tuple((_name(row), *_numbers(row)) for row in rows))


def provenance_table(first: Gathered, second: Gathered) -> Table:
    """Where the numbers of A and of B come from, what differs first."""
    sides = [
        {(card.title, key): value for card in provenance_cards(study) for key, value in card.items}
        for study in (first, second)
    ]
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


def _name(row: ComparedRow) -> Value:
    return name(row.match.second.label, suite=row.match.first.suite.name,
                ranks=row.match.first.ranks)


def _numbers(row: ComparedRow) -> tuple[Value, Value, Value]:
    """A, B, and the effect with its interval."""
    measure, texts = row.measure, row_entries(row)
    low, high = ((measure.interval.low, measure.interval.high) if measure.interval
                 else (math.nan, math.nan))
    return (
        number(texts[1], a=_finite_or_none(measure.values[0])),
        number(texts[2], b=_finite_or_none(measure.values[1])),
        Value(
            texts[3],
            texts[4] if texts[4] != units.NONE else "",
            {
                "effect": _finite_or_none(measure.effect),
                "low": _finite_or_none(low),
                "high": _finite_or_none(high),
            },
            _KINDS.get(row.verdict, "number"),
        ),
    )


def _finite_or_none(value: float) -> Plain:
    return value if math.isfinite(value) else None
