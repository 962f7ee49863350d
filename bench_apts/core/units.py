"""Numbers as people read them, with three significant digits and a unit that fits; Markdown."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import UNSET

from bench_apts.core.spec import NO_LIMIT_SAMPLES, NO_LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.spec import Budget, Target

THIN = "\u202f"
"""The narrow no-break space that stands between a number and its unit."""

NONE = "–"
"""What a table shows where there is no number."""

_TIME = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_COUNT = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float, significant: int = 3) -> str:
    """Return ``value`` with that many significant digits, never in exponent form."""
    if not math.isfinite(value):
        return "∞" if value > 0 else NONE
    if value == 0:
        return "0"
    places = significant - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(places, 0)}f}"


def trim(text: str) -> str:
    """Drop trailing zeros, for numbers that are exact: ``2.00 min`` becomes ``2 min``."""
    return re.sub(r"(\d)(?:\.0+|(\.\d*?[1-9])0+)(?!\d)", r"\1\2", text)


def _scaled(value: float, scale: Sequence[tuple[float, str]], prefix: str = "") -> str:
    if not math.isfinite(value):
        return "∞"
    factor, unit = next((step for step in scale if abs(value) >= step[0]), scale[-1])
    return f"{digits(value / factor)}{THIN}{prefix}{unit}"


def format_seconds(value: float) -> str:
    """Format seconds as µs, ms, s, min or h."""
    return f"0{THIN}s" if value == 0 else _scaled(value, _TIME)


def format_long_seconds(value: float, prefix: str = "") -> str:
    """Format a processor's seconds as s, min or h, the unit after ``prefix``: ``core-s``."""
    # Core-milliseconds are not a customary unit.
    return f"0{THIN}{prefix}s" if value == 0 else _scaled(value, _TIME[:3], prefix)


def format_size(value: float) -> str:
    """Format bytes in decimal units (1 kB = 1,000 bytes)."""
    return f"0{THIN}B" if value == 0 else _scaled(value, _BYTES)


def format_count(value: float) -> str:
    """Format a count: whole up to 9,999, then as k, M, G, T or P."""
    if not math.isfinite(value):
        return "∞"
    if abs(value) < 10_000:
        return f"{value:,.0f}" if float(value).is_integer() else digits(value)
    return _scaled(value, _COUNT)


def format_percent(value: float, places: int = 1) -> str:
    """Format a share of one in percent."""
    return f"{100 * value:.{places}f}{THIN}%" if math.isfinite(value) else NONE


def is_share(target: Target, name: str) -> bool:
    """Say whether a metric is a share of one, shown in percent: an accuracy, or of the unit %."""
    unit = target.unit if name == target.metric else UNSET
    return unit == "%" or (unit is UNSET and name == "accuracy")


def metric_unit(target: Target, name: str) -> str:
    """Return a metric's unit as it follows a number or a name; "" for none, and for shares."""
    if name != target.metric or not target.unit or is_share(target, name):
        return ""
    return target.unit


def metric_title(name: str) -> str:
    """Return a metric's name as it is read, for instance ``nats per token``."""
    return name.replace("_", " ")


def format_metric(target: Target, name: str, value: float) -> str:
    """Format a metric: a share in percent, others with three digits and their unit.

    Args:
        target: The suite's, which holds the unit of its metric.
        name: The metric.
        value: Its value.
    """
    if is_share(target, name):
        return format_percent(value, 2)
    unit = metric_unit(target, name)
    return f"{digits(value)}{THIN}{unit}" if unit and math.isfinite(value) else digits(value)


def format_goal(target: Target, level: float = 1.0) -> str:
    """Say what a target asks for, for instance ``accuracy of at least 94 %``."""
    bound = "at least" if target.direction == "max" else "at most"
    value = target.threshold(level)
    unit = "%" if is_share(target, target.metric) else metric_unit(target, target.metric)
    shown = trim(digits(100 * value if unit == "%" else value))
    shown += f"{THIN}{unit}" if unit else ""
    return f"{target.split} {metric_title(target.metric)} of {bound} {shown}"


def format_budget(budget: Budget) -> str:
    """Say where a trial ends, for instance ``56 k samples or 2 min``.

    ``not stated in the logs`` where nothing is limited, as of imported trials.
    """
    parts = []
    if budget.samples < NO_LIMIT_SAMPLES:
        parts.append(f"{trim(format_count(budget.samples))} samples")
    if budget.seconds < NO_LIMIT_SECONDS:
        parts.append(trim(format_seconds(budget.seconds)))
    return " or ".join(parts) or "not stated in the logs"


def times(ratio: float) -> str:
    """Format a ratio for a sentence, for instance ``1.84 times``."""
    return f"{digits(ratio)} times"


def unit_of(device: str) -> str:
    """Return what one processor is called: ``core`` on CPUs, ``GPU`` on CUDA."""
    return "GPU" if device == "cuda" else "core"


def between(low: str, high: str) -> str:
    """Join two formatted numbers as ``1.2 to 3.4 s``, naming a common unit once."""
    number, _, unit = low.partition(THIN)
    return f"{number if unit and high.endswith(THIN + unit) else low} to {high}"


def plural(number: int, noun: str) -> str:
    """Return ``1 trial``, ``2 trials``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def capitalized(text: str) -> str:
    """Begin a text with a capital letter; all others stay as they are."""
    return f"{text[:1].upper()}{text[1:]}"


def listing(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def escape_markdown(text: str) -> str:
    """Take from Markdown what it would read as markup."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)


def markdown_row(texts: Sequence[str]) -> str:
    """Return a row of a table; the texts are Markdown already."""
    return f"| {' | '.join(texts)} |"
