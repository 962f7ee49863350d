"""A comparison as text and tables: every measure, ratios, the verdict, where A and B come from."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.units import escape_markdown
from bench_apts.reports.data_origin import provenance_cards
from bench_apts.reports.table import Table, Value, finite, markdown_table, number, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.reports.compared_measures import Measure
    from bench_apts.reports.compared_studies import CellPair, ComparedRow, StudyComparison
    from bench_apts.reports.gather import Gathered

HEAD = ("measure", "A", "B", "B to A", "95 % interval", "trials", "verdict")

_NAMED = 3
"""Most rows that the verdict names."""

_LINES = 60
"""Most lines of the Markdown summary."""

_KINDS = {"worse": "number missed", "better": "number best"}


def row_entries(row: ComparedRow) -> tuple[str, ...]:
    """Return the row's texts in the order of ``HEAD``."""
    m = row.measure
    interval = (f"{_effect(m, m.interval.low)} to {_effect(m, m.interval.high)}"
                if m.interval and row.verdict not in ("equal", "neither hit") else units.NONE)
    texts = (m.name, *m.texts, _effect(m, m.effect), interval, m.basis, row.verdict)
    return tuple(text.replace(units.THIN, " ") for text in texts)


def row_blocks(compared: StudyComparison) -> Iterator[tuple[str, list[ComparedRow]]]:
    """Yield the rows of each pair of cells, with a title."""
    for _, group in itertools.groupby(compared.rows, lambda row: id(row.match)):
        rows = list(group)
        yield rows[0].match.where, rows


def comparison_markdown(compared: StudyComparison) -> str:
    """Write the whole comparison as Markdown, verdict first."""
    a, b = map(escape_markdown, compared.names)
    lines = [f"**{escape_markdown(verdict_line(compared))}**", "", f"A: {a}, B: {b}"]
    for title, rows in row_blocks(compared):
        lines += ["", f"{escape_markdown(title)}:", "", *markdown_table(
            HEAD, map(row_entries, rows), ("---", *["---:"] * 4, "---", "---"))]
    if compared.notes:
        lines += ["", *(f"* {escape_markdown(note)}" for note in compared.notes)]
    return "\n".join(lines)


def comparison_summary(compared: StudyComparison) -> str:
    """Write the verdict, what differs and the notes as Markdown, short enough for a comment."""
    verdict = verdict_line(compared)
    a, b = map(escape_markdown, compared.names)
    lines = [f"**{escape_markdown(units.capitalized(verdict))}**", "",
             f"A: {a}, B: {b}; {units.plural(len(compared.rows), 'comparison')}, "
             f"{len(compared.worse)} worse and {len(compared.better)} better in B.", ""]
    if differing := [*compared.worse, *compared.better]:
        lines += [*markdown_table(("optimizer", *HEAD), (
            (row.match.where, *row_entries(row)) for row in differing)), ""]
    lines += [f"* {escape_markdown(note)}" for note in compared.notes]
    if len(lines) > _LINES:
        lines = [*lines[:_LINES - 2], "", "… The rest stands in compared.html."]
    return "\n".join(lines) + "\n"


def verdict_line(compared: StudyComparison) -> str:
    """Say in one line what is worse in B, else what is better, else that nothing is."""
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
    for _, group in itertools.groupby(ordered[:_NAMED], lambda row: id(row.match)):
        named = list(group)
        parts.append(f"{_subject(named[0].match)} "
                     + units.listing([_row_sentence(row.measure) for row in named]))
    more = len(rows) - _NAMED
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
    """Format with three digits, or as many as it takes not to look like 1."""
    if value == 1 or not math.isfinite(value) or abs(value - 1) >= 0.005:
        return units.digits(value)
    return units.digits(value, 2 - math.floor(math.log10(abs(value - 1))))


def measures_table(rows: Sequence[ComparedRow], where: str = "") -> Table:
    """Return every measure of every optimizer, by default of all suites and N.

    Args:
        rows: In the order of A's study.
        where: Names suite and N.
    """
    lines: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for row in rows:
        *_, basis, verdict = row_entries(row)
        if id(row.match) != previous:
            breaks.add(len(lines))
            previous = id(row.match)
        name, a, b, effect = _opening(row)
        lines.append((
            name, words(row.measure.name, measure=row.measure.name, kind=row.measure.kind),
            a, b, effect, words(basis, trials=basis),
            words(verdict, f"p = {units.digits(row.adjusted, 2)}" if row.adjusted < 1 else "",
                  verdict=verdict)))
    return Table(
        "compared", f"A and B, {where}",
        "B to A: ratio of costs and counts, or difference of shares and accuracies, with its 95 % "
        "interval. Worse or better: by the rule of docs/statistics.md, with all comparisons of "
        "the page as one family.",
        (("Optimizer", ""), ("Measure", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval"),
         ("Trials", ""), ("Verdict", "of B")), tuple(lines), frozenset(breaks))


def ratios_table(rows: Sequence[ComparedRow], where: str) -> Table:
    """Return what a figure of ratios is drawn from: rows of the same file, by one measure.

    Args:
        rows: Those of one measure.
        where: Names measure, suite and N.
    """
    return Table(
        "compared", f"Ratios, {where}", "B over A, with its 95 % interval.",
        (("Optimizer", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval")),
        tuple(map(_opening, rows)))


def _opening(row: ComparedRow) -> tuple[Value, Value, Value, Value]:
    """Return the optimizer, A, B, and the effect with its interval."""
    first, second, measure = row.match.first, row.match.second, row.measure
    _, a, b, effect, interval, *_ = row_entries(row)
    low, high = measure.interval or (None, None)
    return (
        Value(second.label, kind="name", label=second.label, numbers={
            "suite": first.suite.name, "ranks": first.ranks, "optimizer_a": first.label,
            "optimizer_b": second.label}),
        number(a, a=finite(measure.values[0])), number(b, b=finite(measure.values[1])),
        Value(effect, "" if interval == units.NONE else interval, {
            "effect": finite(measure.effect), "low": finite(low), "high": finite(high),
            "p": measure.p, "p_holm": row.adjusted, "noise": finite(measure.noise)},
            _KINDS.get(row.verdict, "number")))


def provenance_table(first: Gathered, second: Gathered) -> Table:
    """Return where the numbers of A and of B come from, what differs first."""
    one, two = ({(card.title, key): value for card in provenance_cards(study)
                 for key, value in card.items} for study in (first, second))
    keys = sorted(dict.fromkeys((*one, *two)), key=lambda key: one.get(key) == two.get(key))
    return Table(
        "compared-provenance", "Where A and B come from", "What differs stands first.",
        (("What", ""), ("A", ""), ("B", ""), ("A and B", "")),
        tuple(_origin(key, one.get(key), two.get(key)) for key in keys))


def _origin(key: tuple[str, str], one: str | None, two: str | None) -> tuple[Value, ...]:
    group, what = key
    same = one == two
    return (Value(what, kind="name", numbers={"group": group, "what": what}),
            Value(one or units.NONE, numbers={"a": one or ""}, kind="long"),
            Value(two or units.NONE, numbers={"b": two or ""}, kind="long"),
            words("equal" if same else "differ", equal=same))
