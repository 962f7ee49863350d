"""A finished gate in words: one line, and Markdown for a pull request."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.units import escape_markdown, markdown_row
from bench_apts.regress.gate_findings import MIN_SEEDS

if TYPE_CHECKING:
    from bench_apts.regress.gate_findings import (
        CountChange,
        GateFinding,
        GateResult,
        QualityChange,
        Timing,
    )

_HEAD = ("optimizer", "course", "counts", "quality", "training time", "95 % interval", "A/A",
         "CPU time", "95 % interval", "A/A", "verdict")

_MAX_LINES = 60
_MAX_NAMED = 12  # regressions that are spelt out


def gate_verdict(judged: GateResult) -> str:
    """Say in a line what head is worse in, what could not be told, or that nothing is worse."""
    if judged.crashed:
        return f"regression: {judged.crashed}"
    worse = [text for finding in judged.findings for text in describe_regressions(finding)]
    if worse:
        more = f"; and {len(worse) - 3} more" if len(worse) > 3 else ""
        return f"regression: {'; '.join(worse[:3])}{more}"
    doubts = [text for finding in judged.findings for text in _doubts(finding)]
    if doubts:
        more = f"; and {len(doubts) - 1} more" if len(doubts) > 1 else ""
        return f"cannot tell: {doubts[0]}{more}"
    better = [text for finding in judged.findings for text in _gains(finding)]
    return "no regression" + (f"; better: {'; '.join(better[:3])}" if better else "")


def describe_regressions(finding: GateFinding) -> list[str]:
    """Say what head is worse in, each with the numbers of both."""
    where = finding.cell.where
    found = [f"{where} fails ({finding.failed})"] if finding.failed else []
    found += [f"{where} {_growth_text(count)}" for count in finding.grown]
    if finding.lost:
        found.append(f"{where} ends {_quality_text(finding.lost)}")
    return found + [f"{where} takes {units.digits(t.slowdown.ratio)} times the {t.clock} "
                    f"({_interval(t)}, A/A up to {units.digits(t.slowdown.noise)})"
                    for t in finding.slower]


def gate_markdown(judged: GateResult) -> str:
    """Return everything that was found, in at most 60 lines."""
    lines = [f"**{escape_markdown(gate_verdict(judged))}**", "",
             escape_markdown(f"base: {judged.base}, head: {judged.head}"), ""]
    worse = [text for finding in judged.findings for text in describe_regressions(finding)]
    lines += [f"* {escape_markdown(text)}" for text in worse[:_MAX_NAMED]]
    lines += [f"* and {len(worse) - _MAX_NAMED} more"] if len(worse) > _MAX_NAMED else []
    notes = [f"* {escape_markdown(note)}" for note in (
        *judged.notes, *_quality_explained(judged), *_explained(judged))]
    if judged.findings:
        table = [markdown_row(_HEAD), markdown_row(("---",) * len(_HEAD))]
        room = _MAX_LINES - len(lines) - len(table) - len(notes) - 4
        # What is worse or unclear first; the rest in the order of the study.
        ordered = sorted(judged.findings, key=lambda f: (not f.regressed, not f.unclear))
        table += [markdown_row(tuple(map(escape_markdown, _row(f)))) for f in ordered[:room]]
        lines += ["", *table]
        if len(ordered) > room:
            lines += ["", f"{len(ordered) - room} more are not shown, none worse than these"]
    return "\n".join([*lines, "", *notes]).rstrip()


def _row(finding: GateFinding) -> tuple[str, ...]:
    timed = []
    for clock in ("training time", "CPU time"):
        timing = next((t for t in finding.timings if t.clock == clock), None)
        timed += [units.NONE] * 3 if timing is None else [
            units.digits(timing.slowdown.ratio), _interval(timing),
            f"up to {units.digits(timing.slowdown.noise)}"]
    verdict = ("worse" if finding.regressed else "cannot tell" if finding.unclear
               else "better" if _gains(finding) else "not worse")
    return (finding.cell.where, finding.course or units.NONE, _counted(finding),
            _quality_cell(finding), *timed, verdict)


def _quality_cell(finding: GateFinding) -> str:
    if finding.course in ("bit-identical", "equal"):
        return "equal"
    if finding.quality is None:
        return units.NONE
    change = finding.quality.difference
    low, high = change.interval or (change.value, change.value)
    return f"{change.value:+.3g} ({low:+.3g} to {high:+.3g})"


def _quality_text(quality: QualityChange) -> str:
    low, high = quality.difference.interval or (math.nan, math.nan)
    return (f"at a validation {units.metric_title(quality.metric)} of "
            f"{units.digits(statistics.fmean(quality.head))} instead of "
            f"{units.digits(statistics.fmean(quality.base))} (difference {low:+.3g} to "
            f"{high:+.3g}, {len(quality.base)} seeds)")


def _counted(finding: GateFinding) -> str:
    if not finding.counts:
        return units.NONE
    if finding.grown:
        return f"{len(finding.grown)} of {len(finding.counts)} worse"
    if finding.open:
        return f"{len(finding.open)} of {len(finding.counts)} larger"
    better = [count.name for count in finding.counts if count.better]
    if better:
        return f"fewer {units.listing(better)}"
    return ("equal" if all(count.base == count.head for count in finding.counts)
            else "as far apart as seeds")


def _growth_text(count: CountChange) -> str:
    """Name both numbers; of several seeds those that are furthest apart."""
    def growth(pair: tuple[float, float]) -> float:
        before, after = pair
        if math.isinf(before):
            return 0.0
        return after / before if before else math.inf if after else 1.0

    def number(value: float) -> str:
        if math.isinf(value):
            return "no end of"
        return units.trim(units.digits(value, 6 if "target" in count.name else 5))

    before, after = max(zip(count.base, count.head, strict=True), key=growth)
    if math.isinf(after):
        return f"misses the target, which base reaches ({number(before)} {count.name})"
    per = "" if count.name.endswith("target") else " per global batch"
    return f"needs {number(after)} {count.name}{per} instead of {number(before)}"


def _doubts(finding: GateFinding) -> list[str]:
    where = finding.cell.where
    if finding.unjudged:
        return [f"{where}: {finding.unjudged}"]
    found = [f"{where} {_growth_text(count)}, on another course: it takes {MIN_SEEDS} seeds to "
             "tell whether that is chance" for count in finding.open]
    return found + [f"{where} takes {units.digits(t.slowdown.ratio)} times the {t.clock}, which "
                    f"{t.slowdown.pairs} pairs do not show ({_interval(t)}); use a quieter "
                    "machine, or more --pairs" for t in finding.timings if t.unclear]


def _gains(finding: GateFinding) -> list[str]:
    found = [f"{finding.cell.where} needs fewer {count.name}" for count in finding.counts
             if count.better]
    return found + [f"{finding.cell.where} takes {units.digits(t.slowdown.ratio)} times the "
                    f"{t.clock}" for t in finding.timings if t.slowdown.verdict == "faster"]


def _quality_explained(judged: GateResult) -> list[str]:
    if not any(f.quality for f in judged.findings):
        return []
    seeds = max(len(f.quality.base) for f in judged.findings if f.quality)
    return ["quality is head's metric at the end of the budget less base's, with its 95 % "
            f"interval, of {seeds} pairs of equal seeds; worse is what the interval and the "
            f"exchange of labels show, beyond {judged.findings[0].tolerated:.1%} of base's"]


def _explained(judged: GateResult) -> list[str]:
    timed = [t.slowdown for f in judged.findings for t in f.timings]
    if not timed:
        return []
    few, many = min(s.pairs for s in timed), max(s.pairs for s in timed)
    pairs = f"{few} pairs" if few == many else f"{few} to {many} pairs"
    factor = units.digits(judged.findings[0].factor)
    blind = units.digits(max(max(s.interval.high, s.noise) for s in timed))
    return [f"times are head over base, of {pairs}; worse is what lies above {factor}, above 1 "
            "with its interval, and beyond what equal code (A/A) scattered in the same runs",
            f"the least certain of these times leaves room for a factor of {blind}"]


def _interval(timing: Timing) -> str:
    low, high = timing.slowdown.interval
    return f"{units.digits(low)} to {units.digits(high)}"
