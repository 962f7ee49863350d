"""A finished gate in words: one line, and Markdown for a pull request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.units import escape_markdown, markdown_row
from bench_apts.regress.gate_findings import LEAST_SEEDS

if TYPE_CHECKING:
    from bench_apts.regress.gate_findings import CountChange, GateFinding, GateResult, Timing

_HEAD = ("optimizer", "course", "counts", "training time", "95 % interval", "A/A", "CPU time",
         "95 % interval", "A/A", "verdict")

_MAX_LINES = 60
_MAX_NAMED = 12  # regressions that are spelt out


def gate_verdict(judged: GateResult) -> str:
    """One line: what head is worse in, what could not be told, or that nothing is worse."""
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
    """Says what head is worse in, each with the numbers of both."""
    where = finding.cell.where
    found = [f"{where} fails ({finding.failed})"] if finding.failed else []
    found += [f"{where} {_grew(count)}" for count in finding.grown]
    return found + [f"{where} takes {_ratio(t.slowdown.ratio)} times the {t.clock} "
                    f"({_interval(t)}, A/A up to {_ratio(t.slowdown.noise)})"
                    for t in finding.slower]


def gate_markdown(judged: GateResult) -> str:
    """Everything that was found, in at most 60 lines."""
    lines = [f"**{escape_markdown(gate_verdict(judged))}**", "",
             escape_markdown(f"base: {judged.base}, head: {judged.head}"), ""]
    worse = [text for finding in judged.findings for text in describe_regressions(finding)]
    lines += [f"* {escape_markdown(text)}" for text in worse[:_MAX_NAMED]]
    lines += [f"* and {len(worse) - _MAX_NAMED} more"] if len(worse) > _MAX_NAMED else []
    notes = [f"* {escape_markdown(note)}" for note in (*judged.notes, *_explained(judged))]
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
    by_clock = {t.clock: t for t in finding.timings}
    return (finding.cell.where, finding.course or units.NONE, _counted(finding),
            *_timed(by_clock.get("training time")), *_timed(by_clock.get("CPU time")),
            _word(finding))


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


def _timed(timing: Timing | None) -> tuple[str, str, str]:
    if timing is None:
        return units.NONE, units.NONE, units.NONE
    return (_ratio(timing.slowdown.ratio), _interval(timing),
            f"up to {_ratio(timing.slowdown.noise)}")


def _word(finding: GateFinding) -> str:
    if finding.regressed:
        return "worse"
    if finding.unclear:
        return "cannot tell"
    return "better" if _gains(finding) else "not worse"


def _grew(count: CountChange) -> str:
    """Names both numbers; of several seeds those that are furthest apart."""
    pairs = zip(count.base, count.head, strict=True)
    before, after = max(pairs, key=lambda pair: _growth(*pair))
    if math.isinf(after):
        return f"misses the target, which base reaches ({_number(count, before)} {count.name})"
    per = "" if count.name.endswith("target") else " per global batch"
    return f"needs {_number(count, after)} {count.name}{per} instead of {_number(count, before)}"


def _growth(before: float, after: float) -> float:
    if math.isinf(before):
        return 0.0
    return after / before if before else math.inf if after else 1.0


def _number(count: CountChange, value: float) -> str:
    if math.isinf(value):
        return "no end of"
    return units.trim(units.digits(value, 6 if "target" in count.name else 5))


def _doubts(finding: GateFinding) -> list[str]:
    if finding.unjudged:
        return [f"{finding.cell.where}: {finding.unjudged}"]
    found = [f"{finding.cell.where} {_grew(count)}, on another course: it takes {LEAST_SEEDS} "
             "seeds to tell whether that is chance" for count in finding.open]
    return found + [f"{finding.cell.where} takes {_ratio(t.slowdown.ratio)} times the {t.clock}, "
                    f"which {t.slowdown.pairs} pairs do not show ({_interval(t)}); use a quieter "
                    "machine, or more --pairs" for t in finding.timings if t.unclear]


def _gains(finding: GateFinding) -> list[str]:
    found = [f"{finding.cell.where} needs fewer {count.name}" for count in finding.counts
             if count.better]
    return found + [f"{finding.cell.where} takes {_ratio(t.slowdown.ratio)} times the {t.clock}"
                    for t in finding.timings if t.slowdown.verdict == "faster"]


def _explained(judged: GateResult) -> list[str]:
    timed = [t.slowdown for f in judged.findings for t in f.timings]
    if not timed:
        return []
    factor = judged.findings[0].factor
    blind = max(max(s.interval.high, s.noise) for s in timed)
    return [f"times are head over base, of {_pairs([s.pairs for s in timed])}; worse is what lies "
            f"above {_ratio(factor)}, above 1 with its interval, and beyond what equal code (A/A) "
            "scattered in the same runs",
            f"the least certain of these times leaves room for a factor of {_ratio(blind)}"]


def _pairs(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low} pairs" if low == high else f"{low} to {high} pairs"


def _interval(timing: Timing) -> str:
    low, high = timing.slowdown.interval
    return f"{_ratio(low)} to {_ratio(high)}"


def _ratio(value: float) -> str:
    return units.digits(value)
